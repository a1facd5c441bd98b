"""Models of volumes, text, waves, tables and diffusion, by library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hydraplan.tools.libraries.entry import Entry, entry_of
from hydraplan.tools.libraries.samples import (
    LENGTH,
    SIDE,
    TOKENS,
    WIDTH,
    features,
    image,
    images_of,
    noisy,
    sequence,
    signal,
    table,
    text_and_image,
    tokens,
    volume,
    wave,
)


class _Tagger(nn.Module):
    def __init__(self, crf: nn.Module) -> None:
        super().__init__()
        self.emit, self.crf = nn.Linear(WIDTH, 4), crf

    def forward(self, x: Tensor) -> Any:
        return -self.crf(self.emit(x), torch.zeros(x.shape[:2], dtype=torch.long))


ENTRIES: tuple[Entry, ...] = (
    entry_of(
        "x-transformers",
        "decoder",
        "x_transformers",
        lambda x: x.TransformerWrapper(
            num_tokens=TOKENS, max_seq_len=LENGTH, attn_layers=x.Decoder(dim=WIDTH, depth=2, heads=2)
        ),
        tokens,
    ),
    entry_of(
        "x-transformers",
        "rotary_swiglu",
        "x_transformers",
        lambda x: x.TransformerWrapper(
            num_tokens=TOKENS,
            max_seq_len=LENGTH,
            attn_layers=x.Decoder(
                dim=32, depth=2, heads=2, rotary_pos_emb=True, ff_swish=True, ff_glu=True, use_rmsnorm=True
            ),
        ),
        tokens,
    ),
    entry_of(
        "x-transformers",
        "alibi_gqa",
        "x_transformers",
        lambda x: x.TransformerWrapper(
            num_tokens=TOKENS,
            max_seq_len=LENGTH,
            attn_layers=x.Decoder(dim=32, depth=2, heads=4, alibi_pos_bias=True, attn_kv_heads=2),
        ),
        tokens,
    ),
    entry_of(
        "x-transformers",
        "encoder_relative",
        "x_transformers",
        lambda x: x.TransformerWrapper(
            num_tokens=TOKENS, max_seq_len=LENGTH, attn_layers=x.Encoder(dim=32, depth=2, heads=4, rel_pos_bias=True)
        ),
        tokens,
    ),
    entry_of(
        "x-transformers",
        "continuous",
        "x_transformers",
        lambda x: x.ContinuousTransformerWrapper(
            dim_in=WIDTH, dim_out=4, max_seq_len=LENGTH, attn_layers=x.Encoder(dim=32, depth=2, heads=4)
        ),
        sequence,
    ),
    entry_of(
        "monai",
        "unet",
        "monai.networks.nets",
        lambda n: n.UNet(
            spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1
        ),
        volume,
    ),
    entry_of(
        "monai",
        "segresnet",
        "monai.networks.nets",
        lambda n: n.SegResNet(
            spatial_dims=3, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,)
        ),
        volume,
    ),
    entry_of(
        "monai",
        "densenet",
        "monai.networks.nets",
        lambda n: n.DenseNet(
            spatial_dims=3, in_channels=1, out_channels=2, init_features=8, growth_rate=4, block_config=(2, 2)
        ),
        volume,
    ),
    entry_of(
        "monai",
        "attention_unet",
        "monai.networks.nets",
        lambda n: n.AttentionUnet(spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,)),
        volume,
    ),
    entry_of(
        "monai",
        "unetr",
        "monai.networks.nets",
        lambda n: n.UNETR(
            in_channels=1,
            out_channels=2,
            img_size=(32, 32),
            feature_size=8,
            hidden_size=24,
            mlp_dim=32,
            num_heads=2,
            spatial_dims=2,
        ),
        images_of(SIDE, 1),
    ),
    entry_of(
        "efficientnet-pytorch",
        "b0",
        "efficientnet_pytorch",
        lambda e: e.EfficientNet.from_name("efficientnet-b0", num_classes=5),
        image,
    ),
    entry_of(
        "segment-anything",
        "image_encoder",
        "segment_anything.modeling.image_encoder",
        lambda s: s.ImageEncoderViT(
            img_size=64,
            patch_size=16,
            embed_dim=WIDTH,
            depth=2,
            num_heads=2,
            out_chans=8,
            window_size=2,
            use_rel_pos=True,
            global_attn_indexes=(1,),
        ),
        images_of(64),
    ),
    entry_of(
        "open-clip",
        "clip",
        "open_clip.model",
        lambda o: o.CLIP(
            embed_dim=WIDTH,
            vision_cfg=o.CLIPVisionCfg(layers=2, width=32, head_width=16, image_size=SIDE, patch_size=8),
            text_cfg=o.CLIPTextCfg(context_length=LENGTH, vocab_size=TOKENS, width=32, heads=2, layers=2),
        ),
        text_and_image,
    ),
    entry_of(
        "diffusers",
        "unet2d",
        "diffusers",
        lambda d: d.UNet2DModel(
            sample_size=SIDE,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
        ),
        noisy,
    ),
    entry_of(
        "diffusers",
        "autoencoder",
        "diffusers",
        lambda d: d.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=2,
        ),
        image,
    ),
    entry_of(
        "performer-pytorch",
        "lm",
        "performer_pytorch",
        lambda p: p.PerformerLM(
            num_tokens=TOKENS, max_seq_len=LENGTH, dim=32, depth=1, heads=2, dim_head=16, causal=False
        ),
        tokens,
    ),
    entry_of(
        "linformer",
        "lm",
        "linformer",
        lambda m: m.LinformerLM(num_tokens=TOKENS, dim=32, seq_len=LENGTH, depth=2, heads=2, k=8),
        tokens,
    ),
    entry_of(
        "nystrom-attention",
        "nystromformer",
        "nystrom_attention",
        lambda m: m.Nystromformer(dim=WIDTH, dim_head=8, heads=2, depth=2, num_landmarks=8, pinv_iterations=2),
        sequence,
    ),
    entry_of(
        "conformer",
        "conformer",
        "conformer",
        lambda m: m.Conformer(
            dim=WIDTH, depth=2, dim_head=8, heads=2, ff_mult=2, conv_expansion_factor=2, conv_kernel_size=7
        ),
        sequence,
    ),
    entry_of(
        "local-attention",
        "transformer",
        "local_attention",
        lambda m: m.LocalTransformer(
            num_tokens=TOKENS,
            dim=32,
            depth=2,
            max_seq_len=LENGTH,
            local_attn_window_size=8,
            heads=2,
            dim_head=16,
            causal=True,
        ),
        tokens,
    ),
    entry_of(
        "linear-attention",
        "transformer",
        "linear_attention_transformer",
        lambda m: m.LinearAttentionTransformerLM(
            num_tokens=TOKENS, dim=32, heads=2, depth=2, max_seq_len=LENGTH, causal=False
        ),
        tokens,
    ),
    entry_of(
        "rtdl",
        "mlp",
        "rtdl_revisiting_models",
        lambda r: r.MLP(d_in=WIDTH, d_out=2, n_blocks=2, d_block=32, dropout=0.0),
        features,
    ),
    entry_of(
        "rtdl",
        "resnet",
        "rtdl_revisiting_models",
        lambda r: r.ResNet(
            d_in=WIDTH,
            d_out=2,
            n_blocks=2,
            d_block=16,
            d_hidden=None,
            d_hidden_multiplier=2.0,
            dropout1=0.0,
            dropout2=0.0,
        ),
        features,
    ),
    entry_of(
        "rtdl",
        "ft_transformer",
        "rtdl_revisiting_models",
        lambda r: r.FTTransformer(
            n_cont_features=4,
            cat_cardinalities=[3, 3],
            d_out=2,
            n_blocks=2,
            d_block=16,
            attention_n_heads=2,
            attention_dropout=0.0,
            ffn_d_hidden=None,
            ffn_d_hidden_multiplier=2.0,
            ffn_dropout=0.0,
            residual_dropout=0.0,
        ),
        table,
    ),
    entry_of("pytorch-tcn", "tcn", "pytorch_tcn", lambda m: m.TCN(WIDTH, [8, 8], dropout=0.0), signal),
    entry_of(
        "siren",
        "siren",
        "siren_pytorch",
        lambda m: m.SirenNet(dim_in=WIDTH, dim_hidden=32, dim_out=3, num_layers=3),
        features,
    ),
    entry_of("kornia", "hardnet", "kornia.feature", lambda k: k.HardNet(pretrained=False), images_of(SIDE, 1)),
    entry_of(
        "tabnet",
        "tabnet",
        "pytorch_tabnet.tab_network",
        lambda m: m.TabNetNoEmbeddings(
            input_dim=WIDTH, output_dim=2, n_d=8, n_a=8, n_steps=2, group_attention_matrix=torch.eye(WIDTH)
        ),
        features,
    ),
    entry_of(
        "asteroid-filterbanks",
        "free",
        "asteroid_filterbanks",
        lambda m: m.Encoder(m.FreeFB(n_filters=16, kernel_size=32, stride=16)),
        wave,
    ),
    entry_of(
        "snntorch",
        "leaky",
        "snntorch",
        lambda s: nn.Sequential(nn.Linear(WIDTH, 32), s.Leaky(beta=0.9, init_hidden=True), nn.Linear(32, 4)),
        features,
    ),
    entry_of(
        "vector-quantize",
        "vq",
        "vector_quantize_pytorch",
        lambda m: m.VectorQuantize(dim=WIDTH, codebook_size=8, ema_update=False, learnable_codebook=True),
        sequence,
    ),
    entry_of(
        "vector-quantize", "fsq", "vector_quantize_pytorch", lambda m: m.FSQ(levels=[4, 4, 4], dim=WIDTH), sequence
    ),
    entry_of("torchcrf", "crf", "torchcrf", lambda m: _Tagger(m.CRF(4, batch_first=True)), sequence),
    entry_of(
        "denoising-diffusion",
        "unet",
        "denoising_diffusion_pytorch",
        lambda m: m.Unet(dim=8, dim_mults=(1, 2), flash_attn=False),
        noisy,
    ),
)
