"""Trace a model as it runs in a plain loop: code that asks whether it is being traced is told that it is not.

What such code does instead while traced is the same mathematics and other arithmetic. transformers, for one:

                                in a plain loop                       while exported
    causal attention            is_causal=True                        a mask, whatever its length
    grouped heads without mask  enable_gqa: the kernel knows          keys and values repeated, gradients added up
    experts in fp32             grouped_mm                            a loop of its own

So nearly no model with grouped heads would train to the bits of its plain loop. torch itself still gets the truth.
A model that reads values where it is not traced (`mask.all()`) has to know; `tracing.trace` tries that next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch._subclasses
from torch._subclasses.fake_tensor import FakeTensor

_RELAYS = ("torch._utils", "torch._dynamo.external_utils")
"""Where torch asks itself for others, under names of old."""


class _Nobody(FakeTensor):
    """What no tensor is an instance of."""


@contextmanager
def unnoticed() -> Iterator[None]:
    """In force while a model is exported: `torch.compiler.is_compiling()`, `is_exporting()` and
    `isinstance(tensor, torch._subclasses.FakeTensor)` are false for all but torch."""
    compiling, exporting = torch.compiler.is_compiling, torch.compiler.is_exporting
    torch.compiler.is_compiling = _for_torch(compiling)
    torch.compiler.is_exporting = _for_torch(exporting)
    names = vars(torch._subclasses)
    del names["FakeTensor"]
    names["__getattr__"] = _attribute
    try:
        yield
    finally:
        torch.compiler.is_compiling, torch.compiler.is_exporting = compiling, exporting
        del names["__getattr__"]
        names["FakeTensor"] = FakeTensor


def _for_torch(truth: Callable[[], bool]) -> Callable[[], bool]:
    def told() -> bool:
        return _is_torchs(sys._getframe(1)) and truth()

    return told


def _attribute(name: str) -> type[FakeTensor]:
    """`torch._subclasses.FakeTensor`, where the module lacks it."""
    if name != "FakeTensor":
        raise AttributeError(f"module 'torch._subclasses' has no attribute {name!r}")
    asker = sys._getframe(1)
    # A module that is imported now would keep what it gets.
    return FakeTensor if _is_torchs(asker) or asker.f_code.co_name == "<module>" else _Nobody


def _is_torchs(asker: FrameType | None) -> bool:
    while asker is not None and asker.f_globals.get("__name__") in _RELAYS:
        asker = asker.f_back
    return asker is not None and str(asker.f_globals.get("__name__")).partition(".")[0] == "torch"
