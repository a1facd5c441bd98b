"""An entry of the catalogue, and its model, made.

A library is imported when one of its models is made. Nothing of hydraplan is imported here: the list of what it has to
be able to train must not depend on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from hydraplan.tools.libraries.samples import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of a library."""

    name: str
    """`library/model`."""
    package: str
    """What is imported."""
    make: Callable[[Any], nn.Module]
    """From the imported package."""
    sample: Sample


def entry_of(library: str, name: str, package: str, make: Callable[[Any], nn.Module], sample: Sample) -> Entry:
    """The entry `library/name`."""
    return Entry(name=f"{library}/{name}", package=package, make=make, sample=sample)


def is_installed(entry: Entry) -> bool:
    """Whether the entry's library can be imported."""
    return find_spec(entry.package.partition(".")[0]) is not None


def make_model(entry: Entry) -> nn.Module:
    """The model, as its constructor leaves it."""
    declare_vision_operators()
    return entry.make(importlib.import_module(entry.package))


def declare_vision_operators() -> None:
    """torchvision's wheel is built for CUDA: beside a CPU build of torch its extension cannot be loaded, and its Python
    part only where the two operators that it extends are declared by somebody."""
    if find_spec("torchvision") is None or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _KEPT.append(library)


_KEPT: list[torch.library.Library] = []
