"""Tiny models around operators of the user's own: autograd functions, and operators registered with torch.library."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from support.hardmodels import WIDTH, scored
from torch import Tensor, nn
from torch.autograd import Function


class Rounded(Function):
    """Rounds; its gradient passes as if it did not, where the value is small."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(value)
        return torch.round(value * levels) / levels

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return gradient * (value.abs() <= 1), None


class Quantised(nn.Module):
    """What its function's own backward lets through is all that the layers below it learn from."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            value = torch.tanh(layer(Rounded.apply(value, 8)))
        return scored(value)


@torch.library.custom_op("hydraplan_tests::bent", mutates_args=())
def bent(value: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    positive = value > 0
    return torch.where(positive, value, value * slope), positive


@bent.register_fake
def _(value: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(value), torch.empty_like(value, dtype=torch.bool)


def _remember(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.slope = inputs[1]
    ctx.save_for_backward(inputs[0])
    ctx.mark_non_differentiable(output[1])


def _unbend(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
    (value,) = ctx.saved_tensors
    return torch.where(value > 0, gradient, gradient * ctx.slope), None


bent.register_autograd(_unbend, setup_context=_remember)


@torch.library.custom_op("hydraplan_tests::accumulate", mutates_args=("total",))
def accumulate(total: Tensor, value: Tensor) -> None:
    total.add_(value)


@accumulate.register_fake
def _(total: Tensor, value: Tensor) -> None:
    return None


class Registered(nn.Module):
    """Operators of the user's own: one with a backward and two results, one that writes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("total", torch.zeros(WIDTH))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            value, positive = torch.ops.hydraplan_tests.bent(layer(value), 0.1)
            value = value + positive * 0.1
            torch.ops.hydraplan_tests.accumulate(self.get_buffer("total"), value.detach().mean((0, 1)))
        return scored(value)


@torch.library.custom_op("hydraplan_tests::product", mutates_args=())
def product(value: Tensor, weight: Tensor) -> Tensor:
    return value * weight


@product.register_fake
def _(value: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(value)


def _hold(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.value, ctx.weight = inputs  # by name, not by save_for_backward: no hook sees it


def _multiplied(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return gradient * ctx.weight, (gradient * ctx.value).sum((0, 1))


product.register_autograd(_multiplied, setup_context=_hold)


class Holding(nn.Module):
    """An operator of the user's own whose context holds its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.weights = nn.ParameterList(torch.linspace(0.5, 1.5, WIDTH) * number for number in (1, 2, 3, 4))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for weight in self.weights:
            value = torch.tanh(torch.ops.hydraplan_tests.product(value, weight))
        return scored(value)
