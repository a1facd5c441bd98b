"""The joint schedule: decisions for all jobs on all devices, least makespan.

options, measured -> list schedule            planner.scheduling.options, planner.scheduling.greedy
                  -> pattern LP: the bound    planner.scheduling.patterns
                  -> configuration LP         planner.scheduling.configurations     phases that hold at every moment
                  -> whole steps              planner.scheduling.phases
                  -> small changes            planner.scheduling.stages
                  -> lists, simulated: the best of all, never worse than the list schedule
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from hydraplan.planner.lists.contradictions import layouts_by_job
from hydraplan.planner.lists.cycles import longer_cycles
from hydraplan.planner.scheduling import configurations, patterns
from hydraplan.planner.scheduling.configurations import Timed
from hydraplan.planner.scheduling.evaluate import MAKING, SIMULATING, Evaluator
from hydraplan.planner.scheduling.greedy import greedy, one_by_one
from hydraplan.planner.scheduling.instance import build_instance, does_not_fit, with_options
from hydraplan.planner.scheduling.options import Option, thin
from hydraplan.planner.scheduling.patterns import Instance, Pattern, Slot
from hydraplan.planner.scheduling.phases import GRIDS, realize
from hydraplan.planner.scheduling.solver import SolverOptions
from hydraplan.planner.scheduling.stages import Schedule, climb, decisions, estimate_us
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Cuts, Decisions, Phase, PhaseDecision, SolverRecord
from hydraplan.plans.language.workload import Workload
from hydraplan.plans.prediction.bounds import lower_bound_us
from hydraplan.plans.prediction.simulate import Simulation

MEASURING = 4
"""Efforts that go into measuring options."""
LEAST_OPTIONS = 6
"""Options of a job class on a kind of device that are measured in any case."""
MOST_RATE = 4
"""Steps of a job in the cycle with which a pattern is simulated."""
REALIZED = 3
"""Roundings of the LP's phases that are tried until one has lists that fit."""
LINES_PER_DOUBLE = 2_000_000
"""Lines of lists that count as much as twice the makespan, between roundings: short plans are preferred."""
FINALISTS = 2
"""Schedules of the estimate's search that the simulator judges."""
PROMISING = 1.1
"""A schedule whose estimate exceeds the best one by more than this is not judged."""

Phases = tuple[PhaseDecision, ...]


class Scheduled(NamedTuple):
    decisions: Decisions
    lists: tuple[Phase, ...]
    record: SolverRecord
    simulation: Simulation | None
    """Of the lists, where it is known."""


def schedule(
    workload: Workload, facts: Facts, cuts: Mapping[str, tuple[int, ...]], options: SolverOptions
) -> Scheduled:
    """Decisions, their lists, and how they were found. Pure: the same input gives the same answer.

    Raises InfeasibleError where a job fits no device.
    """
    all_cuts = tuple(Cuts(job=job.name, cuts=cuts[job.name]) for job in workload.jobs)
    layouts = layouts_by_job(facts, all_cuts)
    priced = build_instance(workload, facts, layouts)
    evaluator = Evaluator(workload, facts, all_cuts, priced)
    instance = measured(priced, evaluator, options.effort)
    for job_class in instance.classes:
        if not any(job_class.options):
            raise does_not_fit(workload, facts, layouts, job_class.jobs[0])
    search = _Search(Evaluator(workload, facts, all_cuts, instance, evaluator.maker), options)
    best, record = search.run(lower_bound_us(workload, facts))
    decided = Decisions(cuts=all_cuts, phases=best)
    lists = search.evaluator.lists(decided)
    return Scheduled(decided, lists, record, search.evaluator.simulation(lists))


def measured(instance: Instance, evaluator: Evaluator, effort: int) -> Instance:
    """Options with the step time that the simulator gives their own list; without those that do not fit.

    Where lists are long, fewer options are measured."""
    work = (MAKING + SIMULATING) * sum(
        len(each) * evaluator.step_lines(job_class.jobs[0])
        for job_class in instance.classes
        for each in job_class.options
    )
    part = min(1.0, MEASURING * effort / work) if work else 1.0
    chosen = [
        (j, k, option)
        for j, job_class in enumerate(instance.classes)
        for k, priced in enumerate(job_class.options)
        for option in thin(priced, max(LEAST_OPTIONS, int(part * len(priced))))
    ]
    alone = [(k, [(j, instance.classes[j].options[k].index(option), 1)]) for j, k, option in chosen]
    options: dict[tuple[int, int], tuple[Option, ...]] = defaultdict(tuple)
    for (j, k, option), period_us in zip(chosen, evaluator.cycles_us(alone), strict=True):
        if period_us is not None:
            options[j, k] += (replace(option, chain_us=period_us, load_us=min(option.load_us, period_us)),)
    return with_options(instance, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    makespan_us: int
    phases: Phases


class _Search:
    def __init__(self, evaluator: Evaluator, options: SolverOptions) -> None:
        self.evaluator = evaluator
        self.instance = evaluator.instance
        self.options = options

    def run(self, lower_us: int) -> tuple[Phases, SolverRecord]:
        seed = self.start()
        bound = patterns.generate(self.instance, self.options)
        timed = self.joint(bound.patterns)
        solver = self.options.name
        fitting = (each for each in self.realized(timed)[:REALIZED] if self.evaluator.fitting(each) is not None)
        start, *joint = self.judge([decisions(self.instance, seed), *islice(fitting, 1)])
        # In this order: of equals the simplest is named.
        found = {"list": [start], solver: joint}
        best_us = min(each.makespan_us for judged in found.values() for each in judged)
        bound_us = max(round(bound.bound * patterns.MICROSECONDS), lower_us)
        if best_us > bound_us * (1 + self.options.relative_gap):
            found[f"{solver}+search"] = self.improve([seed, one_by_one(self.instance)], best_us)
        name, best = min(((name, each) for name, judged in found.items() for each in judged), key=_worth)
        objective_us = round(sum(each.seconds for each in timed) * patterns.MICROSECONDS)
        record = SolverRecord(
            name=name,
            status=bound.status,
            objective_us=objective_us,
            bound_us=bound_us,
            gap=round(max(0.0, objective_us / bound_us - 1), 6) if bound_us else 0.0,
            list_schedule_us=start.makespan_us,
        )
        return best.phases, record

    def start(self) -> Schedule:
        """The list schedule; where its lists do not fit, the jobs one by one."""
        for seed in (greedy(self.instance), one_by_one(self.instance), one_by_one(self.instance, plain=True)):
            if self.evaluator.fitting(decisions(self.instance, seed)) is not None:
                return seed
        error = self.evaluator.why(decisions(self.instance, one_by_one(self.instance, plain=True)))
        assert error is not None
        raise error

    def judge(self, candidates: Sequence[Phases]) -> list[_Judged]:
        """Those whose lists fit."""
        makespans = self.evaluator.makespans_us(candidates)
        return [
            _Judged(makespan_us=makespan_us, phases=phases)
            for phases, makespan_us in zip(candidates, makespans, strict=True)
            if makespan_us is not None
        ]

    # -- the configuration LP -----------------------------------------------------------------------

    def joint(self, pool: Sequence[Pattern]) -> tuple[Timed, ...]:
        """Phases of the configuration LP, of patterns at rates that were simulated."""
        wide = configurations.widen(self.instance, pool, self.options)
        honest = dict.fromkeys(simulated for pattern in wide for simulated in self.simulated(pattern))
        return configurations.generate(self.instance, tuple(honest), self.options)[0]

    def realized(self, timed: Sequence[Timed]) -> list[Phases]:
        """Decisions from the LP's phases, at several grids; the best by estimate first."""
        made = (realize(self.instance, timed, grid) for grid in GRIDS)
        estimates = {
            each: estimate for each in made if each and (estimate := self.evaluator.phases_us(each)) is not None
        }
        return sorted(
            estimates, key=lambda each: estimates[each] * (1 + self.evaluator.length(each) / LINES_PER_DOUBLE)
        )

    def simulated(self, pattern: Pattern) -> list[Pattern]:
        """A pattern at small whole rates: about its own, and equal ones, in short cycles and, as lists may have them,
        in longer ones; none where its jobs do not fit together.

        Alone, a job runs at the rate that its option was measured at.
        """
        members = [(slot, slot.rate / slot.jobs) for slot in pattern.slots for _ in range(slot.jobs)]
        if len(members) == 1:
            return [pattern]
        least = min(rate for _, rate in members)
        about = tuple(min(MOST_RATE, max(1, round(rate / least))) for _, rate in members)
        found = []
        for steps in dict.fromkeys((about, (1,) * len(members))):
            periods = self.periods_us(pattern.kind, [slot for slot, _ in members], steps)
            if not periods:
                break
            rates: dict[Slot, float] = defaultdict(float)
            for (slot, _), count in zip(members, steps, strict=True):
                rates[slot] += count / min(periods) * patterns.MICROSECONDS
            host = sum(self.instance.option(pattern.kind, slot).host_us * rate for slot, rate in rates.items())
            slots = tuple(replace(slot, rate=rate) for slot, rate in rates.items())
            found.append(replace(pattern, slots=slots, host=host / patterns.MICROSECONDS))
        return found

    def periods_us(self, kind: int, slots: Sequence[Slot], steps: Sequence[int]) -> list[float]:
        """Simulated times of so many steps of each slot's job, in cycles of several lengths."""
        lines = sum(
            count * self.evaluator.step_lines(self.instance.classes[slot.job_class].jobs[0])
            for slot, count in zip(slots, steps, strict=True)
        )
        devices = sum(len(each.devices) for each in self.instance.kinds)
        periods = []
        for factor in (1, *longer_cycles(lines * devices, max(steps))[:1]):
            cycle = [(slot.job_class, slot.option, count * factor) for slot, count in zip(slots, steps, strict=True)]
            period = self.evaluator.cycle_us(kind, cycle)
            if period is not None:
                periods.append(period / factor)
        return periods

    # -- small changes ------------------------------------------------------------------------------

    def improve(self, seeds: Sequence[Schedule], best_us: int) -> list[_Judged]:
        """Search by estimate from each seed, then by the simulator itself as far as the effort goes."""
        evaluator, instance, effort = self.evaluator, self.instance, self.options.effort

        def estimate(each: Schedule) -> tuple[int, ...] | None:
            return estimate_us(evaluator, each)

        def spent(limit: int) -> Callable[[], bool]:
            return lambda: evaluator.lines > limit

        path: list[tuple[tuple[int, ...], Schedule]] = []
        before = evaluator.lines
        for number, seed in enumerate(seeds):
            limit = before + (effort - before) * (number + 1) // (2 * len(seeds))
            apart = climb(seed, instance, estimate, spent(limit), joined=False)
            path += apart
            if apart:
                path += climb(apart[0][1], instance, estimate, spent(limit))
        path.sort(key=lambda each: each[0])
        finalists = [each for _, each in path[:FINALISTS]]
        judged = self.judge([decisions(instance, each) for each in finalists])
        if not judged:
            return []
        first = min(judged, key=lambda each: each.makespan_us)
        near = next(each for each in finalists if decisions(instance, each) == first.phases)

        def value(each: Schedule) -> tuple[int, ...] | None:
            estimate = estimate_us(evaluator, each)
            if estimate is None or estimate[0] > PROMISING * min(best_us, first.makespan_us):
                return None
            makespan_us = evaluator.makespan_us(decisions(instance, each))
            return None if makespan_us is None else (makespan_us,)

        climbed = climb(near, instance, value, spent(effort))
        found = [_Judged(makespan_us=worth[0], phases=decisions(instance, each)) for worth, each in climbed]
        return [*judged, *found]


def _worth(found: tuple[str, _Judged]) -> int:
    return found[1].makespan_us


__all__ = ["Scheduled", "SolverOptions", "schedule"]
