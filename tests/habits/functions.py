"""Functions bound before tracing begins: the custom backward has to stay."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from habits.harness import WIDTH, Trunk, habit
from torch import Tensor, nn
from torch.autograd import Function


class Reversal(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return -ctx.strength * gradient, None


class Round(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return torch.round(value * 7) / 7

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient


class Sign(Function):
    """Binary networks: clipped straight-through."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (value,) = ctx.saved_tensors
        return gradient * (value.abs() <= 0.5)


class SwishMade(Function):
    """setup_context, as newer code has it."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value * torch.sigmoid(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (value,) = ctx.saved_tensors
        slope = torch.sigmoid(value)
        return 0.5 * gradient * (slope * (1 + value * (1 - slope)))


round_ste = Round.apply
half_reversed = partial(lambda function, value: function(value, 0.5), Reversal.apply)
ACTIVATIONS = {"sign": Sign.apply, "swish": SwishMade.apply}


@habit("bound functions", "equal", microbatches=2)
class ModuleLevel(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return round_ste(h)


@habit("bound functions", "equal")
class BoundPartial(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return half_reversed(h)


@habit("bound functions", "equal", optimizer="SGD")
class InATable(Trunk):
    """As `ACT2FN` of transformers."""

    def middle(self, h: Tensor) -> Tensor:
        return ACTIVATIONS["swish"](ACTIVATIONS["sign"](h) + h)


@habit("bound functions", "equal")
class ClassAttribute(Trunk):
    quantise = staticmethod(Round.apply)

    def middle(self, h: Tensor) -> Tensor:
        return self.quantise(h)


@habit("bound functions", "equal")
class BoundInConstructor(Trunk):
    """The fake quantiser is an attribute of the layer, bound when that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.quantise = Sign.apply

    def middle(self, h: Tensor) -> Tensor:
        return h + nn.functional.linear(h, self.quantise(self.hidden.weight))


def scaled(function: Any = Round.apply) -> Any:
    def called(value: Tensor) -> Tensor:
        return function(value) * 2

    return called


@habit("bound functions", "equal")
class DefaultArgument(Trunk):
    rounded = staticmethod(scaled())

    def middle(self, h: Tensor) -> Tensor:
        return self.rounded(h)


class QuantLinear(nn.Linear):
    """Quantisation-aware training: the weight goes through a straight-through rounding."""

    def forward(self, x: Tensor, rounded: Any = round_ste) -> Tensor:
        return nn.functional.linear(x, rounded(self.weight), self.bias)


@habit("bound functions", "equal", budget_bytes=30_000)
class QuantisedLayers(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.quant = nn.Sequential(QuantLinear(WIDTH, WIDTH), nn.Tanh(), QuantLinear(WIDTH, WIDTH))

    def middle(self, h: Tensor) -> Tensor:
        return self.quant(h)
