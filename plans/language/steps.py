"""The steps of a list: a tagged union, one JSON object a line.

`step` says which of the list's training steps of the job a line belongs to, counted from 0 in each
list. `microbatches` is a half-open range, a whole node of the gradient tree. `slab` names a slab, which
is private to one shard ("3") or shared by several ("0+7"). docs in `plans.analysis.flow` say what each does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

SlabContent: TypeAlias = Literal["parameters", "optimizer"]
CellValue: TypeAlias = Literal["activations", "activation_gradients", "buffers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Copy a slab's parameters or optimizer state from the host store to the device."""

    device: str
    job: str
    slab: str
    what: SlabContent = "parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spill:
    """Copy a slab's parameters or optimizer state, updated on the device, to the host store."""

    device: str
    job: str
    slab: str
    what: SlabContent = "parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpillGradients:
    """Move an accumulator, a whole node of the gradient tree, to the host; it leaves the device."""

    device: str
    job: str
    slab: str
    shard: int
    microbatches: tuple[int, int]
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Free a slab's parameters or optimizer state on the device."""

    device: str
    job: str
    slab: str
    what: SlabContent = "parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchBatch:
    """Copy the batch values that a shard reads from the host to the device."""

    device: str
    job: str
    shard: int
    microbatch: int
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Copy a shard's saved activations, the gradients of them, or its updated buffers, from the host to the device."""

    device: str
    job: str
    shard: int
    microbatch: int
    what: CellValue
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """Copy a shard's activations, the gradients of them, or its updated buffers, from the device to the host."""

    device: str
    job: str
    shard: int
    microbatch: int
    what: CellValue
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    device: str
    job: str
    shard: int
    microbatch: int
    keep: bool = False
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    device: str
    job: str
    shard: int
    microbatch: int
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Apply the optimizer to a slab, on the host (`device` is "host") or on the device that holds it."""

    device: str
    job: str
    slab: str
    step: int = 0


Step: TypeAlias = Load | Spill | SpillGradients | Drop | FetchBatch | Fetch | Save | Forward | Backward | Update
Engine: TypeAlias = Literal["compute", "load", "spill"]


def engine(step: Step) -> Engine | None:
    """The engine of its device that runs a step; None: no work of its own (drop)."""
    match step:
        case Load() | Fetch() | FetchBatch():
            return "load"
        case Spill() | SpillGradients() | Save():
            return "spill"
        case Forward() | Backward() | Update():
            return "compute"
        case Drop():
            return None
