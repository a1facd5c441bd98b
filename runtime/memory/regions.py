"""Regions: what lies at one address of an arena or of the host store, as tensors by name.

A region is one instance of the plan's flow (`plans.analysis.flow`). Its bytes move in one copy; which tensors they
hold, and with which strides, moves along as `tensors` (EXACTNESS.md, rule 8). A value that no gradient
flowed to is absent from `tensors` (rule 15).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from hydraplan.planner.frontend.shards.program import TensorLayout
from hydraplan.plans.language.errors import RunError

View = Callable[[int, Sequence[int], Sequence[int], torch.dtype], Tensor]
"""(address, shape, stride, dtype) -> a tensor on one memory."""


class Region:
    """`size` bytes at an address, laid out by `layouts`."""

    __slots__ = ("_layouts", "_others", "_own", "bytes", "size", "tensors")

    def __init__(self, view: View, address: int, size: int, layouts: Sequence[TensorLayout]) -> None:
        self.size = size
        self.bytes = view(address, (size,), (1,), torch.uint8)
        self._layouts = {layout.name: layout for layout in layouts}
        self._own = {
            layout.name: view(address + layout.offset_bytes, layout.shape, layout.stride, layout.dtype)
            for layout in layouts
        }
        self._own |= {layout.name: self._own[layout.shares] for layout in layouts if layout.shares is not None}
        self._others: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        """Views with other strides than the layout's, by name and stride."""
        self.tensors: dict[str, Tensor] = {}
        """What is there now."""

    def fill(self) -> None:
        """Say that every tensor of the layout is there, as laid out: a slab, a batch."""
        self.tensors = self._own

    def clear(self) -> None:
        self.tensors = {}

    def laid_out(self, name: str) -> Tensor:
        """The view of one tensor as laid out, whether it is there or not."""
        return self._own[name]

    def put(self, name: str, value: Tensor) -> None:
        """Copy a value here, with its own strides."""
        target = self._target(name, value.stride())
        _copy(target, value)
        self.tensors[name] = target

    def adopt(self, other: Region) -> None:
        """Name what a copy of the other region's bytes has brought."""
        self.tensors = {name: self._target(name, tensor.stride()) for name, tensor in other.tensors.items()}

    def _target(self, name: str, stride: tuple[int, ...]) -> Tensor:
        own = self._own[name]
        if own.stride() == stride:
            return own
        other = self._others.get((name, stride))
        if other is None:
            layout = self._layouts[name]
            needed = span(layout.shape, stride) * layout.dtype.itemsize
            if needed > layout.size_bytes:
                raise RunError(
                    f"value {name} came with strides {stride} and spans {needed} bytes; its region reserves "
                    f"{layout.size_bytes} for {layout.stride}; move the cut away from where it is made"
                )
            other = self._others[name, stride] = own.as_strided(layout.shape, stride)
        return other


def span(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Elements from the first to the last of a strided tensor, gaps included."""
    if 0 in shape:
        return 0
    return 1 + sum((extent - 1) * step for extent, step in zip(shape, stride, strict=True))


def _copy(target: Tensor, value: Tensor) -> None:
    """Copy between tensors of equal shape and stride; expanded dimensions hold one element."""
    if 0 in target.stride():
        for dimension, step in enumerate(target.stride()):
            if step == 0 and target.shape[dimension] > 1:
                target, value = target.narrow(dimension, 0, 1), value.narrow(dimension, 0, 1)
    target.copy_(value)


def store(region: Region, fresh: Mapping[str, Tensor]) -> None:
    """Make the region hold these gradients, each laid out as its parameter."""
    region.tensors = {name: region.laid_out(name) for name in fresh}
    if fresh:
        torch._foreach_copy_(list(region.tensors.values()), list(fresh.values()))


def add(region: Region, fresh: Mapping[str, Tensor]) -> None:
    """Add gradients to those that the region holds; one that it does not hold yet is stored."""
    held = region.tensors
    if fresh and held.keys() == fresh.keys():
        torch._foreach_add_([held[name] for name in fresh], list(fresh.values()))
        return
    for name, value in fresh.items():
        if name in held:
            held[name].add_(value)
        else:
            held[name] = region.laid_out(name).copy_(value)
