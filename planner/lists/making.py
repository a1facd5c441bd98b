"""Decisions -> lists: every phase decision becomes one or more phases of the plan (`lists.cycles` has the whole way).

    decision: a 100 steps, b 60 steps   ->   prologue (load residents), 20 x cycle (5 of a, 3 of b), epilogue

For each device the order of its cells is chosen among a few (`planner.lists.orders`), the engines are simulated
beside it (`planner.lists.dispatch`), and the arena of the list that results is laid out as the checker will do
it: where that exceeds the budget, the list is made again with less room, so with less prefetch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from hydraplan.planner.lists.cells import Builder
from hydraplan.planner.lists.contradictions import layouts_by_job
from hydraplan.planner.lists.dispatch import Dispatcher
from hydraplan.planner.lists.dispatched import Dispatch, merged
from hydraplan.planner.lists.fitting import ORDERS, Attempt, Fit, groups_of
from hydraplan.planner.lists.programs import Program
from hydraplan.planner.lists.rates import split
from hydraplan.planner.lists.views import JobView
from hydraplan.plans.analysis.arena import allocate
from hydraplan.plans.analysis.flow import Flow, trace
from hydraplan.plans.analysis.memory import device_memory
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Cuts, Decisions, Phase, Placement, Plan, Predictions, SolverRecord
from hydraplan.plans.language.steps import Drop, Forward, Load, SlabContent, Spill, Step
from hydraplan.plans.language.workload import Workload

REFINEMENTS = 2
"""Rooms that are tried between one that fits and one that does not."""
UNUSED = 20
"""Part of a budget that may stay unused without that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A phase, with what was found out about it."""

    phase: Phase
    plan: Plan
    """A draft of this phase alone: its jobs, each with the steps that the phase trains."""
    flow: Flow
    """Of that plan."""


class Found(NamedTuple):
    """What was found out about one device's jobs, as another maker of the same workload and cuts may be told it."""

    dispatch: Dispatch
    fit: Fit


Views = Mapping[str, Sequence[JobView]]
"""Device -> what runs there."""


class _List(NamedTuple):
    """The list of devices that share a link as it comes out, whether it fits or not."""

    dispatch: Dispatch
    peaks: dict[str, int]
    """Device -> bytes."""


class ListMaker:
    """Makes the phases of one workload under given cuts. What it finds for one phase serves others like it."""

    def __init__(self, workload: Workload, facts: Facts, cuts: tuple[Cuts, ...]) -> None:
        """Raises InvalidPlanError where facts are missing for a job's cuts."""
        self.workload = workload
        self.facts = facts
        self.cuts = cuts
        self.layouts = layouts_by_job(facts, cuts)
        self.jobs = {job.name: job for job in workload.jobs}
        self.copies = {job.job: job.state_copies for job in facts.jobs}
        self.devices = {device.name: device for device in workload.cluster.devices}
        self.lines = 0
        """Lines of cycles made so far."""
        self._ranks: dict[object, list[tuple[str, bool]]] = {}
        self._fits: dict[object, Fit] = {}
        self._dispatches: dict[object, tuple[Views, Dispatch]] = {}
        self._phases: dict[tuple[int, tuple[Placement, ...]], Phase] = {}
        self._latest: Made | None = None
        """The last draft."""

    def phases_of(self, placements: Sequence[Placement]) -> tuple[Phase, ...]:
        """The phases of one decision: whole cycles, and others for the steps that are left over. Raises
        InfeasibleError."""
        return tuple(self.phase(running, repeat) for repeat, running in self.cycles_of(placements))

    def cycles_of(self, placements: Sequence[Placement]) -> Iterator[tuple[int, list[Placement]]]:
        """The shortest cycles of one decision: how often each runs, and its placements with their steps in it."""
        for repeat, rates in split([placement.steps for placement in placements]):
            yield (
                repeat,
                [replace(placement, steps=rate) for placement, rate in zip(placements, rates, strict=True) if rate],
            )

    def view(self, placement: Placement) -> JobView:
        job = self.jobs[placement.job]
        return JobView(
            placement,
            self.layouts[job.name],
            self.workload.cluster,
            microbatches=job.microbatches,
            precision=job.precision,
            state_copies=self.copies[job.name],
        )

    def phase(self, placements: Sequence[Placement], repeat: int) -> Phase:
        """One phase; a placement's `steps` are those of one cycle. Raises InfeasibleError."""
        key = (repeat, tuple(placements))
        if key not in self._phases:
            by_link: dict[str, dict[str, list[JobView]]] = {}
            for placement in placements:
                by_device = by_link.setdefault(self.devices[placement.device].link, {})
                by_device.setdefault(placement.device, []).append(self.view(placement))
            dispatches = [self._dispatched(by_device, repeat) for by_device in by_link.values()]
            views = [view for by_device in by_link.values() for views in by_device.values() for view in views]
            self._phases[key] = _assembled(views, merged(dispatches), repeat)
        return self._phases[key]

    def made(self, placements: Sequence[Placement], repeat: int) -> Made:
        """The same, with its flow."""
        phase = self.phase(placements, repeat)
        if self._latest is None or self._latest.phase != phase:
            self._latest = self._draft(phase)
        return self._latest

    def found(self, placements: Sequence[Placement], repeat: int) -> Found:
        """What this maker knows of the jobs of one device, whose phase it has made."""
        views = [self.view(placement) for placement in placements]
        key = _alike(views), repeat > 1
        return Found(self._dispatched({placements[0].device: views}, repeat), self._fits[key])

    def learn(self, placements: Sequence[Placement], repeat: int, found: Found) -> None:
        """The same, from another maker."""
        views = [self.view(placement) for placement in placements]
        by_device = {placements[0].device: views}
        self._keep(by_device, repeat, found.dispatch)
        self._fits[_alike(views), repeat > 1] = found.fit

    # -- the devices of one link --------------------------------------------------------------------

    def _dispatched(self, by_device: Views, repeat: int) -> Dispatch:
        """The list of devices that share a link; that of others like them, where there is one, with other names.

        Other links are left out of account, though the host's update workers serve them all.
        """
        key = _key(by_device, repeat)
        if key not in self._dispatches:
            self._keep(by_device, repeat, self._together(by_device, repeat))
        like, dispatch = self._dispatches[key]
        jobs = {
            one.name: other.name
            for theirs, ours in zip(like.values(), by_device.values(), strict=True)
            for one, other in zip(theirs, ours, strict=True)
        }
        return dispatch.renamed(jobs, dict(zip(like, by_device, strict=True)))

    def _keep(self, by_device: Views, repeat: int, dispatch: Dispatch) -> None:
        key = _key(by_device, repeat)
        if key not in self._dispatches:
            self._dispatches[key] = by_device, dispatch
            self.lines += len(dispatch.lines)

    def _together(self, by_device: Views, repeat: int) -> Dispatch:
        if len(by_device) == 1:
            ((name, views),) = by_device.items()
            return self._by_itself(name, views, repeat)
        devices = {}
        for name, views in by_device.items():
            self._dispatched({name: views}, repeat)  # beside others it will be about the same
            devices[name] = self._attempt(name, views, self._fits[_alike(views), repeat > 1])
        return self._fitted(devices, repeat).dispatch

    def _by_itself(self, name: str, views: Sequence[JobView], repeat: int) -> Dispatch:
        """One device's list. Where the first that fits leaves much unused, some rooms between it and the last that
        did not are tried, and the fastest is taken."""
        device = self._attempt(name, views, None)
        found = self._fitted({name: device}, repeat)
        fit, best = Fit(device.variant, device.room), found.dispatch
        low, high = device.room, device.failed
        for _ in range(REFINEMENTS):
            if high is None or device.budget - found.peaks[name] < device.budget // UNUSED:
                break
            device.room = (low + high) // 2
            try:
                tried = self._try({name: device}, repeat)
            except InfeasibleError:
                break
            if tried.peaks[name] > device.budget:
                high = device.room
                continue
            low, found = device.room, tried
            if found.dispatch.length_us < best.length_us:
                fit, best = Fit(device.variant, device.room), found.dispatch
        self._fits[_alike(views), repeat > 1] = fit
        return best

    def _attempt(self, name: str, views: Sequence[JobView], fit: Fit | None) -> Attempt:
        return Attempt(name, views, self.devices[name].budget_bytes, self.ranked(name, views), fit)

    def _fitted(self, devices: Mapping[str, Attempt], repeat: int) -> _List:
        """Lists are made again with less room, then in other orders, until they fit their devices."""
        while True:
            try:
                tried = self._try(devices, repeat)
            except InfeasibleError as error:
                if error.device is None:
                    raise
                devices[error.device].give_up(error)
                continue
            over = {name: peak - devices[name].budget for name, peak in tried.peaks.items()}
            if all(missing <= 0 for missing in over.values()):
                return tried
            for name, missing in over.items():
                if missing > 0:
                    devices[name].lower(missing)

    def _try(self, devices: Mapping[str, Attempt], repeat: int) -> _List:
        """Raises InfeasibleError where a cell cannot have what it needs."""
        views = [view for device in devices.values() for view in device.views]
        programs = {name: device.program for name, device in devices.items()}
        rooms = {name: device.room for name, device in devices.items()}
        dispatch = self._dispatch(views, programs, rooms, repeat > 1)
        made = self._latest = self._draft(_assembled(views, dispatch, repeat))
        memory = device_memory(made.plan, made.flow, allocate(made.plan, made.flow, host=False))
        return _List(dispatch, {name: memory[name].peak_bytes for name in devices})

    def _draft(self, phase: Phase) -> Made:
        steps: dict[str, set[int]] = defaultdict(set)
        for step in phase.cycle:
            if isinstance(step, Forward):
                steps[step.job].add(step.step)
        jobs = tuple(
            replace(job, steps=len(steps[job.name]) * phase.repeat) for job in self.workload.jobs if job.name in steps
        )
        workload = replace(self.workload, jobs=jobs)
        facts = replace(self.facts, jobs=tuple(each for each in self.facts.jobs if each.job in steps))
        cuts = tuple(each for each in self.cuts if each.job in steps)
        plan = draft(workload, facts, Decisions(cuts=cuts, phases=()), (phase,))
        flow = trace(plan)
        assert not flow.problems, flow.problems[0]
        return Made(phase=phase, plan=plan, flow=flow)

    # -- orders -------------------------------------------------------------------------------------

    def ranked(self, name: str, views: Sequence[JobView]) -> list[tuple[str, bool]]:
        """Orders by the period of their cycle, then the same with activations in host memory: the best order
        first; what needs least memory last."""
        key = _alike(views)
        if key not in self._ranks:
            orders = list(ORDERS) if len(views) > 1 else ["in turn"]
            if len(orders) > 1:
                orders.sort(key=lambda order: self._period_us(name, views, order))
            self._ranks[key] = [(order, False) for order in orders] + [("in turn", True)]
        return self._ranks[key]

    def _period_us(self, name: str, views: Sequence[JobView], order: str) -> int:
        period = period_us(name, self.devices[name].budget_bytes, views, order, self.workload.cluster.update_workers)
        return 1 << 60 if period is None else period

    # -- one phase ----------------------------------------------------------------------------------

    def _dispatch(
        self, views: Sequence[JobView], programs: Mapping[str, Program], rooms: Mapping[str, int], cyclic: bool
    ) -> Dispatch:
        """Twice: first to see what would come late. Residents whose refresh would stand behind all cells are
        refreshed at the next cycle's start instead, so that the load engine does not wait there for the last
        updates; what the next cycle needs first, and the load engine has time for, is held over the border."""
        workers = self.workload.cluster.update_workers
        first = Dispatcher(views, programs, rooms, workers, cyclic=cyclic).run()
        if not (first.tail or first.ahead):
            return first
        return Dispatcher(views, programs, rooms, workers, cyclic=cyclic, like=first).run()


def _assembled(views: Sequence[JobView], dispatch: Dispatch, repeat: int) -> Phase:
    """A phase of a cycle's lines, with a prologue and an epilogue for what is held over its border."""
    prologue: list[Step] = []
    epilogue: list[Step] = []
    for view in views:
        for slab in sorted(view.placement.resident, key=lambda name: (view.slabs[name].readers, name)):
            where = view.placement.device
            with_state = view.state_on_device(slab)
            contents: tuple[SlabContent, ...] = ("parameters", "optimizer") if with_state else ("parameters",)
            prologue += [Load(device=where, job=view.name, slab=slab, what=what) for what in contents]
            if slab in view.on_device:
                epilogue += [Spill(device=where, job=view.name, slab=slab, what=what) for what in contents]
            epilogue += [Drop(device=where, job=view.name, slab=slab, what=what) for what in contents]
    devices = {view.name: view.placement.device for view in views}
    for key in dispatch.ahead:
        prologue.append(Load(device=devices[key.job], job=key.job, slab=key.slab))
        epilogue.append(Drop(device=devices[key.job], job=key.job, slab=key.slab))
    return Phase(repeat=repeat, prologue=tuple(prologue), cycle=tuple(dispatch.lines), epilogue=tuple(epilogue))


def _key(by_device: Views, repeat: int) -> object:
    return tuple(_alike(views) for views in by_device.values()), repeat > 1


def _alike(views: Sequence[JobView]) -> object:
    """Equal for jobs on devices that differ in name only, as far as one device's list goes."""
    return tuple(
        (
            replace(view.placement, job="", device=""),
            id(view.layout),
            view.microbatches,
            (view.precision, view.state_copies),
            (view.device.budget_bytes, view.profile.name, view.load_rate, view.spill_rate),
        )
        for view in views
    )


def period_us(name: str, budget_bytes: int, views: Sequence[JobView], order: str, workers: int) -> int | None:
    """What a second cycle adds to the first, simulated on this device alone; None where it does not fit."""
    lengths = []
    for copies in (1, 2):
        steps = [view.placement.steps for view in views]
        groups = [
            group._replace(step=group.step + copy * steps[group.job])
            for copy in range(copies)
            for group in groups_of(order, views)
        ]
        program = Builder(name, views, groups, False).build()
        rooms = {name: budget_bytes - program.outside_bytes}
        try:
            lengths.append(Dispatcher(views, {name: program}, rooms, workers, cyclic=False).run().length_us)
        except InfeasibleError:
            return None
    return lengths[1] - lengths[0]


def draft(workload: Workload, facts: Facts, decisions: Decisions, phases: tuple[Phase, ...]) -> Plan:
    """A plan without predictions, for what derives from its lists alone."""
    return Plan(
        workload=workload,
        facts=facts,
        facts_digest="",
        decisions=decisions,
        lists_from="",
        lists_digest="",
        phases=phases,
        predictions=Predictions(
            makespan_us=0, lower_bound_us=0, gap=0.0, host_peak_bytes=0, host_update_us=0, devices=(), jobs=()
        ),
        solver=SolverRecord(name="", status="", objective_us=0, bound_us=0, gap=0.0, list_schedule_us=0),
    )


__all__ = ["ORDERS", "ListMaker", "Made", "draft", "period_us"]
