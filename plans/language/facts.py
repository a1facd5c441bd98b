"""Facts: what the planner measured or derived about graphs and their cuts; never chosen, never edited.

A *graph* is one traced training forward at microbatch size. A *layout* is a graph under one choice of
cuts: its shards and its slabs. Jobs that share a graph and cuts share a layout.

    graph    node node node | node node node | node node node      cuts = (3, 6)
    shards        0               1                2
    slabs        "0"             "1"              "2"      private, one a shard with parameters of its own
                 "0+2"                            "0+2"    shared by the shards that it names (tied weights)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTimes:
    """Predicted compute time of one shard's cell on one device profile."""

    profile: str
    forward_us: int
    backward_us: int
    """Backward of a kept forward; a recomputed one takes `forward_us` more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """One shard of a layout. All bytes are of one microbatch and include alignment."""

    slabs: tuple[str, ...]
    """Slabs that the shard reads, private first."""
    reads: tuple[int, ...]
    """Shards whose activations it reads, ascending."""
    gradients_to: tuple[int, ...]
    """Shards to whose activation gradients its backward adds, ascending; a subset of `reads`."""
    gradient_bytes: tuple[tuple[str, int], ...]
    """(slab, bytes) of the parameter gradients that its backward makes: one region per use site."""
    activation_bytes: int
    """Values that it makes and later shards read; for the last shard, the loss."""
    activation_gradient_bytes: int
    batch_bytes: int
    """Batch values that it reads; 0: none."""
    forward_workspace_bytes: int
    backward_workspace_bytes: int
    """Backward of a kept forward, beyond what was kept."""
    recompute_workspace_bytes: int
    """Forward and backward in one."""
    keep_workspace_bytes: int
    """Forward that keeps, beyond what it keeps."""
    kept_bytes: int
    """What a keeping forward holds outside of the arena until its backward."""
    times: tuple[CellTimes, ...]
    buffer_bytes: int = 0
    """Buffers that its forward updates, passed on from microbatch to microbatch; between training steps they lie in its
    private slab."""

    @property
    def has_backward(self) -> bool:
        """Whether its backward would make anything; what is frozen, with nothing trained upstream, has none."""
        return bool(self.gradients_to or self.gradient_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabFacts:
    """A flat region of parameters, the unit of load, spill, update and drop."""

    name: str
    readers: tuple[int, ...]
    """Shards that read it, ascending."""
    parameter_bytes: int
    """Parameters and read-only buffers and constants, each aligned to 256 bytes."""
    trainable_bytes: int
    """The part that the optimizer updates."""
    buffer_bytes: int = 0
    """The part behind it that the reader's forward updates: an update of the slab takes over what the last microbatch
    made of it."""

    @property
    def updated_bytes(self) -> int:
        """What changes while the job trains: [0, updated_bytes) of the slab. All that a spill moves, and all that a
        load over a present copy moves; what is frozen is the same in every copy. 0: never updated."""
        return self.trainable_bytes + self.buffer_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    graph: str
    cuts: tuple[int, ...]
    shards: tuple[ShardFacts, ...]
    slabs: tuple[SlabFacts, ...]

    def slab(self, name: str) -> SlabFacts:
        return next(slab for slab in self.slabs if slab.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    name: str
    digest: str
    """sha256 of the normalised graph: operators, arguments, shapes, parameters."""
    nodes: int
    cut_positions: tuple[int, ...]
    """Every position where a cut is allowed: the shard to its left ends before this node."""
    parameter_bytes: int
    construction_bytes: int
    """Host memory while the real model is built and moves into the host store, its place there included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What binds a job to the shared facts."""

    job: str
    graph: str
    state_copies: int
    """Optimizer state, in copies of the trainable bytes (AdamW: 2; with fp32 masters of bf16 parameters: 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    graphs: tuple[Graph, ...]
    layouts: tuple[Layout, ...]
    jobs: tuple[JobFacts, ...]
