"""Groups in order -> the program of a device: what each cell needs, makes and frees, and when.

Values live from the cell that makes them to their last reader, which is a forward where nothing upstream of it is
trained; slabs are loaded for every group that reads
them, unless resident; accumulators live until they are spilled or used up by an update on the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from hydraplan.planner.lists.orders import Group
from hydraplan.planner.lists.programs import FAR, Cell, Program, SlabKey, Token, Transfer
from hydraplan.planner.lists.views import JobView
from hydraplan.plans.analysis.arena import align
from hydraplan.plans.analysis.flow import gradient_tree
from hydraplan.plans.language.steps import (
    Backward,
    Fetch,
    FetchBatch,
    Forward,
    Load,
    Save,
    SlabContent,
    Spill,
    SpillGradients,
    Update,
)
from hydraplan.plans.prediction.durations import ceil_us

OFFLOAD_DISTANCE = 2
"""Groups between forward and backward from which on an activation is worth a trip to the host."""


class Builder:
    """Builds the program of one device from its groups in order."""

    def __init__(self, device: str, views: Sequence[JobView], groups: Sequence[Group], offload: bool) -> None:
        self.device = device
        self.views = views
        self.groups = groups
        self.offload = offload
        self.cells: list[Cell] = []
        self.loads: list[Transfer] = []
        self.refreshes: dict[Token, Transfer] = {}
        self.gradients_due: dict[Token, int] = defaultdict(int)
        self.at: dict[tuple[int, int, int, bool, int], int] = {}
        """(job, step, shard, backward, microbatch) -> cell."""
        self.updates: dict[tuple[int, int, str], int] = {}
        self.ends: list[int] = []
        """Group -> its last cell."""
        self.lives: list[tuple[int, int, int, int]] = []
        """(first cell, last cell, last cell lagged, bytes)."""

    def build(self) -> Program:
        for group in self.groups:
            self._cells(group)
        for position, group in enumerate(self.groups):
            self._values(position, group)
        self._slabs()
        self._number_loads()
        lived, lagged = self._profile()
        return Program(
            device=self.device,
            cells=self.cells,
            loads=self.loads,
            refreshes=self.refreshes,
            gradients_due=dict(self.gradients_due),
            resident_bytes=self._resident_bytes(),
            outside_bytes=self._outside_bytes(),
            lived=lived,
            lagged=lagged,
        )

    def _cells(self, group: Group) -> None:
        view = self.views[group.job]
        for microbatch in range(view.microbatches):
            self.at[group.job, group.step, group.shard, group.backward, microbatch] = len(self.cells)
            if group.backward:
                self.cells.append(
                    Cell(
                        Backward(
                            device=self.device,
                            job=view.name,
                            shard=group.shard,
                            microbatch=microbatch,
                            step=group.step,
                        ),
                        view.backward_us(group.shard),
                    )
                )
            else:
                self.cells.append(
                    Cell(
                        Forward(
                            device=self.device,
                            job=view.name,
                            shard=group.shard,
                            microbatch=microbatch,
                            keep=group.shard in view.keep,
                            step=group.step,
                        ),
                        view.forward_us(group.shard),
                    )
                )
        for slab in view.layout.shards[group.shard].slabs:
            if slab in view.on_device and view.last_group[slab] == (group.shard, group.backward):
                self.updates[group.job, group.step, slab] = len(self.cells)
                update = Update(device=self.device, job=view.name, slab=slab, step=group.step)
                self.cells.append(Cell(update, view.update_us(slab, host=False)))
        self.ends.append(len(self.cells) - 1)

    # -- values: activations, their gradients, batches, accumulators --------------------------------

    def _live(self, first: int, last: int, size: int, lagged: int | None = None) -> None:
        self.lives.append((first, last, last if lagged is None else lagged, align(size)))

    def _values(self, position: int, group: Group) -> None:
        view = self.views[group.job]
        for microbatch in range(view.microbatches):
            if group.backward:
                self._activation_gradients(view, group, microbatch)
            else:
                self._activations(view, group, microbatch)
                self._batch(view, group, microbatch)
                self._buffers(view, group, microbatch)
        if group.backward:
            for slab, size in view.layout.shards[group.shard].gradient_bytes:
                self._accumulators(position, view, group, slab, size)
        self._bare_updates(view, group)

    def _cell(self, group: Group, shard: int, backward: bool, microbatch: int) -> int:
        return self.at[group.job, group.step, shard, backward, microbatch]

    def _activations(self, view: JobView, group: Group, microbatch: int) -> None:
        shard = view.layout.shards[group.shard]
        if not shard.activation_bytes:
            return
        made = self._cell(group, group.shard, False, microbatch)
        cell = dict(device=self.device, job=view.name, shard=group.shard, microbatch=microbatch, step=group.step)
        size = align(shard.activation_bytes)
        save = Save(what="activations", **cell)  # type: ignore[arg-type]
        out = ceil_us(shard.activation_bytes, view.spill_rate)
        self.cells[made].makes += size
        if group.shard == len(view.layout.shards) - 1:
            self.cells[made].spills.append(Transfer(save, out, size))
            self._live(made, made, size)
            return
        last_forward = self._cell(group, view.last_forward[group.shard], False, microbatch)
        if group.shard not in view.backward_readers:
            self.cells[last_forward].frees += size
            self._live(made, last_forward, size)
            return
        first_reader, last_reader = view.backward_readers[group.shard]
        first_back = self._cell(group, first_reader, True, microbatch)
        last_back = self._cell(group, last_reader, True, microbatch)
        turn = len(view.layout.shards) - 1 - first_reader
        if not self.offload or turn < OFFLOAD_DISTANCE:
            self.cells[last_back].frees += size
            self._live(made, last_back, size)
            return
        saved = Token(view.name, group.step, f"save {group.shard} {microbatch}")
        self.cells[last_forward].spills.append(Transfer(save, out, size, done=saved))
        self._live(made, last_forward, size)
        fetch = Fetch(what="activations", **cell)  # type: ignore[arg-type]
        duration = ceil_us(shard.activation_bytes, view.load_rate)
        self.loads.append(Transfer(fetch, duration, size, first_back, last_back, after=saved))
        self.cells[last_back].frees += size

    def _activation_gradients(self, view: JobView, group: Group, microbatch: int) -> None:
        for producer in view.layout.shards[group.shard].gradients_to:
            if view.first_gradient[producer] == group.shard:
                size = align(view.layout.shards[producer].activation_gradient_bytes)
                made = self._cell(group, group.shard, True, microbatch)
                last = self._cell(group, view.last_gradient[producer], True, microbatch)
                self.cells[made].makes += size
                self.cells[last].frees += size
                self._live(made, last, size)

    def _batch(self, view: JobView, group: Group, microbatch: int) -> None:
        size = view.layout.shards[group.shard].batch_bytes
        if size:
            first = self._cell(group, group.shard, False, microbatch)
            last = self._cell(group, group.shard, view.has_backward(group.shard), microbatch)
            fetch = FetchBatch(
                device=self.device, job=view.name, shard=group.shard, microbatch=microbatch, step=group.step
            )
            self.loads.append(Transfer(fetch, ceil_us(size, view.load_rate), align(size), first, last))
            self.cells[last].frees += align(size)

    def _buffers(self, view: JobView, group: Group, microbatch: int) -> None:
        """What a forward makes of its buffers: for the next microbatch's cells, the last for the slab's update."""
        shard = view.layout.shards[group.shard]
        if not shard.buffer_bytes:
            return
        made, size = self._cell(group, group.shard, False, microbatch), align(shard.buffer_bytes)
        self.cells[made].makes += size
        slab = next(slab for slab in shard.slabs if view.slabs[slab].buffer_bytes)
        if microbatch + 1 == view.microbatches and slab not in view.on_device:
            save = Save(
                device=self.device,
                job=view.name,
                shard=group.shard,
                microbatch=microbatch,
                what="buffers",
                step=group.step,
            )
            token = Token(view.name, group.step, f"update {slab}")
            out = ceil_us(shard.buffer_bytes, view.spill_rate)
            self.cells[made].spills.append(Transfer(save, out, size, done=token))
            self.gradients_due[token] += 1
            self._live(made, made, size)
            return
        if microbatch + 1 == view.microbatches:
            last = self.updates[group.job, group.step, slab]
        else:
            last = self._cell(group, group.shard, view.has_backward(group.shard), microbatch + 1)
        self.cells[last].frees += size
        self._live(made, last, size)

    def _accumulators(self, position: int, view: JobView, group: Group, slab: str, size: int) -> None:
        """One lives from its first backward to its spill or update; the others until they are added to it."""
        room = align(size)
        tree = gradient_tree(view.microbatches)
        open_nodes: dict[tuple[int, int], int] = {}
        for microbatch in range(view.microbatches):
            at = self._cell(group, group.shard, True, microbatch)
            node = (microbatch, microbatch + 1)
            began = -1
            while node in tree and tree[node][0] in open_nodes:
                sibling, node = tree[node]
                if began >= 0:
                    self.cells[at].frees += room
                    self._live(began, at, size)
                began = open_nodes.pop(sibling)
            if began < 0:
                began = at
                self.cells[at].makes += room
            open_nodes[node] = began
        ((_, began),) = open_nodes.items()
        if slab in view.on_device:
            update = self.updates[group.job, group.step, slab]
            self.cells[update].frees += room
            self._live(began, update, size)
            return
        last = self._cell(group, group.shard, True, view.microbatches - 1)
        lagged = self.ends[min(position + 1, len(self.ends) - 1)]
        self._live(began, last, size, lagged)
        token = Token(view.name, group.step, f"update {slab}")
        spill = SpillGradients(
            device=self.device,
            job=view.name,
            slab=slab,
            shard=group.shard,
            microbatches=(0, view.microbatches),
            step=group.step,
        )
        self.cells[last].spills.append(Transfer(spill, ceil_us(size, view.spill_rate), room, done=token))
        self.gradients_due[token] += 1

    def _bare_updates(self, view: JobView, group: Group) -> None:
        """A trained slab without any gradient is updated all the same: every slab is, once a step."""
        for slab in view.layout.shards[group.shard].slabs:
            facts = view.slabs[slab]
            graded = any(slab in view.gradients[reader] for reader in facts.readers)
            last_read = view.last_group[slab] == (group.shard, group.backward)
            waited_for = graded or facts.buffer_bytes
            if facts.trainable_bytes and not waited_for and last_read and slab not in view.on_device:
                last = self._cell(group, group.shard, group.backward, view.microbatches - 1)
                self.cells[last].updates.append(Token(view.name, group.step, f"update {slab}"))

    # -- slabs --------------------------------------------------------------------------------------

    def _slabs(self) -> None:
        spans: dict[tuple[int, int], dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for group in self.groups:
            view = self.views[group.job]
            first = self._cell(group, group.shard, group.backward, 0)
            last = self._cell(group, group.shard, group.backward, view.microbatches - 1)
            for slab in view.layout.shards[group.shard].slabs:
                end = last
                if view.last_group[slab] == (group.shard, group.backward):
                    end = self.updates.get((group.job, group.step, slab), last)
                spans[group.job, group.step][slab].append((first, end))
        for (job, step), uses in spans.items():
            for slab, each in uses.items():
                if slab in self.views[job].resident:
                    self._resident(self.views[job], step, slab, each)
                else:
                    self._streamed(self.views[job], job, step, slab, each)

    def _resident(self, view: JobView, step: int, slab: str, spans: list[tuple[int, int]]) -> None:
        if slab in view.on_device or not view.slabs[slab].updated_bytes:
            return
        token = Token(view.name, step, f"update {slab}")
        before = token._replace(step=step - 1)
        first = spans[0][0]
        self.cells[first].refreshed.append(before)
        size = view.changed_bytes(slab, "parameters")
        load = Load(device=self.device, job=view.name, slab=slab)
        copy = Transfer(load, ceil_us(size, view.load_rate), 0, first, first, after=before)
        self.refreshes[before] = copy
        self.refreshes.setdefault(token, replace(copy, first=FAR, last=FAR, after=token))

    def _streamed(self, view: JobView, job: int, step: int, slab: str, spans: list[tuple[int, int]]) -> None:
        size = view.bytes_of(slab, "parameters")
        key = SlabKey(view.name, slab, "parameters")
        update = self.updates.get((job, step, slab))
        before = self._before(view, slab, step, "parameters")
        for number, (first, last) in enumerate(spans):
            load = Load(device=self.device, job=view.name, slab=slab)
            self.loads.append(
                Transfer(load, ceil_us(size, view.load_rate), align(size), first, last, after=before, slab=key)
            )
            following = spans[number + 1][0] if number + 1 < len(spans) else None
            if following is not None or update is None:
                self.cells[last].releases.append((key, align(size), following))
        if update is None:
            return
        self._write_back(view, step, slab, "parameters", update)
        if view.state_on_device(slab):
            state = view.bytes_of(slab, "optimizer")
            self.loads.append(
                Transfer(
                    Load(device=self.device, job=view.name, slab=slab, what="optimizer"),
                    ceil_us(state, view.load_rate),
                    align(state),
                    update,
                    update,
                    after=self._before(view, slab, step, "optimizer"),
                    slab=SlabKey(view.name, slab, "optimizer"),
                )
            )
            self._write_back(view, step, slab, "optimizer", update)

    def _before(self, view: JobView, slab: str, step: int, what: SlabContent) -> Token | None:
        """What a load of a slab in a training step waits for: the update or write back of the step before."""
        if step == 0 or not view.slabs[slab].updated_bytes:
            return None
        return Token(view.name, step - 1, f"spill {slab} {what}" if slab in view.on_device else f"update {slab}")

    def _write_back(self, view: JobView, step: int, slab: str, what: SlabContent, update: int) -> None:
        spill = Spill(device=self.device, job=view.name, slab=slab, what=what)
        self.cells[update].spills.append(
            Transfer(
                spill,
                ceil_us(view.changed_bytes(slab, what), view.spill_rate),
                align(view.bytes_of(slab, what)),
                done=Token(view.name, step, f"spill {slab} {what}"),
                slab=SlabKey(view.name, slab, what),
            )
        )

    def _number_loads(self) -> None:
        self.loads.sort(key=lambda load: load.first)  # stable: by first use, then as built
        for number, load in enumerate(self.loads):
            load.number = number
            self.cells[load.first].needs.append(number)

    # -- memory -------------------------------------------------------------------------------------

    def _profile(self) -> tuple[list[int], list[int]]:
        profiles = []
        for lagged in (False, True):
            change = [0] * (len(self.cells) + 1)
            for first, last, late, size in self.lives:
                change[first] += size
                change[(late if lagged else last) + 1] -= size
            alive, total = [], 0
            for each in change[:-1]:
                total += each
                alive.append(total)
            profiles.append(alive)
        return profiles[0], profiles[1]

    def _resident_bytes(self) -> int:
        total = 0
        for view in self.views:
            for slab in view.placement.resident:
                total += align(view.bytes_of(slab, "parameters"))
                if view.state_on_device(slab):
                    total += align(view.bytes_of(slab, "optimizer"))
        return total

    def _outside_bytes(self) -> int:
        """As `plans.analysis.memory` counts: kept activations in order, and the workspace of what runs."""
        views = {view.name: view for view in self.views}
        held = most = 0
        for cell in self.cells:
            step = cell.step
            if isinstance(step, Forward):
                shard = views[step.job].layout.shards[step.shard]
                held += shard.kept_bytes if step.keep else 0
                most = max(most, held + (shard.keep_workspace_bytes if step.keep else shard.forward_workspace_bytes))
            elif isinstance(step, Backward):
                shard = views[step.job].layout.shards[step.shard]
                if step.shard in views[step.job].keep:
                    most = max(most, held + shard.backward_workspace_bytes)
                    held -= shard.kept_bytes
                else:
                    most = max(most, held + shard.recompute_workspace_bytes)
            elif isinstance(step, Update):
                most = max(most, held + views[step.job].update_workspace_bytes(step.slab))
        return most
