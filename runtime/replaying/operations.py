"""What each step does, bound to memory: one small object a step, made once, called once an iteration.

An operation gets the stream to work on and the job's training step. All that it waits for has been waited
for; what it touches is what the flow says of its site.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Lock
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from hydraplan.planner.frontend.shards.program import Kept, ShardProgram
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.plans.language.errors import RunError
from hydraplan.runtime.devices.device import Device, Stream
from hydraplan.runtime.memory.optimizer import SlabUpdate
from hydraplan.runtime.memory.regions import Region, add, store
from hydraplan.runtime.replaying.batches import Batches

Operation: TypeAlias = Callable[[Stream, int], None]
"""(stream, training step of the job)"""

CellName: TypeAlias = tuple[str, int, int, int]
"""Job, shard, microbatch, step within the list."""


class LossSink(Protocol):
    def loss(self, job: str, step: int, microbatch: int, value: float) -> None: ...


class KeptCells:
    """What one device holds: its phase's arena and, counted against the plan, what keeping forwards hold outside."""

    def __init__(self) -> None:
        self._kept: dict[CellName, tuple[Kept, int]] = {}
        self._bytes = 0
        self._arena_bytes = 0
        self.most_bytes = 0
        self.most_arena_bytes = 0
        self.peak_bytes = 0

    def put(self, cell: CellName, kept: Kept, allowed: int) -> None:
        job, shard, microbatch, _ = cell
        size: int = kept.bytes
        if size > allowed:
            raise RunError(
                f"the forward of shard {shard}, microbatch {microbatch} of {job} keeps {size} bytes; "
                f"the plan has room for {allowed} ({size - allowed} too much); plan again"
            )
        self._kept[cell] = kept, size
        self._bytes += size
        self.most_bytes = max(self.most_bytes, self._bytes)

    def take(self, cell: CellName) -> Kept:
        kept, size = self._kept.pop(cell)
        self._bytes -= size
        return kept

    def work(self, workspace_bytes: int) -> None:
        """A cell runs here, with that much workspace by the plan."""
        self.peak_bytes = max(self.peak_bytes, self._arena_bytes + self._bytes + workspace_bytes)

    def arena(self, size: int) -> None:
        """A phase begins, with an arena of its own size."""
        self._arena_bytes = size
        self.most_arena_bytes = max(self.most_arena_bytes, size)
        self.peak_bytes = max(self.peak_bytes, size)

    def forget(self, jobs: Collection[str]) -> None:
        """Free what jobs that have failed still hold."""
        for cell in [cell for cell in self._kept if cell[0] in jobs]:
            self.take(cell)


class BeginPhase:
    """Before a device's first step of a phase, on whichever engine: nothing of the last phase is alive, so the arena
    takes its new size. The other engines' first steps wait for that."""

    def __init__(self, device: Device, size: int, kept: KeptCells) -> None:
        self._device, self._size, self._kept = device, size, kept
        self._lock, self._begun = Lock(), False

    def __call__(self) -> None:
        with self._lock:
            if not self._begun:
                self._device.resize(self._size)
                self._kept.arena(self._device.arena_bytes)
            self._begun = True


class ByBucket:
    """What a training step does at the bucket that its batch is padded to."""

    def __init__(self, operations: Mapping[int, Operation], batches: Batches, job: str) -> None:
        self._operations, self._batches, self._job = dict(operations), batches, job

    def __call__(self, stream: Stream, step: int) -> None:
        self._operations[self._batches.bucket(self._job, step)](stream, step)


class Copy:
    """The first bytes of a slab's region, from the host store or to it: all of it, or what changes."""

    def __init__(self, target: Region, source: Region, size: int) -> None:
        self._pairs = [(target.bytes[:size], source.bytes[:size])]
        self._size = size

    def __call__(self, stream: Stream, step: int) -> None:
        stream.copy(self._pairs, self._size)


class CopyValues:
    """A cell's values; with them goes which are there and how they are strided."""

    def __init__(self, target: Region, source: Region) -> None:
        self._target, self._source = target, source
        self._pairs = [(target.bytes, source.bytes)]

    def __call__(self, stream: Stream, step: int) -> None:
        stream.copy(self._pairs, self._source.size)
        self._target.adopt(self._source)


class SaveLoss:
    """Save the last shard's activations: the loss, which is read once it is on the host."""

    def __init__(self, copy: CopyValues, landed: Region, job: str, microbatch: int, sink: LossSink) -> None:
        self._copy, self._landed, self._sink = copy, landed, sink
        self._job, self._microbatch = job, microbatch

    def __call__(self, stream: Stream, step: int) -> None:
        self._copy(stream, step)
        stream.finish()
        self._sink.loss(self._job, step, self._microbatch, self._landed.tensors["loss"].item())


class FetchRows:
    """The batch values that a shard reads of one microbatch."""

    def __init__(
        self, target: Region, names: Sequence[str], batches: Batches, job: str, rows: tuple[int, int], fetches: int
    ) -> None:
        """`rows`: first and count; `fetches`: how many fetches of its batch a list has."""
        self._target, self._names, self._batches = target, tuple(names), batches
        self._job, self._rows, self._fetches = job, rows, fetches

    def __call__(self, stream: Stream, step: int) -> None:
        rows = self._batches.rows(self._job, step, *self._rows, self._fetches)
        pairs = []
        for name in self._names:
            target, value = self._target.laid_out(name), rows.get(name)
            if value is None or value.shape != target.shape or value.dtype != target.dtype:
                found = "nothing" if value is None else f"{value.dtype} {tuple(value.shape)}"
                raise RunError(
                    f"the data of {self._job} gives {found} as {name} in training step {step}; "
                    f"the traced graph reads {target.dtype} {tuple(target.shape)}: make every batch alike"
                )
            pairs.append((target, value))
        stream.copy(pairs, self._target.size)


class SpillAccumulator:
    """Move an accumulator to the host, and add it up with its siblings there."""

    def __init__(self, source: Region, targets: Sequence[Region]) -> None:
        self._copy = CopyValues(targets[0], source)
        self._targets = tuple(targets)

    def __call__(self, stream: Stream, step: int) -> None:
        self._copy(stream, step)
        if len(self._targets) > 1:
            stream.finish()
            with torch.no_grad():
                add_up(self._targets)


def add_up(targets: Sequence[Region]) -> None:
    """Add each accumulator to the next."""
    for left, right in zip(targets[1:], targets, strict=False):
        add(left, right.tensors)


class Cell:
    """What forward and backward of a cell share: the shard's program and what it reads."""

    def __init__(
        self,
        *,
        program: ShardProgram,
        slabs: Sequence[Region],
        inputs: Mapping[int, Region],
        batch: Region | None,
        buffers: Region | None,
        name: CellName,
        seed: int,
        threads: int,
    ) -> None:
        """`buffers`: those that the shard updates, as the microbatch before has left them; None: as in its slab."""
        self.program = program
        self.parameters: dict[str, Tensor] = {}
        for slab in slabs:
            self.parameters |= slab.tensors
        self._inputs = dict(inputs)
        self.batch: Mapping[str, Tensor] = {} if batch is None else batch.tensors
        self.buffers: Mapping[str, Tensor] = self.parameters if buffers is None else buffers.tensors
        self.name = name
        self.threads = threads
        self._seed = seed

    def inputs(self) -> dict[int, Mapping[str, Tensor]]:
        return {producer: region.tensors for producer, region in self._inputs.items()}

    def key(self, step: int) -> CellKey:
        return CellKey(seed=self._seed, step=step, microbatch=self.name[2])


class RunForward:
    def __init__(
        self,
        cell: Cell,
        outputs: Region | None,
        updated: Region | None,
        kept: KeptCells,
        kept_bytes: int | None,
        workspace_bytes: int,
    ) -> None:
        """`updated`: for the buffers that the shard updates. `kept_bytes`: what the plan lets the forward keep; None:
        it keeps nothing."""
        self._cell, self._outputs, self._updated = cell, outputs, updated
        self._kept, self._kept_bytes = kept, kept_bytes
        self._workspace_bytes = workspace_bytes

    def __call__(self, stream: Stream, step: int) -> None:
        stream.run(lambda: self._work(step), self._cell.threads)

    def _work(self, step: int) -> None:
        cell = self._cell
        result = cell.program.forward(
            parameters=cell.parameters,
            inputs=cell.inputs(),
            batch=cell.batch,
            buffers=cell.buffers,
            key=cell.key(step),
            keep=self._kept_bytes is not None,
        )
        if self._kept_bytes is not None:
            self._kept.put(cell.name, result.kept, self._kept_bytes)
        self._kept.work(self._workspace_bytes)
        if self._outputs is not None:
            self._outputs.clear()
            with torch.no_grad():
                for name, value in result.activations.items():
                    self._outputs.put(name, value)
        if self._updated is not None:
            with torch.no_grad():
                for name, value in result.buffers.items():
                    self._updated.put(name, value)


class RunBackward:
    def __init__(
        self,
        cell: Cell,
        *,
        kept: KeptCells,
        was_kept: bool,
        workspace_bytes: int,
        own: Region | None,
        running: Mapping[int, Region],
        fresh: Mapping[int, Region],
        accumulators: Sequence[tuple[str, Sequence[Region], bool]],
        loss_seed: float,
    ) -> None:
        """`own`: gradients of the shard's own activations. `running`, `fresh`: producer -> where the gradients
        of its activations are added up, or begin. `accumulators`: slab, targets, whether the first is stored."""
        self._cell, self._kept, self._was_kept, self._own = cell, kept, was_kept, own
        self._workspace_bytes = workspace_bytes
        self._running, self._fresh = dict(running), dict(fresh)
        self._sums = self._running | self._fresh
        self._accumulators = tuple(accumulators)
        self._loss_seed = loss_seed

    def __call__(self, stream: Stream, step: int) -> None:
        stream.run(lambda: self._work(step), self._cell.threads)

    def _work(self, step: int) -> None:
        cell = self._cell
        self._kept.work(self._workspace_bytes)
        result = cell.program.backward(
            parameters=cell.parameters,
            inputs=cell.inputs(),
            batch=cell.batch,
            buffers=cell.buffers,
            key=cell.key(step),
            kept=self._kept.take(cell.name) if self._was_kept else None,
            output_gradients={} if self._own is None else self._own.tensors,
            running={producer: region.tensors for producer, region in self._running.items()},
            loss_seed=self._loss_seed,
        )
        with torch.no_grad():
            for region in self._fresh.values():
                region.clear()
            for producer, gradients in result.activation_gradients.items():
                for name, value in gradients.items():
                    self._sums[producer].put(name, value)
            for slab, targets, stored in self._accumulators:
                fresh = result.parameter_gradients.get(slab, {})
                (store if stored else add)(targets[0], fresh)
                add_up(targets)


class RunUpdate:
    """The optimizer's update of a slab, on a device's compute stream or by a worker of the host."""

    def __init__(self, update: SlabUpdate, threads: int, kept: KeptCells | None, workspace_bytes: int) -> None:
        """`kept`: of the device; None: on the host."""
        self._update, self._threads = update, threads
        self._kept, self._workspace_bytes = kept, workspace_bytes

    def __call__(self, stream: Stream, step: int) -> None:
        stream.run(lambda: self.apply(step), self._threads)

    def apply(self, step: int) -> None:
        if self._kept is not None:
            self._kept.work(self._workspace_bytes)
        with torch.no_grad():
            self._update.apply(step)
