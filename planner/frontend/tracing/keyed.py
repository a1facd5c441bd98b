"""Random operators that draw from a generator keyed by (job seed, step, microbatch, graph node).

The process-wide generator would make what a cell draws depend on the order of cells and on the other
device threads (EXACTNESS.md, rule 10). Here each random node of each cell gets a generator of its own, so
that a forward that runs again, elsewhere or in another order, draws the same numbers.

In a traced graph these functions stand without their first two arguments; a shard's code passes them:
`draws`, the cell's random numbers, and `slot`, the place of the node among the shard's random nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

SELU_LOWEST = -1.7580993408473766
"""The value of torch.nn.functional.selu far below zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKey:
    """What the random numbers of a cell are keyed by, with the graph node (EXACTNESS.md, rule 10)."""

    seed: int
    step: int
    microbatch: int


class Draws:
    """The random numbers of one cell: a generator for each of its random nodes."""

    __slots__ = ("key", "numbers")

    def __init__(self, key: CellKey, numbers: tuple[int, ...]) -> None:
        self.key = key
        self.numbers = numbers

    def generator(self, slot: int, device: torch.device) -> torch.Generator:
        """A fresh generator for the slot's node on the device."""
        text = f"{self.key.seed}/{self.key.step}/{self.key.microbatch}/{self.numbers[slot]}"
        seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
        # A CPU generator keeps the low 32 bits of a seed: the hash spreads the key over all of them.
        return torch.Generator(device).manual_seed(seed)


def _mask(generator: torch.Generator, shape: tuple[int, ...], p: float) -> Tensor:
    """What survives a dropout: dense whatever the strides of the value, so that strides choose no numbers."""
    mask = torch.empty(shape, dtype=torch.bool, device=generator.device)
    return mask.bernoulli_(1 - p, generator=generator)


def _features(value: Tensor) -> tuple[int, ...]:
    """Shape of one number per sample and channel."""
    return (*value.shape[:2], *(1 for _ in value.shape[2:]))


def _scale(p: float) -> float:
    """What survives is scaled by, so that the mean stays."""
    return 1 / (1 - p) if p < 1 else 0.0


def _dropped(generator: torch.Generator, value: Tensor, p: float) -> Tensor:
    kept = value * _mask(generator, tuple(value.shape), p)
    return kept.mul_(_scale(p))


def dropout(draws: Draws, slot: int, value: Tensor, p: float) -> Tensor:
    """`torch.nn.functional.dropout(value, p)` for 0 < p <= 1. Autograd saves the mask, a byte an element."""
    return _dropped(draws.generator(slot, value.device), value, p)


def native_dropout(draws: Draws, slot: int, value: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The same, and the mask."""
    mask = _mask(draws.generator(slot, value.device), tuple(value.shape), p)
    return (value * mask).mul_(_scale(p)), mask


def feature_dropout(draws: Draws, slot: int, value: Tensor, p: float) -> Tensor:
    """`dropout1d`, `dropout2d` and `dropout3d`: whole channels."""
    return (value * _mask(draws.generator(slot, value.device), _features(value), p)).mul_(_scale(p))


def alpha_dropout(draws: Draws, slot: int, value: Tensor, p: float) -> Tensor:
    """`torch.nn.functional.alpha_dropout`: what is dropped is set to SELU's lowest value; mean and variance stay."""
    return _alpha_dropped(value, _mask(draws.generator(slot, value.device), tuple(value.shape), p), p)


def feature_alpha_dropout(draws: Draws, slot: int, value: Tensor, p: float) -> Tensor:
    """The same, of whole channels."""
    return _alpha_dropped(value, _mask(draws.generator(slot, value.device), _features(value), p), p)


def _alpha_dropped(value: Tensor, mask: Tensor, p: float) -> Tensor:
    if p == 1:
        return value * 0.0
    a = 1 / math.sqrt((SELU_LOWEST**2 * p + 1) * (1 - p))
    kept = mask.to(value.dtype)
    return value * (kept * a) + ((kept - 1) * (-SELU_LOWEST * a) - SELU_LOWEST * a * p)


def rrelu(draws: Draws, slot: int, value: Tensor, lower: float, upper: float) -> Tensor:
    """`torch.nn.functional.rrelu`: negative values are multiplied by slopes drawn from [lower, upper)."""
    slopes = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    slopes.uniform_(lower, upper, generator=draws.generator(slot, value.device))
    return torch.where(value > 0, value, value * slopes)


def recurrent(
    draws: Draws,
    slot: int,
    layer: OpOverload,
    value: Tensor,
    state: Tensor | list[Tensor] | tuple[Tensor, ...],
    parameters: list[Tensor] | tuple[Tensor, ...],
    has_biases: bool,
    num_layers: int,
    p: float,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """LSTM, GRU and RNN with dropout between layers, each layer by the operator itself.

    `state`: (layers * directions, batch, width), of an LSTM two of them; `parameters`: all layers' in order.
    """
    generator = draws.generator(slot, value.device)
    directions = 2 if bidirectional else 1
    states = [state] if isinstance(state, Tensor) else list(state)
    share = len(parameters) // num_layers
    last: list[list[Tensor]] = [[] for _ in states]
    for number in range(num_layers):
        if number:
            value = _dropped(generator, value, p)
        own = [each[number * directions : (number + 1) * directions] for each in states]
        value, *ends = layer(
            value,
            own[0] if isinstance(state, Tensor) else own,
            list(parameters[number * share : (number + 1) * share]),
            has_biases,
            1,
            0.0,
            True,
            bidirectional,
            batch_first,
        )
        for collected, end in zip(last, ends, strict=True):
            collected.append(end)
    return (value, *(torch.cat(collected) for collected in last))


def attention(
    draws: Draws,
    slot: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with dropout, decomposed as PyTorch's own math kernel does it."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill_(attn_mask.logical_not(), float("-inf"))
    elif attn_mask is not None:
        scores = scores.add_(attn_mask)
    weights: Tensor = torch.ops.aten._safe_softmax.default(scores, -1)
    return _dropped(draws.generator(slot, query.device), weights, dropout_p) @ value


def call(draws: Draws, slot: int, operator: OpOverload, device: torch.device, /, *args: Any, **kwargs: Any) -> Any:
    """An operator that takes a generator; on fake tensors without one, which some operators refuse there."""
    # What is like a value only in form has no gradient, but some overloads that take a generator do not know that.
    grad = torch.is_grad_enabled() and not operator._schema.name.endswith("_like")
    fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
    with torch.set_grad_enabled(grad):
        return operator(*args, **kwargs, generator=None if fake else draws.generator(slot, device))


FORMS: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "dropout": (dropout, ("p",)),
    "native_dropout": (native_dropout, ("p",)),
    "feature_dropout": (feature_dropout, ("p",)),
    "alpha_dropout": (alpha_dropout, ("p",)),
    "feature_alpha_dropout": (feature_alpha_dropout, ("p",)),
    "rrelu": (rrelu, ("lower", "upper")),
    "scaled_dot_product_attention": (
        attention,
        ("key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"),
    ),
}
"""aten operator -> what it becomes, and the arguments that this takes besides the operator's first one."""

RECURRENT_ARGUMENTS = ("input", "hx", "params", "has_biases", "num_layers", "dropout", "bidirectional", "batch_first")
"""The arguments of aten.lstm.input and its like that `recurrent` takes, after the operator itself."""

KEYED = (recurrent, call, *(function for function, _ in FORMS.values()))
"""The targets of a traced graph's random nodes."""
