"""List scheduling: the order in which the steps of one list are written, from a simulation of its engines.

Each device's compute order is given (`planner.lists.orders`). Beside it a load starts as early as memory allows,
in order of first use; spills and updates as soon as they can. The lines come out in order of time:

    compute   |F0 |F1 |F2 |B2 |B1 |        a line stands at its start,
    load      |L1 |L2 |L3 ...              a load too (it takes memory then),
    spill             |g2 |g1 |            a spill, an update and a drop at its end (it frees memory then)

so that what lives at once in the list is what lives at once in time.

A load may start when it fits beside all that runs until its last use: the values of those cells, the
loads already granted, and the residents. What is not needed at the moment but again in the same training
step stays as long as nobody else needs the room; who is needed last goes first (Belady).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush

from hydraplan.planner.lists.dispatched import Dispatch
from hydraplan.planner.lists.engines import DeviceState
from hydraplan.planner.lists.programs import FAR, Cell, Program, SlabKey, Token, Transfer
from hydraplan.planner.lists.views import JobView
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.steps import Drop, Step, Update
from hydraplan.plans.language.workload import HOST

AHEAD = 12
"""First slabs of the next cycle that may be loaded before it begins."""
LOOKAHEAD = 6
"""Loads that may be overtaken by one that is ready."""


class Dispatcher:
    """Simulates the engines of all devices of a phase over one list."""

    def __init__(
        self,
        views: Sequence[JobView],
        programs: Mapping[str, Program],
        rooms: Mapping[str, int],
        workers: int,
        *,
        cyclic: bool,
        like: Dispatch | None = None,
    ) -> None:
        """`rooms`: device -> bytes for its arena. `like`: an earlier pass, whose `tail` is loaded again at the
        list's start instead, and whose `ahead` is held over the border. Not `cyclic`: the list runs once."""
        self.views = {view.name: view for view in views}
        self.devices = {name: DeviceState(programs[name], rooms[name]) for name in programs}
        self.device_links = {view.device.name: view.device.link for view in views}
        self.busy: set[tuple[str, str]] = set()
        """(link, direction) with a copy on it."""
        self.due: dict[Token, int] = {}
        self.workers = workers
        self.ready: deque[Token] = deque()
        """Updates that wait for a worker of the host."""
        self.events: list[tuple[int, int, str, str, Cell | Transfer | Token]] = []
        self.number = 0
        self.now = 0
        self.lines: list[Step] = []
        self.times: list[int] = []
        self.cyclic = cyclic
        self.like = like
        self.head = {Token(job, -1, f"update {slab}") for job, slab in like.tail} if like else set()
        self.tail: set[tuple[str, str]] = set()
        for device in self.devices.values():
            if like is not None:
                device.begin_with(like.ahead)
            self.due.update(device.program.gradients_due)
            for token, load in device.program.refreshes.items():
                if token in self.head and cyclic:
                    self._push_refresh(device, load)
                elif token.step < 0:
                    device.fresh.add(token)

    def run(self) -> Dispatch:
        """Raises InfeasibleError where a cell cannot have what it needs."""
        for name, device in self.devices.items():
            self._dispatch(name, device)
        while self.events:
            self.now = self.events[0][0]
            touched: set[str] = set()
            while self.events and self.events[0][0] == self.now:
                _, _, kind, name, subject = heappop(self.events)
                touched |= self._finish(kind, name, subject)
            while self.ready and self.workers:
                token = self.ready.popleft()
                self.workers -= 1
                view = self.views[token.job]
                self._at(view.update_us(_slab_of(token), host=True), "update", view.device.name, token)
            for name, device in self.devices.items():
                if name in touched:
                    self._dispatch(name, device)
        for name, device in self.devices.items():
            if not device.done:
                self._refuse(name, device)
        return Dispatch(
            lines=self.lines,
            times=self.times,
            tail=frozenset(self.tail),
            ahead=tuple(key for device in self.devices.values() for key in device.ahead),
            length_us=self.now,
        )

    def _at(self, delay_us: int, kind: str, name: str, subject: Cell | Transfer | Token) -> None:
        self.number += 1
        heappush(self.events, (self.now + delay_us, self.number, kind, name, subject))

    def _write(self, step: Step) -> None:
        self.lines.append(step)
        self.times.append(self.now)

    # -- what ends ----------------------------------------------------------------------------------

    def _finish(self, kind: str, name: str, subject: Cell | Transfer | Token) -> set[str]:
        """Take note of an end; returns the devices that may go on by it."""
        device = self.devices[name]
        if isinstance(subject, Token):
            self._updated(device, subject)
        elif isinstance(subject, Cell):
            self._cell_done(name, device, subject)
        else:
            link = self._link(name)
            self.busy.discard((link, kind))
            if kind == "load":
                self._loaded(device, subject)
            else:
                self._spilled(name, device, subject)
            return {other for other in self.devices if self._link(other) == link}
        return {name}

    def _updated(self, device: DeviceState, token: Token) -> None:
        self.workers += 1
        self._write(Update(device=HOST, job=token.job, slab=_slab_of(token), step=token.step))
        device.tokens.add(token)
        load = device.program.refreshes.get(token)
        if load is not None and (load.first != FAR or (self.cyclic and token._replace(step=-1) not in self.head)):
            self._push_refresh(device, load)

    def _push_refresh(self, device: DeviceState, load: Transfer) -> None:
        self.number += 1
        heappush(device.refreshes, (load.first, self.number, load))

    def _cell_done(self, name: str, device: DeviceState, cell: Cell) -> None:
        device.running = False
        device.cell += 1
        device.used -= cell.frees
        for key, size, following in cell.releases:
            if device.promised[key]:
                device.arrived[device.promised[key].popleft().number] = True
                continue
            del device.active[key]
            if following is None:
                self._drop(name, device, key, size)
            else:
                device.cached[key] = (following, size)
        device.spills.extend(cell.spills)
        self.ready.extend(cell.updates)

    def _loaded(self, device: DeviceState, load: Transfer) -> None:
        device.loading = False
        if load.number >= 0:
            device.arrived[load.number] = True
        elif load.after is not None:
            device.fresh.add(load.after)

    def _spilled(self, name: str, device: DeviceState, spill: Transfer) -> None:
        device.spilling = False
        self._write(spill.step)
        if spill.slab is not None:
            device.active.pop(spill.slab, None)
            self._drop(name, device, spill.slab, spill.bytes)
        else:
            device.used -= spill.bytes
        if spill.done is None:
            return
        if spill.done in self.due:
            self.due[spill.done] -= 1
            if not self.due[spill.done]:
                self.ready.append(spill.done)
        else:
            device.tokens.add(spill.done)

    def _drop(self, name: str, device: DeviceState, key: SlabKey, size: int) -> None:
        self._write(Drop(device=name, job=key.job, slab=key.slab, what=key.what))
        device.used -= size

    # -- what starts --------------------------------------------------------------------------------

    def _dispatch(self, name: str, device: DeviceState) -> None:
        self._start_spill(name, device)
        self._start_loads(name, device)
        if self._start_cell(name, device):
            self._start_loads(name, device)

    def _start_cell(self, name: str, device: DeviceState) -> bool:
        if device.running or device.done:
            return False
        cell = device.program.cells[device.cell]
        if not all(device.arrived[number] for number in cell.needs):
            return False
        if not all(token in device.fresh for token in cell.refreshed):
            return False
        if not self._make_room(name, device, cell.makes, after=-1):
            return False
        device.take(cell.makes)
        device.running = True
        self._write(cell.step)
        self._at(cell.duration_us, "cell", name, cell)
        return True

    def _start_spill(self, name: str, device: DeviceState) -> None:
        if device.spilling or not device.spills or (self._link(name), "spill") in self.busy:
            return
        spill = device.spills.popleft()
        device.spilling = True
        self.busy.add((self._link(name), "spill"))
        self._at(spill.duration_us, "spill", name, spill)

    def _start_loads(self, name: str, device: DeviceState) -> None:
        """Grant what is there already; start one load where the engine is free."""
        free = not device.loading and (self._link(name), "load") not in self.busy
        urgent = device.refreshes[0][0] if device.refreshes else FAR
        if free and device.waiting and urgent <= device.waiting[0].first:
            free = self._refresh(name, device)
        skipped, reserved, position = 0, 0, 0
        while position < len(device.waiting) and skipped < LOOKAHEAD:
            load = device.waiting[position]
            if load.slab in device.cached:
                if device.most(load.last) + reserved + load.bytes > device.room:
                    break
                self._reuse(device, load)
                continue
            if load.after is not None and load.after not in device.tokens:
                skipped += 1
                reserved += load.bytes
                position += 1
                continue
            if load.slab in device.active:
                if not self._promise(device, load, reserved):
                    break
                continue
            if not free or device.most(load.last) + reserved + load.bytes > device.room:
                break
            if not self._make_room(name, device, load.bytes, after=load.first):
                break
            self._load(name, device, load)
            free = False
        if free and device.refreshes:
            free = self._refresh(name, device)
        if free and self.cyclic and not device.waiting:
            self._load_ahead(name, device)

    def _load_ahead(self, name: str, device: DeviceState) -> None:
        """Start a load for the next cycle: of what its first cells need, while this one's last cells run."""
        if self.like is None and device.done:
            return
        last = len(device.program.cells) - 1
        for load in device.firsts[:AHEAD]:
            key = load.slab
            assert key is not None
            planned = not device.ahead.get(key, True) if self.like is not None else key not in device.ahead
            if not planned or key.what != "parameters" or key in device.active or key in device.cached:
                continue
            if not self._is_newest(device, key):
                continue
            if device.used + load.bytes > device.room:
                return
            if not device.done and device.most(last) + load.bytes > device.room:
                return
            if self.like is None and int(device.following[: load.last + 1].max()) + load.bytes > device.room:
                return
            device.following[: load.last + 1] += load.bytes
            device.ahead[key] = True
            device.active[key] = last
            device.take(load.bytes)
            device.hold(last, load.bytes)
            self._start_copy(name, device, replace(load, number=-1, after=None))
            return

    def _is_newest(self, device: DeviceState, key: SlabKey) -> bool:
        """Whether the host has the slab as the list's last training step of its job leaves it."""
        view = self.views[key.job]
        if not view.slabs[key.slab].updated_bytes:
            return True
        what = f"spill {key.slab} {key.what}" if key.slab in view.on_device else f"update {key.slab}"
        return Token(key.job, view.placement.steps - 1, what) in device.tokens

    def _reuse(self, device: DeviceState, load: Transfer) -> None:
        assert load.slab is not None
        del device.cached[load.slab]
        device.active[load.slab] = load.last
        device.waiting.remove(load)
        device.hold(load.last, load.bytes)
        device.arrived[load.number] = True

    def _promise(self, device: DeviceState, load: Transfer, reserved: int) -> bool:
        """Let an active slab stay for a later use, where memory allows."""
        assert load.slab is not None
        first = device.active[load.slab] + 1
        if device.most(load.last, first) + reserved + load.bytes > device.room:
            return False
        device.active[load.slab] = load.last
        device.waiting.remove(load)
        device.hold(load.last, load.bytes, first)
        device.promised[load.slab].append(load)
        return True

    def _load(self, name: str, device: DeviceState, load: Transfer) -> None:
        if load.slab is not None:
            device.active[load.slab] = load.last
        device.waiting.remove(load)
        device.take(load.bytes)
        device.hold(load.last, load.bytes)
        self._start_copy(name, device, load)

    def _refresh(self, name: str, device: DeviceState) -> bool:
        """Load a resident again; returns False: the engine is busy now."""
        _, _, load = heappop(device.refreshes)
        if device.done and load.first == FAR:
            assert load.after is not None
            self.tail.add((load.after.job, _slab_of(load.after)))
        self._start_copy(name, device, load)
        return False

    def _start_copy(self, name: str, device: DeviceState, load: Transfer) -> None:
        device.loading = True
        self.busy.add((self._link(name), "load"))
        self._write(load.step)
        self._at(load.duration_us, "load", name, load)

    def _make_room(self, name: str, device: DeviceState, size: int, *, after: int) -> bool:
        """Drop what is needed last, of what is needed only after a cell, until `size` bytes are free."""
        while device.used + size > device.room:
            following, key = max(((cell, key) for key, (cell, _) in device.cached.items()), default=(after, None))
            if key is None or following <= after:
                return False
            _, freed = device.cached.pop(key)
            self._drop(name, device, key, freed)
        return True

    def _link(self, name: str) -> str:
        return self.device_links[name]

    def _refuse(self, name: str, device: DeviceState) -> None:
        cell = device.program.cells[device.cell]
        load = next((load for load in device.waiting if load.first == device.cell), None)
        most = device.most(device.cell if load is None else load.last)
        missing = max(1, most + (0 if load is None else load.bytes) - device.room)
        step = cell.step
        what = f"slab {step.slab}" if isinstance(step, Update) else f"shard {getattr(step, 'shard', '?')}"
        raise InfeasibleError(
            f"{what} of {step.job} does not fit on {name}: {missing} bytes short",
            device=name,
            missing_bytes=missing,
        )


def _slab_of(token: Token) -> str:
    return token.what.removeprefix("update ")
