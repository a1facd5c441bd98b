"""What the front end makes of a job's graph and its cuts: memory layouts and shards that run.

    ShardedGraph
        slabs             where each parameter lies in its slab
        activations       per shard: the values that it makes and later shards read
        gradients         per shard: their gradients, and per (shard, slab) the parameter gradients by use site
        batch             per shard: the batch values that it reads
        buffers           per shard: the buffers that its forward updates
        programs          per shard: a pair of callables, forward and backward

A bundle is the unit of one arena region: tensors at fixed offsets, each with its own strides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from hydraplan.planner.frontend.models.checkpoint import Stored
from hydraplan.planner.frontend.models.loading import read_into
from hydraplan.planner.frontend.models.masters import refuse_other_master
from hydraplan.planner.frontend.models.saved import Form
from hydraplan.planner.frontend.tracing.keyed import CellKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLayout:
    """One tensor within a bundle or slab."""

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """As the graph makes it: dense or not, expanded (0) too. The bundle reserves room for either this
    or a dense tensor, whichever is larger; what moves keeps its actual strides."""
    dtype: torch.dtype
    offset_bytes: int
    size_bytes: int
    """Reserved, a multiple of 256."""
    requires_grad: bool = False
    shares: str | None = None
    """Of a slab: the entry whose memory is this one's too; the room at its own offset stays empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    tensors: tuple[TensorLayout, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabLayout:
    name: str
    readers: tuple[int, ...]
    entries: tuple[TensorLayout, ...]
    """Parameters that are trained first, then buffers that the forward updates, then what never changes: frozen
    parameters, other buffers, lifted constants. `requires_grad` marks those that the optimizer updates. Names are the
    graph's (see `BuiltModel`)."""
    parameter_bytes: int
    trainable_bytes: int
    """The trained entries lie in [0, trainable_bytes); optimizer state and gradients use their offsets."""
    buffer_bytes: int
    """The updated buffers lie behind them."""


Kept: TypeAlias = Any
"""What a keeping forward hands to its backward; opaque, freed with its last reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardResult:
    activations: Mapping[str, Tensor]
    """By name in the shard's `activations` bundle; not aliasing any input; to be copied to the arena."""
    buffers: Mapping[str, Tensor]
    """By name in the shard's `buffers` bundle: the values that the next microbatch's forward begins with."""
    kept: Kept | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardResult:
    activation_gradients: Mapping[int, Mapping[str, Tensor]]
    """Producer shard -> value name -> new running sum of the gradient (replaces the old one)."""
    parameter_gradients: Mapping[str, Mapping[str, Tensor]]
    """Slab -> use site -> this microbatch's gradient."""


class ShardProgram(Protocol):
    """One shard's forward and backward, for tensors on any device.

    `parameters` maps the names of all entries of the shard's slabs to views; `inputs` maps producer
    shard -> value name -> tensor; `batch` maps batch value name -> tensor; `buffers` maps the buffers that the shard
    updates to their values before this microbatch, which stay as they are. All are views into an arena that may be
    filled anew (or lie elsewhere) by the time of the backward, which gets its own views.
    """

    def forward(
        self,
        *,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        key: CellKey,
        keep: bool,
    ) -> ForwardResult:
        """Run the shard in grad mode. With `keep`, what autograd saved outside of the arguments is held."""
        ...

    def backward(
        self,
        *,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        key: CellKey,
        kept: Kept | None,
        output_gradients: Mapping[str, Tensor],
        running: Mapping[int, Mapping[str, Tensor]],
        loss_seed: float,
    ) -> BackwardResult:
        """Backward of a kept forward, or of one run again here.

        `output_gradients`: gradients of the shard's own activations by name (absent: none flowed).
        `running`: producer -> name -> running gradient of an input that later shards already made.
        `loss_seed`: the gradient of the loss, used by the last shard (1 / microbatches).
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedGraph:
    """A graph under one choice of cuts, ready to lay out and to run."""

    cuts: tuple[int, ...]
    slabs: tuple[SlabLayout, ...]
    activations: tuple[Bundle, ...]
    """Per shard; the last shard's holds the loss, named "loss"."""
    activation_gradients: tuple[Bundle, ...]
    """Per shard; tensors that receive no gradient are left out; size 0: none does."""
    batch: tuple[Bundle, ...]
    buffers: tuple[Bundle, ...]
    """Per shard: the buffers that its forward updates, which lie in its private slab between training steps."""
    reads: tuple[tuple[int, ...], ...]
    gradients_to: tuple[tuple[int, ...], ...]
    parameter_gradients: tuple[tuple[tuple[str, Bundle], ...], ...]
    """Per shard: (slab, bundle of use sites). A parameter's use sites in one shard come in reverse graph order."""
    use_sites: Mapping[str, tuple[tuple[int, str], ...]]
    """Trained parameter -> its (shard, use site) in reverse graph order: the order in which they add up."""
    programs: tuple[ShardProgram, ...]
    shorter: tuple[ShardedGraph, ...] = ()
    """Of a job with lengths: the graphs of its smaller buckets, ascending; this is the largest bucket's. Slabs,
    parameter gradients and what reads what are the same in all, sizes of activations and batches are not."""

    @property
    def buckets(self) -> tuple[ShardedGraph, ...]:
        """The graphs of all buckets, ascending; of a job without lengths: this one."""
        return (*self.shorter, self)

    def has_backward(self, number: int) -> bool:
        """Whether a shard's backward would make any gradient."""
        return bool(self.gradients_to[number] or self.parameter_gradients[number])


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A job's real model, built on the CPU under its seed: all tensors that the graph reads, by name.

    They are the model's own: once `move` has brought one elsewhere, it lies there for the model too, and its old
    memory is free, whoever still holds the model.
    """

    tensors: Mapping[str, Tensor]
    """Parameter, buffer or lifted constant -> value. Tied parameters appear once, under the graph's name."""
    unread: Mapping[str, Tensor]
    """Persistent state that the graph does not read; saved with the final weights."""
    saved_names: Mapping[str, str]
    """state_dict name -> name in `tensors` or `unread`; tied names map to one tensor."""
    masters: Mapping[str, Tensor] = field(default_factory=dict)
    """Of a job with bf16 parameters: trainable parameter -> its initial value in fp32."""
    stored: Mapping[str, Stored] = field(default_factory=dict)
    """Those of `tensors` (and `masters`) whose values have still to be read from a checkpoint."""
    stored_masters: Mapping[str, Stored] = field(default_factory=dict)
    """Those of `masters` that a checkpoint has itself."""
    constants_made: bool = False
    """Whether constants were made with the model, or before: then they are this seed's."""
    model: nn.Module | None = None
    """The model itself, without what was wrapped around it, where it takes part in its saving."""
    form: Form = field(default_factory=Form)

    def move(self, name: str, target: Tensor) -> None:
        """Bring a tensor's values to memory of its shape and dtype, and free what it had."""
        self._move(self.stored.get(name), self.tensors[name], target)

    def move_master(self, name: str, target: Tensor) -> None:
        """The same of a parameter's master, once the parameter is moved. Raises WorkloadError where a checkpoint's does
        not fit."""
        own = self.stored_masters.get(name)
        self._move(own or self.stored.get(name), self.masters[name], target)
        if own is not None:
            refuse_other_master(own, target, self.tensors[name])

    def _move(self, stored: Stored | None, value: Tensor, target: Tensor) -> None:
        with torch.no_grad():
            if stored is not None:
                read_into(target, stored)
            else:
                target.copy_(value)
        value.data = target
