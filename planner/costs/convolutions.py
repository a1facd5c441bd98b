"""What a convolution takes on the CPU while it runs, beyond arguments and results: an upper bound, from shapes.

    oneDNN       source, target and weights once more, channels in blocks; im2col of an item where it multiplies
                 matrices instead
    torch's own  im2col of the whole batch, of one item where it is dilated

Which of them is torch's own choice. Found as `planner.costs.scratch` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily

from hydraplan.planner.frontend.tracing.operators import given

CHANNEL_BLOCK = 16
"""Channels that oneDNN computes side by side with AVX-512; 8 with AVX2."""
LONGEST_WINDOW = 14
"""Longer ones oneDNN does not make code for in the backward: it multiplies matrices."""
PLAIN_CHANNELS = (1, 3)
"""Channels of pictures and sound, which oneDNN's first convolution reads as they lie."""
SMALL_BYTES = 4096
"""Of what is sized by a few numbers: per-channel sums, factors of interpolation, pivots."""


def dense_bytes(tensor: Tensor) -> int:
    """Of a copy."""
    size: int = tensor.numel() * tensor.itemsize
    return size


def total_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(dense_bytes(each) for each in tensors)


def strided_bytes(tensors: Sequence[Tensor]) -> int:
    """Copies of what is not contiguous."""
    return total_bytes([each for each in tensors if not each.is_contiguous()])


def convolution_bytes(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], made: Sequence[Tensor], *, backward: bool
) -> int:
    def of(name: str) -> Any:
        return given(func, args, kwargs, name)

    source, weight = of("input"), of("weight")
    target = of("grad_output") if backward else made[0]
    transposed, groups = of("transposed"), of("groups")
    large, small = (target, source) if transposed else (source, target)
    """The side that windows slide over, and the side with a value for each window."""
    window: int = math.prod(weight.shape[2:])
    column: int = large.shape[1] * window * math.prod(small.shape[2:]) * source.itemsize
    """im2col of one item."""
    backend = _backend(
        tuple(source.shape), tuple(weight.shape), source.dtype, tuple(of("stride")), tuple(of("padding")),
        tuple(of("dilation")), transposed, tuple(of("output_padding")), groups,
    )  # fmt: skip
    copies = strided_bytes([source, weight, target])
    if "Slow" in backend and "Transpose" not in backend:
        items: int = 1 if "Dilated" in backend else source.shape[0]
        parts = total_bytes([source, target, weight]) if groups > 1 else 0
        return items * column + parts + copies + total_bytes([weight]) + SMALL_BYTES
    if "Slow" in backend:
        parts = total_bytes([source, target, weight]) if groups > 1 else 0
        return max(2, int(source.shape[0])) * column + parts + copies + total_bytes([weight, target]) + SMALL_BYTES
    if not transposed and source.itemsize == 4 and groups == 1 and _channels_last(source) and _channels_last(target):
        return 2 * _blocked_weight(weight, groups) + 8 * SMALL_BYTES  # oneDNN takes both as they lie
    thin = source.itemsize < 4 or any(each.shape[1] // groups % CHANNEL_BLOCK for each in (source, target))
    plain = window > 1 and not transposed and source.shape[1] in PLAIN_CHANNELS and not target.shape[1] % CHANNEL_BLOCK
    inner, outer = dense_bytes(source) if plain else _blocked(source), _blocked(target)
    packed = 2 * _blocked_weight(weight, groups)
    if backward and source.itemsize < 4:  # gradients of weights add up in fp32
        packed += 2 * _blocked_weight(weight, groups)
    dilated = max(of("dilation")) > 1
    long = backward and max(weight.shape[2:]) > LONGEST_WINDOW
    own = column if transposed or dilated or long or _ill_grouped(source, target, groups) else 0
    if long:
        own += dense_bytes(source) + dense_bytes(weight)
    if source.itemsize < 4:
        own *= 2
    if backward:
        sides = (inner + outer) * (2 if thin and not plain else 1)
    elif source.itemsize < 4:
        sides = 2 * (inner + outer)
    elif thin or transposed:
        sides = inner + 2 * outer
    else:
        sides = max(inner + outer - dense_bytes(target), outer)
    return sides + packed + own + copies + 8 * SMALL_BYTES


def _channels_last(tensor: Tensor) -> bool:
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    return form is not None and tensor.is_contiguous(memory_format=form) and not tensor.is_contiguous()


def _blocked(tensor: Tensor) -> int:
    channels = -(-tensor.shape[1] // CHANNEL_BLOCK) * CHANNEL_BLOCK
    size: int = dense_bytes(tensor) // max(1, tensor.shape[1]) * channels
    return size


def _blocked_weight(weight: Tensor, groups: int) -> int:
    one, other = (-(-size // CHANNEL_BLOCK) * CHANNEL_BLOCK for size in weight.shape[:2])
    return one * other * int(math.prod(weight.shape[2:])) * weight.itemsize


def _ill_grouped(source: Tensor, target: Tensor, groups: int) -> bool:
    """Groups that are no whole blocks: oneDNN may take a product of matrices, over im2col."""
    return groups > 1 and any(each.shape[1] // groups % 8 and each.shape[1] != groups for each in (source, target))


@lru_cache(maxsize=1024)
def _backend(
    source: tuple[int, ...],
    weight: tuple[int, ...],
    dtype: torch.dtype,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
) -> str:
    """torch's own choice; what it has no name for is oneDNN's transposed one."""
    with unset_fake_temporarily():
        one = torch.zeros(1, dtype=dtype)
        bias = [weight[1] * groups if transposed else weight[0]]
        chosen = torch._C._select_conv_backend(
            one.expand(source), one.expand(weight), None, list(stride), list(padding), list(dilation), transposed,
            list(output_padding), groups, bias,
        )  # fmt: skip
    return str(chosen)
