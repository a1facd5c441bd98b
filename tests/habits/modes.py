"""Modes, contexts and global flags that a forward enters or sets: honoured to the bit, or refused at their line."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from habits.harness import WIDTH, Trunk, habit
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def attended(h: Tensor) -> Tensor:
    # The first operators that run under a kernel's flags: habit lines too.
    split = h.view(1, -1, 4, 8).transpose(1, 2)  # habit: FlashSwitchedOff KernelOfASubmodule
    return F.scaled_dot_product_attention(split, split, split).transpose(1, 2).reshape(-1, WIDTH)


class Attending(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return attended(h)


class Detached(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + torch.tanh(self.hidden(h)).detach()


# -- grad modes -----------------------------------------------------------------------------------------


@habit("grad modes", "either", "Detached", microbatches=2)
class NoGradStatement(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():  # habit
            target = torch.tanh(self.hidden(h))  # habit
        return h + target


@habit("grad modes", "either", "Detached")
class NoGradDecorator(Trunk):
    @torch.no_grad()  # habit
    def teacher(self, h: Tensor) -> Tensor:
        return torch.tanh(self.hidden(h))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.teacher(h)  # habit


@habit("grad modes", "either", "Detached")
class InferenceModeDecorator(Trunk):
    @torch.inference_mode()  # habit
    def teacher(self, h: Tensor) -> Tensor:
        return torch.tanh(self.hidden(h))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.teacher(h).clone()  # habit


@habit("grad modes", "either", "Detached")
class InferenceModeStatement(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.inference_mode():  # habit
            target = torch.tanh(self.hidden(h))  # habit
        return h + target.clone()  # habit


@habit("grad modes", "either", "Detached")
class SwitchedByCalls(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.set_grad_enabled(False)  # habit
        target = torch.tanh(self.hidden(h))  # habit
        torch.set_grad_enabled(True)  # habit
        return h + target


@habit("grad modes", "either", "Detached")
class SwitchedByFlag(Trunk):
    """As of segmentation and detection heads: `with torch.set_grad_enabled(self.training and ...)`."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.training):  # habit
            target = torch.tanh(self.hidden(h))  # habit
        return h + target


@habit("grad modes", "either", "Trunk")
class GradInsideOfNoGrad(Trunk):
    """DEQ: the fixed point without gradient, one more pass with it."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():  # habit
            z = torch.tanh(self.hidden(h))  # habit
            z = torch.tanh(self.hidden(z) + h)  # habit
            with torch.enable_grad():  # habit
                z = torch.tanh(self.hidden(z) + h)  # habit
        return z


@habit("grad modes", "either", "Detached")
class NoGradInAStack(Trunk):
    """The context is chosen at run time."""

    def middle(self, h: Tensor) -> Tensor:
        with contextlib.ExitStack() as stack:
            if self.training:
                stack.enter_context(torch.no_grad())  # habit
            target = torch.tanh(self.hidden(h))  # habit
        return h + target


@habit("grad modes", "either", "Trunk", loss="distils")
class NoGradInTheLoss(Trunk):
    pass


def distils(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["x"])
    with torch.no_grad():  # habit: NoGradInTheLoss
        weight = (1 - logits.softmax(-1).gather(1, batch["y"][:, None])[:, 0]) ** 2  # habit: NoGradInTheLoss
    return (weight * F.cross_entropy(logits, batch["y"], reduction="none")).mean()


# -- which kernel computes ------------------------------------------------------------------------------


@habit("attention kernels", "either", "Attending", microbatches=2)
class MathKernelStatement(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # habit
            return attended(h)  # habit


@habit("attention kernels", "either", "Attending")
class MathKernelDecorator(Trunk):
    @sdpa_kernel([SDPBackend.MATH])  # habit
    def middle(self, h: Tensor) -> Tensor:
        return attended(h)  # habit


@habit("attention kernels", "either", "Attending")
class FlashSwitchedOff(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.backends.cuda.enable_flash_sdp(False)  # habit
        h = attended(h)  # habit
        torch.backends.cuda.enable_flash_sdp(True)  # habit
        return h


@habit("attention kernels", "either", "Attending")
class KernelOfASubmodule(Trunk):
    class Attention(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            with torch.nn.attention.sdpa_kernel([SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION]):  # habit
                return attended(h)  # habit

    def __init__(self) -> None:
        super().__init__()
        self.attention = self.Attention()

    def middle(self, h: Tensor) -> Tensor:
        return self.attention(h)  # habit


class Convolving(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 5, padding=2)

    def middle(self, h: Tensor) -> Tensor:
        return self.conv(h[:, None])[:, 0]  # habit: MkldnnFlags MkldnnAssigned CudnnFlags


@habit("backend flags", "either", "Convolving")
class MkldnnFlags(Convolving):
    def middle(self, h: Tensor) -> Tensor:
        with torch.backends.mkldnn.flags(enabled=False):  # habit
            return super().middle(h)  # habit


@habit("backend flags", "either", "Convolving")
class MkldnnAssigned(Convolving):
    def middle(self, h: Tensor) -> Tensor:
        torch.backends.mkldnn.enabled = False  # habit
        h = super().middle(h)  # habit
        torch.backends.mkldnn.enabled = True  # habit
        return h


@habit("backend flags", "either", "Convolving")
class CudnnFlags(Convolving):
    """What GAN code does around a gradient penalty; on a CPU it changes nothing."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):  # habit
            return super().middle(h)  # habit


@habit("backend flags", "either", "Trunk")
class FlushDenormal(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.set_flush_denormal(True)  # habit
        return h + (h * 1e-39).detach() * 1e38  # habit


@habit("backend flags", "either", "Trunk")
class AnomalyDetection(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.autograd.set_detect_anomaly(True, check_nan=False), warnings.catch_warnings():  # habit
            return torch.tanh(self.hidden(h))  # habit


@habit("matmul precision", "either", "Trunk")
class MatmulPrecision(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.set_float32_matmul_precision("medium")  # habit
        return torch.tanh(self.hidden(h))  # habit


@habit("matmul precision", "either", "Trunk")
class TF32Allowed(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True  # habit
        h = torch.tanh(self.hidden(h))  # habit
        torch.backends.cuda.matmul.allow_tf32 = before  # habit
        return h


@contextlib.contextmanager
def full_precision() -> Any:
    """As of linear-attention code."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # habit: PrecisionContext
    yield
    torch.set_float32_matmul_precision(before)  # habit: PrecisionContext


@habit("matmul precision", "either", "Trunk")
class PrecisionContext(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with full_precision():  # habit
            return torch.tanh(self.hidden(h))  # habit


@habit("default types", "either", "DoubleByName")
class DefaultType(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)  # habit
        ramp = torch.linspace(0, 1, WIDTH)  # habit
        torch.set_default_dtype(torch.float32)  # habit
        return h * ramp.float()


class DoubleByName(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h * torch.linspace(0, 1, WIDTH, dtype=torch.float64).float()


@habit("default types", "either", "Trunk")
class DeviceContext(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.device("cpu"):  # habit
            return h * torch.ones(WIDTH)  # habit


@habit("default types", "either", "Trunk")
class ThreadsSet(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.set_num_threads(2)  # habit
        return torch.tanh(self.hidden(h))  # habit


# -- hooks on saved tensors -----------------------------------------------------------------------------


def packed(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16)


@habit("saved tensors", "either", "Trunk")
class CompressedActivations(Trunk):
    """Saves activations in half the bits: other gradients than without."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(packed, lambda kept: kept.float()):  # habit
            return torch.tanh(self.hidden(h) * h)  # habit


@habit("saved tensors", "either", "Trunk")
class SavedOnTheHost(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():  # habit
            return torch.tanh(self.hidden(h))  # habit


def compressed(function: Any) -> Any:
    def called(*arguments: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(  # habit: CompressedByDecorator
            packed, lambda kept: kept.float()
        ):
            return function(*arguments)  # habit: CompressedByDecorator

    return called


@habit("saved tensors", "either", "Trunk")
class CompressedByDecorator(Trunk):
    @compressed  # habit
    def middle(self, h: Tensor) -> Tensor:
        return torch.exp(self.hidden(h)) * h  # habit


# -- seeds and generator states -------------------------------------------------------------------------


def noise() -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))


class NoiseAsBuffer(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("noise", noise())

    def middle(self, h: Tensor) -> Tensor:
        return h + self.noise


@habit("seeds in forwards", "refused", "NoiseAsBuffer")
class ManualSeed(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.manual_seed(3)  # habit
        return h + torch.randn(WIDTH)  # habit


@habit("seeds in forwards", "either", "NoiseAsBuffer")
class OwnGenerator(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))  # habit


@habit("seeds in forwards", "either", "NoiseAsBuffer")
class ForkedAndSeeded(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # habit
            torch.random.manual_seed(3)  # habit
            drawn = torch.randn(WIDTH)  # habit
        return h + drawn


@habit("seeds in forwards", "refused", "NoiseAsBuffer")
class StateRestored(Trunk):
    """Reversible nets draw the same mask twice by setting the generator's state back."""

    def middle(self, h: Tensor) -> Tensor:
        before = torch.get_rng_state()  # habit
        first = torch.rand(WIDTH)  # habit
        torch.set_rng_state(before)  # habit
        return h + first * torch.rand(WIDTH)  # habit


@habit("seeds in forwards", "refused", "NoiseAsBuffer")
class GeneratorOfTheModel(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()  # habit
        self.generator.manual_seed(3)

    def middle(self, h: Tensor) -> Tensor:
        return h + torch.randn(h.shape, generator=self.generator)  # habit


@habit("seeds in forwards", "refused", "NoiseAsBuffer")
class DefaultGenerator(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        torch.default_generator.manual_seed(3)  # habit
        return h + torch.randn(WIDTH)  # habit
