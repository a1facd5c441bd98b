"""Random valid lists of one job: any cell on any device, in any order that the data flow allows.

Everything that a cell needs is brought by the line above it (loads, saves, fetches), so that what is drawn
is exactly what promise 1 speaks of: placement, order, residency, keep or recompute, place of update.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from hydraplan.plans.analysis.flow import Node, gradient_tree
from hydraplan.plans.language.facts import Layout
from hydraplan.plans.language.plan import Phase
from hydraplan.plans.language.steps import (
    Backward,
    CellValue,
    Drop,
    Fetch,
    FetchBatch,
    Forward,
    Load,
    Save,
    Spill,
    SpillGradients,
    Step,
    Update,
)
from hydraplan.plans.language.workload import HOST


@dataclass
class Coverage:
    """What the draws have shown, for a test to assert at the end."""

    plans: int = 0
    seen: set[str] = field(default_factory=set)


@dataclass
class _Cycle:
    """The state of one list while it is drawn; versions count updates within the list, -1 is stale."""

    job: str
    layout: Layout
    microbatches: int
    devices: Sequence[str]
    random: Random
    coverage: Coverage
    update_place: dict[str, str]
    resident: dict[str, set[str]]
    lines: list[Step] = field(default_factory=list)
    version: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[tuple[str, str], int] = field(default_factory=dict)
    state: dict[tuple[str, str], int] = field(default_factory=dict)
    dirty: set[tuple[str, str]] = field(default_factory=set)

    def draw_step(self, step: int) -> None:
        self.step = step
        self.places: dict[tuple[CellValue, int, int], set[str]] = defaultdict(set)
        self.batches: set[tuple[str, int, int]] = set()
        self.nodes: dict[tuple[str, str, int], set[Node]] = defaultdict(set)
        shards = len(self.layout.shards)
        where = self.cell_devices()
        chains = [
            [("forward", shard, microbatch) for shard in range(shards)]
            + [("backward", shard, microbatch) for shard in reversed(range(shards)) if self.has_backward(shard)]
            for microbatch in range(self.microbatches)
        ]
        self.kept: dict[tuple[int, int], bool] = {}
        for chain in chains:
            chain.reverse()
        self.forwarded = [0] * self.microbatches
        """Microbatch -> shards that have run forward."""
        while any(chains):
            what, shard, microbatch = self.random.choice([chain for chain in chains if chain and self.may(chain)]).pop()
            if what == "forward":
                self.forward(where[shard, microbatch], shard, microbatch)
            else:
                kept = self.kept[shard, microbatch]
                elsewhere = self.random.random() < 0.2 and not self.on_one_device(shard)
                free = self.random.choice(self.devices) if elsewhere and not kept else where[shard, microbatch]
                self.backward(free, shard, microbatch)
        for slab in self.random.sample(self.layout.slabs, len(self.layout.slabs)):
            if slab.updated_bytes:
                self.update(slab.name, slab.readers)

    def may(self, chain: list[tuple[str, int, int]]) -> bool:
        """Whether what a chain's next forward begins with is there: buffers pass on from microbatch to microbatch."""
        what, shard, microbatch = chain[-1]
        chained = what == "forward" and microbatch > 0 and self.layout.shards[shard].buffer_bytes > 0
        return not chained or self.forwarded[microbatch - 1] > shard

    def has_backward(self, shard: int) -> bool:
        return self.layout.shards[shard].has_backward

    def on_one_device(self, shard: int) -> bool:
        return any(self.update_place[slab] != HOST for slab, _ in self.layout.shards[shard].gradient_bytes)

    def cell_devices(self) -> dict[tuple[int, int], str]:
        where = {}
        for number, shard in enumerate(self.layout.shards):
            fixed = {self.update_place[slab] for slab, _ in shard.gradient_bytes} - {HOST}
            whole = self.random.choice(self.devices) if self.random.random() < 0.5 else None
            for microbatch in range(self.microbatches):
                where[number, microbatch] = next(iter(fixed), None) or whole or self.random.choice(self.devices)
        if len(set(where.values())) > 1:
            self.coverage.seen.add("two devices in one job")
        return where

    def have_slab(self, device: str, slab: str) -> None:
        if self.held.get((device, slab)) != self.version[slab]:
            self.write_back(slab)
            if (device, slab) in self.held:
                self.coverage.seen.add("loaded over a present copy")
            self.lines.append(Load(device=device, job=self.job, slab=slab))
            self.held[device, slab] = self.version[slab]

    def write_back(self, slab: str) -> None:
        for device in self.devices:
            if (device, slab) in self.dirty:
                self.lines.append(Spill(device=device, job=self.job, slab=slab))
                self.lines.append(Spill(device=device, job=self.job, slab=slab, what="optimizer"))
                self.dirty.discard((device, slab))

    def bring(self, device: str, what: CellValue, shard: int, microbatch: int) -> None:
        places = self.places[what, shard, microbatch]
        if device in places:
            return
        cell = dict(job=self.job, shard=shard, microbatch=microbatch, step=self.step)
        if HOST not in places:
            self.lines.append(Save(device=self.random.choice(sorted(places)), what=what, **cell))  # type: ignore[arg-type]
            places.add(HOST)
        if device == HOST:
            return
        self.lines.append(Fetch(device=device, what=what, **cell))  # type: ignore[arg-type]
        places.add(device)

    def bring_inputs(self, device: str, number: int, microbatch: int) -> None:
        shard = self.layout.shards[number]
        for slab in shard.slabs:
            self.have_slab(device, slab)
        for producer in shard.reads:
            self.bring(device, "activations", producer, microbatch)
        if shard.batch_bytes and (device, number, microbatch) not in self.batches:
            self.lines.append(
                FetchBatch(device=device, job=self.job, shard=number, microbatch=microbatch, step=self.step)
            )
            self.batches.add((device, number, microbatch))
        if shard.buffer_bytes and microbatch:
            self.bring(device, "buffers", number, microbatch - 1)
            self.coverage.seen.add("buffers")

    def forward(self, device: str, number: int, microbatch: int) -> None:
        self.bring_inputs(device, number, microbatch)
        keep = self.kept[number, microbatch] = self.random.random() < 0.4 and self.has_backward(number)
        self.coverage.seen.add("kept" if keep else "recomputed" if self.has_backward(number) else "no backward")
        cell = dict(device=device, job=self.job, shard=number, microbatch=microbatch, step=self.step)
        self.lines.append(Forward(keep=keep, **cell))  # type: ignore[arg-type]
        self.places["activations", number, microbatch] = {device}
        self.places["buffers", number, microbatch] = {device}
        self.forwarded[microbatch] = number + 1
        if number == len(self.layout.shards) - 1:
            self.lines.append(Save(what="activations", **cell))  # type: ignore[arg-type]
        self.drop_some(device)

    def backward(self, device: str, number: int, microbatch: int) -> None:
        shard = self.layout.shards[number]
        self.bring_inputs(device, number, microbatch)
        if any(number in later.gradients_to for later in self.layout.shards):
            self.bring(device, "activation_gradients", number, microbatch)
        for producer in shard.gradients_to:
            if self.places["activation_gradients", producer, microbatch]:
                self.bring(device, "activation_gradients", producer, microbatch)
            self.places["activation_gradients", producer, microbatch] = {device}
        self.lines.append(Backward(device=device, job=self.job, shard=number, microbatch=microbatch, step=self.step))
        tree = gradient_tree(self.microbatches)
        for slab, _ in shard.gradient_bytes:
            nodes, node = self.nodes[device, slab, number], (microbatch, microbatch + 1)
            while node in tree and tree[node][0] in nodes:
                sibling, node = tree[node]
                nodes.remove(sibling)
            nodes.add(node)
        self.drop_some(device)

    def drop_some(self, device: str) -> None:
        for place, slab in list(self.held):
            droppable = place == device and slab not in self.resident[device] and (place, slab) not in self.dirty
            if droppable and self.random.random() < 0.5:
                self.drop(place, slab)

    def drop(self, device: str, slab: str) -> None:
        self.lines.append(Drop(device=device, job=self.job, slab=slab))
        del self.held[device, slab]
        if self.state.pop((device, slab), None) is not None:
            self.lines.append(Drop(device=device, job=self.job, slab=slab, what="optimizer"))

    def update(self, slab: str, readers: Sequence[int]) -> None:
        place = self.update_place[slab]
        with_gradients = [shard for shard in readers if slab in dict(self.layout.shards[shard].gradient_bytes)]
        if self.layout.slab(slab).buffer_bytes:
            self.bring(place, "buffers", readers[0], self.microbatches - 1)
        if place == HOST:
            self.write_back(slab)
            for shard in with_gradients:
                for device in self.devices:
                    for node in self.random.sample(
                        sorted(self.nodes[device, slab, shard]), len(self.nodes[device, slab, shard])
                    ):
                        if node != (0, self.microbatches):
                            self.coverage.seen.add("gradient ranges of part of the microbatches")
                        self.lines.append(
                            SpillGradients(
                                device=device, job=self.job, slab=slab, shard=shard, microbatches=node, step=self.step
                            )
                        )
        else:
            self.coverage.seen.add("updated on a device")
            self.have_slab(place, slab)
            if self.state.get((place, slab)) != self.version[slab]:
                self.lines.append(Load(device=place, job=self.job, slab=slab, what="optimizer"))
        self.lines.append(Update(device=place, job=self.job, slab=slab, step=self.step))
        self.version[slab] += 1
        if place != HOST:
            self.held[place, slab] = self.state[place, slab] = self.version[slab]
            self.dirty.add((place, slab))

    def finish(self) -> None:
        """Leave exactly the residents."""
        for slab in self.layout.slabs:
            if self.random.random() < 0.5 or any(
                (device, slab.name) in self.dirty and slab.name not in self.resident[device] for device in self.devices
            ):
                self.write_back(slab.name)
        for device, slab_name in list(self.held):
            if slab_name not in self.resident[device]:
                self.drop(device, slab_name)
        for device in self.devices:
            for slab_name in sorted(self.resident[device]):
                if (device, slab_name) not in self.held:
                    self.have_slab(device, slab_name)


def draw_phase(
    job: str,
    layout: Layout,
    *,
    microbatches: int,
    devices: Sequence[str],
    steps: int,
    random: Random,
    coverage: Coverage,
    updates: str | None = None,
) -> Phase:
    """One phase that trains `job` alone by `steps` steps, drawn at random. `updates`: where all are; None: drawn."""
    per_cycle = random.choice([n for n in (1, 2) if steps % n == 0])
    update_place = {
        slab.name: random.choice([HOST, *devices]) if slab.trainable_bytes and random.random() < 0.6 else HOST
        for slab in layout.slabs
    }
    for shard in layout.shards:  # one device for all the slabs of a shard that are updated on devices
        for name, _ in shard.gradient_bytes:
            if update_place[name] != HOST:
                for other, _ in shard.gradient_bytes:
                    if update_place[other] != HOST:
                        update_place[other] = update_place[name]
    if any(len({update_place[name] for name, _ in shard.gradient_bytes} - {HOST}) > 1 for shard in layout.shards):
        update_place = dict.fromkeys(update_place, HOST)
    if updates is not None:
        update_place = {slab.name: updates if slab.trainable_bytes else HOST for slab in layout.slabs}
    resident = {device: {slab.name for slab in layout.slabs if random.random() < 0.3} for device in devices}
    for slab in layout.slabs:  # state that is updated on a device stays there only with its parameters
        if len(slab.readers) > 1:
            coverage.seen.add("tied weights")
    if any(resident.values()):
        coverage.seen.add("resident")
    cycle = _Cycle(
        job=job,
        layout=layout,
        microbatches=microbatches,
        devices=devices,
        random=random,
        coverage=coverage,
        update_place=update_place,
        resident=resident,
    )
    prologue: list[Step] = []
    for device in devices:
        for name in sorted(resident[device]):
            prologue.append(Load(device=device, job=job, slab=name))
            stale = layout.slab(name).updated_bytes and update_place[name] != device
            cycle.held[device, name] = -1 if stale else 0
            if update_place[name] == device:
                prologue.append(Load(device=device, job=job, slab=name, what="optimizer"))
                cycle.state[device, name] = 0
                cycle.dirty.add((device, name))
    cycle.dirty.clear()
    for name, place in update_place.items():  # from the second cycle on a resident one may be newer
        if place != HOST and name in resident[place]:
            cycle.dirty.add((place, name))
    start = set(cycle.dirty)
    for step in range(per_cycle):
        cycle.draw_step(step)
    cycle.finish()
    epilogue: list[Step] = []
    for device in devices:
        for name in sorted(resident[device]):
            if (device, name) in cycle.dirty | start:
                epilogue.append(Spill(device=device, job=job, slab=name))
                epilogue.append(Spill(device=device, job=job, slab=name, what="optimizer"))
            epilogue.append(Drop(device=device, job=job, slab=name))
            if (device, name) in cycle.state:
                epilogue.append(Drop(device=device, job=job, slab=name, what="optimizer"))
    coverage.plans += 1
    return Phase(
        repeat=steps // per_cycle, prologue=tuple(prologue), cycle=tuple(cycle.lines), epilogue=tuple(epilogue)
    )
