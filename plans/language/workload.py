"""The workload: the jobs to train and the cluster to train them on, as frozen data.

Quantities are whole numbers of bytes, microseconds, bytes per second and operations per second, with
the unit in the field's name. Nothing here imports torch: a `Target` only names what to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Value: TypeAlias = bool | int | float | str | tuple["Value", ...] | None
"""What a workload may give as an argument of a model, a data set or an optimizer."""

Arguments: TypeAlias = tuple[tuple[str, Value], ...]
"""Keyword arguments, sorted by name."""

Precision: TypeAlias = Literal["fp32", "bf16", "autocast"]
"""`fp32`: as the model is written. `bf16`: its parameters are bf16, updated by way of fp32 masters. `autocast`: its
forward and loss run under bf16 autocast; parameters, gradients and optimizer as in fp32."""

OnDifference: TypeAlias = Literal["refuse", "tell"]
"""What an audit does where the cut graph does not train as the model does: refuse the job, or accept and tell it."""

HOST = "host"
"""The reserved place name of the host: the host store and its update workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Speed of one kind of processor; a catalogue entry or a calibration, an input of the plan."""

    name: str
    flops_per_s: int
    """Dense float32 matrix products at the threads of one cell."""
    bytes_per_s: int
    """Memory traffic of element-wise work."""
    node_ns: int
    """Fixed cost of one graph node (dispatch, launch), in nanoseconds."""
    copy_bytes_per_s: int
    """Host to device and back where the link sets no lower rate."""
    update_bytes_per_s: int
    """Fused optimizer update: bytes of parameters, gradients and state read or written per second."""
    bf16_flops_per_s: int | None = None
    """Dense bf16 matrix products; None: as fast as float32."""
    functions_per_s: int | None = None
    """Element-wise special functions and random draws, in units of one tanh; None: memory traffic bounds
    them (GPUs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A path between host memory and one or more devices; each direction carries one copy at a time."""

    name: str
    load_bytes_per_s: int | None
    """Host to device; None: not limited beyond the profile's copy rate."""
    spill_bytes_per_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A logical accelerator with a memory budget."""

    name: str
    backing: str
    """`cpu` or `cuda:N`; several devices may share one backing."""
    budget_bytes: int
    link: str
    profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    profiles: tuple[Profile, ...]
    host_memory_bytes: int
    host_profile: str
    """Profile that says how fast the host updates."""
    update_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something to import and call: `package.module:callable` with keyword arguments."""

    path: str
    arguments: Arguments = ()


Pad: TypeAlias = bool | int | float
"""What fills up a short item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How items of differing length make a batch: padded at the end of their first dimension, to the smallest
    bucket that holds the longest item of the whole batch."""

    buckets: tuple[int, ...]
    """Ascending; an item longer than the last is refused."""
    pad: tuple[tuple[str, Pad], ...]
    """(key of an item, what fills it up), sorted; items are equal in every other key's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder that a model's configuration and initial weights come from, as transformers saves it."""

    folder: str
    initialise: tuple[str, ...] = ()
    """Tensors of the model that the checkpoint lacks: they are initialised under the job's seed."""
    ignore: tuple[str, ...] = ()
    """Tensors of the checkpoint that are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model to train. Everything here is part of the job's numerics but for its name, `base` and `audit`."""

    name: str
    model: Target
    data: Target
    loss: Target | None
    """`loss(model, batch) -> scalar`; None: `model(**batch).loss`."""
    optimizer: Target
    """`SGD`, `Adam` or `AdamW` with torch's arguments."""
    steps: int
    batch_size: int
    microbatches: int
    seed: int
    threads: int
    """Intra-op threads of one cell."""
    precision: Precision
    checkpoint: Checkpoint | None = None
    """With it, `model` names a class with `from_pretrained`; its arguments are values of the configuration that
    differ from the checkpoint's."""
    lengths: Lengths | None = None
    """Null: all items are of one size."""
    base: bool = False
    """Whether the model that a peft model adapts is saved beside its adapters."""
    audit: OnDifference = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    cluster: Cluster
    jobs: tuple[Job, ...]
