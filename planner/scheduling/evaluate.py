"""What a schedule is worth: an estimate for the search, and the simulator's word for the choice.

stage      jobs that run together on one device until all their steps are done
estimate   stage by stage, from the simulated period of its cycle on that device alone
judge      lists of the decisions, simulated by `plans.prediction.simulate`: what the plan will predict
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hydraplan.planner.lists.cycles import make_lists
from hydraplan.planner.lists.fitting import ORDERS
from hydraplan.planner.lists.making import Found, ListMaker, draft, period_us
from hydraplan.planner.lists.rates import split
from hydraplan.planner.lists.views import JobView
from hydraplan.planner.processes.forks import Result, side_by_side
from hydraplan.planner.scheduling.options import Option
from hydraplan.planner.scheduling.patterns import Instance
from hydraplan.plans.analysis.arena import allocate
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Cuts, Decisions, Phase, PhaseDecision, Placement
from hydraplan.plans.language.workload import Workload
from hydraplan.plans.prediction.durations import ceil_us
from hydraplan.plans.prediction.simulate import Simulation, simulate, simulate_flow

CYCLES = 6
"""Cycles that are simulated of jobs on one device: enough for a steady period."""

MAKING, SIMULATING = 6, 6
"""How often each line of a cycle is gone through, until it fits, and until it is simulated."""

WORTH_A_PROCESS = 100_000
"""Fewer lines are gone through faster than other processes help."""

Member = tuple[int, int, int]
"""(job class, option, steps)."""


class Evaluator:
    """Estimates and judgements of one workload, each made once."""

    def __init__(
        self,
        workload: Workload,
        facts: Facts,
        cuts: tuple[Cuts, ...],
        instance: Instance,
        maker: ListMaker | None = None,
    ) -> None:
        """`maker`: one of this workload under these cuts, with what it has found already."""
        self.workload = workload
        self.facts = facts
        self.cuts = cuts
        self.instance = instance
        self.maker = ListMaker(workload, facts, cuts) if maker is None else maker
        self._simulated_lines = 0
        self._made_before = self.maker.lines
        self._stages: dict[tuple[int, tuple[Member, ...]], int | None] = {}
        self._periods: dict[tuple[int, tuple[Member, ...]], int | None] = {}
        self._cycles: dict[tuple[int, tuple[Member, ...]], int | None] = {}
        self._lists: dict[Decisions, tuple[Phase, ...] | None] = {}
        self._makespans: dict[tuple[Phase, ...], int] = {}
        self._best: tuple[tuple[Phase, ...], Simulation] | None = None

    @property
    def lines(self) -> int:
        """How often a line of a list was gone through so far, in making and in simulating: a measure of effort
        that is the same on any machine."""
        return self._simulated_lines + MAKING * (self.maker.lines - self._made_before)

    # -- estimates ----------------------------------------------------------------------------------

    def stage_us(self, kind: int, members: Sequence[Member]) -> int | None:
        """Estimated duration of a stage on a device of a kind; None where it does not fit."""
        key = (kind, tuple(sorted(members)))
        if key not in self._stages:
            self._stages[key] = self._stage_us(kind, key[1])
        return self._stages[key]

    def length(self, phases: Sequence[PhaseDecision]) -> int:
        """About how many lines the lists of decisions will have."""
        return sum(
            rate * self.step_lines(placement.job)
            for phase in phases
            for _, rates in split([placement.steps for placement in phase.placements])
            for placement, rate in zip(phase.placements, rates, strict=True)
        )

    def step_lines(self, job: str) -> int:
        """About how many lines one training step of a job makes: of a shard a few, and a few for each microbatch."""
        return 4 * len(self.maker.layouts[job].shards) * (1 + self.maker.jobs[job].microbatches)

    def phases_us(self, phases: Sequence[PhaseDecision]) -> int | None:
        """Estimated makespan of decisions: the devices run ahead of each other, the host has to keep up."""
        kinds = {device: k for k, kind in enumerate(self.instance.kinds) for device in kind.devices}
        classes = {job: j for j, job_class in enumerate(self.instance.classes) for job in job_class.jobs}
        loads: dict[str, int] = defaultdict(int)
        host = 0
        for phase in phases:
            stages: dict[str, list[Member]] = defaultdict(list)
            for placement in phase.placements:
                k, j = kinds[placement.device], classes[placement.job]
                o = self._number(k, j, placement)
                stages[placement.device].append((j, o, placement.steps))
                host += self.option(k, j, o).host_us * placement.steps
            for device, members in stages.items():
                time = self.stage_us(kinds[device], members)
                if time is None:
                    return None
                loads[device] += time
        return max(max(loads.values(), default=0), host // self.instance.workers)

    def _number(self, k: int, j: int, placement: Placement) -> int:
        for number, option in enumerate(self.instance.classes[j].options[k]):
            if option.placement(placement.job, placement.device, placement.steps) == placement:
                return number
        raise AssertionError("decisions of the search consist of options")

    def _stage_us(self, kind: int, members: tuple[Member, ...]) -> int | None:
        total = 0
        for repeat, rates in split([steps for _, _, steps in members]):
            running = [(j, o, rate) for (j, o, _), rate in zip(members, rates, strict=True) if rate]
            period = self.period_us(kind, running)
            if period is None:
                return None
            total += repeat * period + self._entry_us(kind, running)
        return total

    def _entry_us(self, kind: int, members: Iterable[Member]) -> int:
        """Residents are loaded before the first cell that needs them."""
        total = 0
        for view in self._views(kind, members):
            moved = sum(view.bytes_of(slab, "parameters") for slab in view.resident)
            moved += sum(view.bytes_of(slab, "optimizer") for slab in view.resident if view.state_on_device(slab))
            total += ceil_us(moved, view.load_rate)
        return total

    def period_us(self, kind: int, members: Sequence[Member]) -> int | None:
        """Estimated duration of a cycle of some jobs with some steps each."""
        key = (kind, tuple(sorted(members)))
        if len(key[1]) == 1 and key[1][0][2] == 1:
            return self.cycle_us(kind, key[1])
        if key not in self._periods:
            views = self._views(kind, key[1])
            device = views[0].device
            workers = self.workload.cluster.update_workers
            orders = ORDERS if len(views) > 1 else ORDERS[-1:]
            self._simulated_lines += len(orders) * self._members_lines(key[1])
            periods = [period_us(device.name, device.budget_bytes, views, order, workers) for order in orders]
            self._periods[key] = min((each for each in periods if each is not None), default=None)
        return self._periods[key]

    def cycle_us(self, kind: int, members: Sequence[Member]) -> int | None:
        """Simulated duration of a cycle of some jobs on one device, arena and all; None where no lists fit."""
        return self.cycles_us([(kind, members)])[0]

    def cycles_us(self, asked: Sequence[tuple[int, Sequence[Member]]]) -> list[int | None]:
        """The same of several, found out side by side."""
        keys = [(kind, tuple(sorted(members))) for kind, members in asked]
        new = [key for key in dict.fromkeys(keys) if key not in self._cycles]
        cycles = self._side_by_side(
            [(CYCLES * self._members_lines(members), partial(self._cycle, kind, members)) for kind, members in new]
        )
        for (kind, members), cycle in zip(new, cycles, strict=True):
            self._cycles[kind, members] = None
            if cycle is not None:
                self._cycles[kind, members], found = cycle
                self._simulated_lines += SIMULATING * len(found.dispatch.lines)
                self.maker.learn(self._placements(kind, members), CYCLES, found)
        return [self._cycles[key] for key in keys]

    def _cycle(self, kind: int, members: tuple[Member, ...]) -> tuple[int, Found] | None:
        placements = self._placements(kind, members)
        try:
            made = self.maker.made(placements, CYCLES)
        except InfeasibleError:
            return None
        simulation = simulate_flow(made.plan, made.flow, allocate(made.plan, made.flow))
        return simulation.phases[0].period_us, self.maker.found(placements, CYCLES)

    def _members_lines(self, members: Iterable[Member]) -> int:
        return sum(steps * self.step_lines(self.instance.classes[j].jobs[0]) for j, _, steps in members)

    def _side_by_side(self, tasks: Sequence[tuple[int, Callable[[], Result]]]) -> list[Result]:
        """What tasks give, each with about as many lines as it goes through; in other processes where that pays."""
        if sum(lines for lines, _ in tasks) < WORTH_A_PROCESS:
            return [function() for _, function in tasks]
        longest_first = sorted(range(len(tasks)), key=lambda number: -tasks[number][0])
        results = side_by_side([tasks[number][1] for number in longest_first])
        by_number = dict(zip(longest_first, results, strict=True))
        return [by_number[number] for number in range(len(tasks))]

    def _placements(self, kind: int, members: Iterable[Member]) -> tuple[Placement, ...]:
        return tuple(view.placement for view in self._views(kind, members))

    def _views(self, kind: int, members: Iterable[Member]) -> list[JobView]:
        device = self.instance.kinds[kind].devices[0]
        views = []
        taken: dict[int, int] = {}
        for j, o, steps in members:
            number = taken[j] = taken.get(j, -1) + 1
            job = self.instance.classes[j].jobs[number]
            placement = self.option(kind, j, o).placement(job, device, steps)
            views.append(self.maker.view(placement))
        return views

    def option(self, kind: int, j: int, o: int) -> Option:
        return self.instance.classes[j].options[kind][o]

    # -- judgements ---------------------------------------------------------------------------------

    def makespan_us(self, phases: Sequence[PhaseDecision]) -> int | None:
        """Simulated makespan of the decisions' lists; None where they do not fit."""
        return self.makespans_us([phases])[0]

    def makespans_us(self, candidates: Sequence[Sequence[PhaseDecision]]) -> list[int | None]:
        """The same of several, simulated side by side."""
        lists = [self.fitting(phases) for phases in candidates]
        new = {
            each: Decisions(cuts=self.cuts, phases=tuple(phases))
            for phases, each in zip(candidates, lists, strict=True)
            if each is not None and each not in self._makespans
        }
        tasks = [(_lines_to_simulate(each), partial(self._simulated, decided, each)) for each, decided in new.items()]
        for each, makespan_us in zip(new, self._side_by_side(tasks), strict=True):
            self._simulated_lines += _lines_to_simulate(each)
            self._makespans[each] = makespan_us
        return [None if each is None else self._makespans[each] for each in lists]

    def fitting(self, phases: Sequence[PhaseDecision]) -> tuple[Phase, ...] | None:
        """The lists of decisions; None where they do not fit."""
        decisions = Decisions(cuts=self.cuts, phases=tuple(phases))
        if decisions not in self._lists:
            try:
                self._lists[decisions] = self.lists(decisions)
            except InfeasibleError:
                self._lists[decisions] = None
        return self._lists[decisions]

    def lists(self, decisions: Decisions) -> tuple[Phase, ...]:
        """The lists of decisions. Raises InfeasibleError where they do not fit."""
        return make_lists(self.workload, self.facts, decisions, self.maker, self._simulated_us)

    def _simulated_us(self, decisions: Decisions, lists: tuple[Phase, ...]) -> int:
        if lists not in self._makespans:
            self._simulated_lines += _lines_to_simulate(lists)
            self._makespans[lists] = self._simulated(decisions, lists)
        return self._makespans[lists]

    def _simulated(self, decisions: Decisions, lists: tuple[Phase, ...]) -> int:
        """Remembers the simulation of the best that this process has simulated."""
        simulation = simulate(draft(self.workload, self.facts, decisions, lists))
        if self._best is None or simulation.makespan_us < self._best[1].makespan_us:
            self._best = lists, simulation
        return simulation.makespan_us

    def simulation(self, lists: tuple[Phase, ...]) -> Simulation | None:
        """Of these lists, where they are the best so far, and this process has simulated them."""
        return self._best[1] if self._best is not None and self._best[0] == lists else None

    def why(self, phases: Sequence[PhaseDecision]) -> InfeasibleError | None:
        """Why decisions do not fit."""
        try:
            self.lists(Decisions(cuts=self.cuts, phases=tuple(phases)))
        except InfeasibleError as error:
            return error
        return None


def _lines_to_simulate(lists: Sequence[Phase]) -> int:
    return sum(SIMULATING * len(each.cycle) for each in lists)
