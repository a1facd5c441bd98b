"""Decisions -> lists: every phase decision becomes one or more phases of the plan.

    decision: a 100 steps, b 60 steps   ->   prologue (load residents), 20 x cycle (5 of a, 3 of b), epilogue

For each device the order of its cells is chosen among a few (`planner.orders`), the engines are simulated
beside it (`planner.dispatch`), and the arena of the list that results is laid out as the checker will do
it: where that exceeds the budget, the list is made again with less room, so with less prefetch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.cells import Builder
from planner.dispatch import Dispatch, Dispatcher
from planner.orders import Group, balanced, in_turn
from planner.programs import Program
from planner.rates import split
from planner.views import JobView
from plans.arena import allocate
from plans.errors import Finding, InfeasibleError, InvalidPlanError
from plans.facts import Facts, Layout
from plans.flow import trace
from plans.memory import device_memory
from plans.plan import Cuts, Decisions, Phase, Placement, Plan, Predictions, SolverRecord
from plans.steps import Drop, Load, SlabContent, Spill, Step
from plans.workload import Workload

ORDERS = ("balanced", "in turn")
"""Orders of a device's cells: `planner.orders`."""
GAPS = 48
"""Part of a budget that is first left for gaps between the arena's regions."""
LEAST_STEP = 128
"""Part of a budget by which room is lowered at least."""
ROOM_TRIES = 4
"""How often a device's room is lowered before another order is taken."""


def make_lists(workload: Workload, facts: Facts, decisions: Decisions) -> tuple[Phase, ...]:
    """The lists of a plan. Pure: the same input gives the same lists.

    Raises InvalidPlanError where the decisions contradict the workload, InfeasibleError (with the bytes that
    are missing) where a placement does not fit its device in any order.
    """
    layouts = layouts_by_job(facts, decisions.cuts)
    findings = list(contradictions(workload, layouts, decisions))
    if findings:
        raise InvalidPlanError(findings)
    return tuple(
        phase
        for decision in decisions.phases
        for phase in phases_of(workload, facts, decisions.cuts, layouts, decision.placements)
    )


def layouts_by_job(facts: Facts, cuts: Iterable[Cuts]) -> dict[str, Layout]:
    """Raises InvalidPlanError where facts are missing for a job's cuts."""
    graphs = {job.job: job.graph for job in facts.jobs}
    known = {(layout.graph, layout.cuts): layout for layout in facts.layouts}
    result: dict[str, Layout] = {}
    findings: list[Finding] = []
    for number, cut in enumerate(cuts):
        layout = known.get((graphs.get(cut.job, ""), cut.cuts))
        if layout is None:
            findings.append(
                _finding(f"/decisions/cuts/{number}", f"no facts for {cut.job} under these cuts", "plan it anew")
            )
        else:
            result[cut.job] = layout
    if findings:
        raise InvalidPlanError(findings)
    return result


def contradictions(workload: Workload, layouts: Mapping[str, Layout], decisions: Decisions) -> Iterator[Finding]:
    """Everything in the decisions that does not agree with the workload or the cuts."""
    devices = {device.name for device in workload.cluster.devices}
    planned: dict[str, int] = defaultdict(int)
    for number, phase in enumerate(decisions.phases):
        seen: set[str] = set()
        for index, placement in enumerate(phase.placements):
            at = f"/decisions/phases/{number}/placements/{index}"
            layout = layouts.get(placement.job)
            if layout is None:
                yield _finding(f"{at}/job", f"no job {placement.job}", f"name one of {', '.join(sorted(layouts))}")
                continue
            if placement.job in seen:
                yield _finding(f"{at}/job", f"{placement.job} runs twice in one phase", "place it once in a phase")
            seen.add(placement.job)
            if placement.device not in devices:
                yield _finding(
                    f"{at}/device", f"no device {placement.device}", f"name one of {', '.join(sorted(devices))}"
                )
            if placement.steps < 1:
                yield _finding(f"{at}/steps", f"{placement.steps} steps", "give it a step, or take it out")
            planned[placement.job] += placement.steps
            slabs = {slab.name for slab in layout.slabs}
            shards = range(len(layout.shards))
            for field, names in (("resident", placement.resident), ("device_updates", placement.device_updates)):
                for name in names:
                    if name not in slabs:
                        yield _finding(
                            f"{at}/{field}", f"{placement.job} has no slab {name}", f"it has {', '.join(sorted(slabs))}"
                        )
            for shard in placement.keep:
                if shard not in shards:
                    yield _finding(
                        f"{at}/keep", f"{placement.job} has no shard {shard}", f"its shards are 0 to {len(shards) - 1}"
                    )
    for job in workload.jobs:
        if planned[job.name] != job.steps:
            yield _finding(
                "/decisions/phases",
                f"the phases train {job.name} by {planned[job.name]} steps; its job says {job.steps}",
                "change the steps of a placement",
            )


def _finding(pointer: str, cause: str, remedy: str) -> Finding:
    return Finding(pointer=pointer, line=None, cause=cause, remedy=remedy)


def phases_of(
    workload: Workload,
    facts: Facts,
    cuts: tuple[Cuts, ...],
    layouts: Mapping[str, Layout],
    placements: Sequence[Placement],
) -> tuple[Phase, ...]:
    """The phases of one decision: whole cycles, and others for the steps that are left over."""
    maker = _Maker(workload, facts, cuts, layouts)
    phases = []
    for repeat, rates in split([placement.steps for placement in placements]):
        running = [replace(placement, steps=rate) for placement, rate in zip(placements, rates, strict=True) if rate]
        phases.append(maker.make(running, repeat))
    return tuple(phases)


@dataclass(frozen=True, slots=True)
class _Variant:
    """One order of a device's cells."""

    program: Program
    period_us: int


class _Maker:
    def __init__(self, workload: Workload, facts: Facts, cuts: tuple[Cuts, ...], layouts: Mapping[str, Layout]) -> None:
        self.workload = workload
        self.facts = facts
        self.cuts = cuts
        self.layouts = layouts
        self.jobs = {job.name: job for job in workload.jobs}
        self.copies = {job.job: job.state_copies for job in facts.jobs}
        self.budgets = {device.name: device.budget_bytes for device in workload.cluster.devices}
        self.chosen: dict[object, list[tuple[str, bool]]] = {}

    def make(self, placements: Sequence[Placement], repeat: int) -> Phase:
        """One phase; a placement's `steps` are those of one cycle."""
        by_device: dict[str, list[JobView]] = {}
        for placement in placements:
            view = JobView(
                placement,
                self.layouts[placement.job],
                self.workload.cluster,
                self.jobs[placement.job].microbatches,
                self.copies[placement.job],
            )
            by_device.setdefault(placement.device, []).append(view)
        variants = {name: self.variants(name, views) for name, views in by_device.items()}
        views = [view for each in by_device.values() for view in each]
        programs = {name: next(each) for name, each in variants.items()}
        rooms = {name: self.room(name, program) for name, program in programs.items()}
        tries: dict[str, int] = defaultdict(int)
        while True:
            try:
                phase = self.assemble(views, self.dispatch(views, programs, rooms, cyclic=repeat > 1), repeat)
            except InfeasibleError as error:
                if (tight := error.device) is None:
                    raise
                most = self.budgets[tight] - programs[tight].outside_bytes
                if tries[tight] == 0 and rooms[tight] < most:
                    rooms[tight] = most
                    continue
                tries[tight] = ROOM_TRIES
                over = {tight: error}
            else:
                over = self.overshoot(phase)
            if not over:
                return phase
            for name, short in over.items():
                tries[name] += 1
                if tries[name] <= ROOM_TRIES:
                    rooms[name] -= max(short.missing_bytes, self.budgets[name] // LEAST_STEP) * tries[name]
                    continue
                following = next(variants[name], None)
                if following is None:
                    raise self.infeasible(name, by_device[name], short)
                programs[name], tries[name] = following, 0
                rooms[name] = self.room(name, following)

    def room(self, name: str, program: Program) -> int:
        """Bytes for a device's arena, but for some that are likely lost between regions."""
        return self.budgets[name] - program.outside_bytes - self.budgets[name] // GAPS

    # -- orders -------------------------------------------------------------------------------------

    def variants(self, name: str, views: Sequence[JobView]) -> Iterator[Program]:
        """Programs of a device: the best order first; what needs least memory last."""
        key = (name, tuple((replace(view.placement, job=""), id(view.layout), view.microbatches) for view in views))
        if key not in self.chosen:
            self.chosen[key] = self.rank(name, views)
        for order, offload in self.chosen[key]:
            yield Builder(name, views, _groups(order, views), offload).build()

    def rank(self, name: str, views: Sequence[JobView]) -> list[tuple[str, bool]]:
        """Orders by the period of their cycle, then the same with activations in host memory."""
        orders = list(ORDERS) if len(views) > 1 else ["in turn"]
        if len(orders) > 1:
            orders.sort(key=lambda order: self.period_us(name, views, order))
        return [(order, False) for order in orders] + [("in turn", True)]

    def period_us(self, name: str, views: Sequence[JobView], order: str) -> int:
        period = period_us(name, self.budgets[name], views, order, self.workload.cluster.update_workers)
        return 1 << 60 if period is None else period

    # -- one phase ----------------------------------------------------------------------------------

    def dispatch(
        self, views: Sequence[JobView], programs: Mapping[str, Program], rooms: Mapping[str, int], *, cyclic: bool
    ) -> Dispatch:
        """Twice: first to see what would come late. Residents whose refresh would stand behind all cells are
        refreshed at the next cycle's start instead, so that the load engine does not wait there for the last
        updates; what the next cycle needs first, and the load engine has time for, is held over the border."""
        workers = self.workload.cluster.update_workers
        first = Dispatcher(views, programs, rooms, workers, cyclic=cyclic).run()
        if not (first.tail or first.ahead):
            return first
        return Dispatcher(views, programs, rooms, workers, cyclic=cyclic, like=first).run()

    def assemble(self, views: Sequence[JobView], dispatch: Dispatch, repeat: int) -> Phase:
        prologue: list[Step] = []
        epilogue: list[Step] = []
        for view in views:
            for slab in sorted(view.placement.resident, key=lambda name: (view.slabs[name].readers, name)):
                where = view.placement.device
                on_device = view.state_on_device(slab)
                contents: tuple[SlabContent, ...] = ("parameters", "optimizer") if on_device else ("parameters",)
                prologue += [Load(device=where, job=view.name, slab=slab, what=what) for what in contents]
                if on_device:
                    epilogue += [Spill(device=where, job=view.name, slab=slab, what=what) for what in contents]
                epilogue += [Drop(device=where, job=view.name, slab=slab, what=what) for what in contents]
        for key in dispatch.ahead:
            device = next(view.placement.device for view in views if view.name == key.job)
            prologue.append(Load(device=device, job=key.job, slab=key.slab))
            epilogue.append(Drop(device=device, job=key.job, slab=key.slab))
        return Phase(repeat=repeat, prologue=tuple(prologue), cycle=tuple(dispatch.lines), epilogue=tuple(epilogue))

    def overshoot(self, phase: Phase) -> dict[str, InfeasibleError]:
        """Devices whose budget the list exceeds, by how much."""
        plan = draft(self.workload, self.facts, Decisions(cuts=self.cuts, phases=()), (phase,))
        flow = trace(plan)
        memory = device_memory(plan, flow, allocate(plan, flow))
        return {
            name: InfeasibleError("", device=name, missing_bytes=each.peak_bytes - self.budgets[name])
            for name, each in memory.items()
            if each.peak_bytes > self.budgets[name]
        }

    def infeasible(self, name: str, views: Sequence[JobView], error: InfeasibleError) -> InfeasibleError:
        jobs = ", ".join(view.name for view in views)
        least = self.budgets[name] + error.missing_bytes
        return InfeasibleError(
            f"{jobs} on {name}: {error.missing_bytes:,} bytes short of what the decisions need there; "
            f"give {name} {least:,} bytes, or make fewer slabs resident",
            device=name,
            missing_bytes=error.missing_bytes,
        )


def period_us(name: str, budget_bytes: int, views: Sequence[JobView], order: str, workers: int) -> int | None:
    """What a second cycle adds to the first, simulated on this device alone; None where it does not fit."""
    lengths = []
    for copies in (1, 2):
        steps = [view.placement.steps for view in views]
        groups = [
            group._replace(step=group.step + copy * steps[group.job])
            for copy in range(copies)
            for group in _groups(order, views)
        ]
        program = Builder(name, views, groups, False).build()
        rooms = {name: budget_bytes - program.outside_bytes}
        try:
            lengths.append(Dispatcher(views, {name: program}, rooms, workers, cyclic=False).run().length_us)
        except InfeasibleError:
            return None
    return lengths[1] - lengths[0]


def _groups(order: str, views: Sequence[JobView]) -> list[Group]:
    steps = [view.placement.steps for view in views]
    return balanced(views, steps) if order == "balanced" else in_turn(views, steps)


def draft(workload: Workload, facts: Facts, decisions: Decisions, phases: tuple[Phase, ...]) -> Plan:
    """A plan without predictions, for what derives from its lists alone."""
    return Plan(
        workload=workload,
        facts=facts,
        decisions=decisions,
        lists_from="",
        lists_digest="",
        phases=phases,
        predictions=Predictions(
            makespan_us=0, lower_bound_us=0, gap=0.0, host_peak_bytes=0, host_update_us=0, devices=(), jobs=()
        ),
        solver=SolverRecord(name="", status="", objective_us=0, bound_us=0, gap=0.0, list_schedule_us=0),
    )


__all__ = ["ORDERS", "contradictions", "draft", "layouts_by_job", "make_lists", "period_us", "phases_of"]
