"""Models of images, by library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hydraplan.tools.libraries.entry import Entry, entry_of
from hydraplan.tools.libraries.samples import SIDE, WIDTH, Sample, image, images_of


def _timm(name: str, **arguments: Any) -> Entry:
    return Entry(
        name=f"timm/{name}",
        package="timm",
        make=lambda timm: timm.create_model(name, pretrained=False, num_classes=5, **arguments),
        sample=images_of(arguments.get("img_size", SIDE)),
    )


def _torchvision(name: str, side: int = SIDE, **arguments: Any) -> Entry:
    return Entry(
        name=f"torchvision/{name}",
        package="torchvision.models",
        make=lambda models: getattr(models, name)(weights=None, num_classes=5, **arguments),
        sample=images_of(side),
    )


def _smp(name: str) -> Entry:
    return entry_of(
        "segmentation-models",
        name,
        "segmentation_models_pytorch",
        lambda smp: getattr(smp, name)("resnet18", encoder_weights=None, classes=2),
        images_of(64),
    )


def _vit(name: str, module: str, make: Callable[[Any], nn.Module], sample: Sample = image) -> Entry:
    return entry_of("vit-pytorch", name, f"vit_pytorch.{module}", make, sample)


VIT: Mapping[str, Any] = dict(image_size=SIDE, patch_size=8, num_classes=5, dim=WIDTH, depth=2, heads=2, mlp_dim=32)

ENTRIES: tuple[Entry, ...] = (
    _timm("convnext_atto"),
    _timm("efficientnet_b0"),
    _timm("vit_tiny_patch16_224", img_size=SIDE, depth=2),
    _timm("swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1, 1, 1), embed_dim=24, num_heads=(1, 2, 2, 2)),
    _timm("resnet18"),
    _timm("mobilenetv3_small_050"),
    _timm("regnetx_002"),
    _timm("densenet121", growth_rate=4, block_config=(2, 2, 2, 2)),
    _timm("ghostnet_050"),
    _timm("levit_128s", img_size=64),
    _timm("poolformer_s12"),
    _torchvision("resnet18"),
    _torchvision("mobilenet_v2"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("squeezenet1_1", side=64),
    _torchvision("mnasnet0_5"),
    _torchvision("regnet_y_400mf"),
    _torchvision("efficientnet_b0"),
    _torchvision("convnext_tiny"),
    _torchvision("swin_t"),
    _smp("Unet"),
    _smp("FPN"),
    _smp("PSPNet"),
    _smp("DeepLabV3Plus"),
    _smp("Linknet"),
    _smp("MAnet"),
    _vit("vit", "vit", lambda m: m.ViT(**VIT)),
    _vit("simple_vit", "simple_vit", lambda m: m.SimpleViT(**VIT)),
    _vit("deepvit", "deepvit", lambda m: m.DeepViT(**VIT)),
    _vit("cait", "cait", lambda m: m.CaiT(**VIT, cls_depth=1)),
    _vit("cct", "cct", lambda m: m.CCT(img_size=SIDE, embedding_dim=WIDTH, num_layers=2, num_heads=2, num_classes=5)),
    _vit(
        "regionvit",
        "regionvit",
        lambda m: m.RegionViT(dim=(8, 16, 16, 16), depth=(1, 1, 1, 1), num_classes=5),
        images_of(224),
    ),
)
