"""Random operators that draw from a generator keyed by (job seed, step, microbatch, graph node).

The process-wide generator would make what a cell draws depend on the order of cells and on the other
device threads (EXACTNESS.md, rule 10). Here each random node of each cell gets a generator of its own, so
that a forward that runs again, elsewhere or in another order, draws the same numbers.

In a traced graph these functions stand without their first two arguments; a shard's code passes them:
`draws`, the cell's random numbers, and `slot`, the place of the node among the shard's random nodes.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from planner.frontend.program import CellKey


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


def _mask(draws: Draws, slot: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
    """What survives a dropout: dense whatever the strides of the value, so that strides choose no numbers."""
    mask = torch.empty(shape, dtype=torch.bool, device=device)
    return mask.bernoulli_(1 - p, generator=draws.generator(slot, device))


def dropout(draws: Draws, slot: int, value: Tensor, p: float) -> Tensor:
    """`torch.nn.functional.dropout(value, p)` for 0 < p <= 1. Autograd saves the mask, a byte an element."""
    kept = value * _mask(draws, slot, tuple(value.shape), p, value.device)
    return kept.mul_(1 / (1 - p) if p < 1 else 0.0)


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
    return dropout(draws, slot, weights, dropout_p) @ value


def call(draws: Draws, slot: int, operator: OpOverload, device: torch.device, /, *args: Any, **kwargs: Any) -> Any:
    """An operator that takes a generator."""
    return operator(*args, **kwargs, generator=draws.generator(slot, device))


KEYED = (dropout, attention, call)
"""The targets of a traced graph's random nodes."""
