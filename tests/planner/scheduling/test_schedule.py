"""The joint schedule against brute force, the list schedule, the bounds and itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement, product
from pathlib import Path

import pytest
from support.toyplan import MIB, PROFILE, toy_cluster, toy_facts, toy_layout, toy_workload

from hydraplan.planner.costs.calibrate import read_profile
from hydraplan.planner.lists.contradictions import layouts_by_job
from hydraplan.planner.lists.cycles import make_lists
from hydraplan.planner.lists.making import draft
from hydraplan.planner.scheduling.evaluate import Evaluator
from hydraplan.planner.scheduling.instance import build_instance
from hydraplan.planner.scheduling.options import Option
from hydraplan.planner.scheduling.schedule import LEAST_OPTIONS, SolverOptions, measured, schedule
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.facts import Facts, Layout
from hydraplan.plans.language.plan import Cuts, Decisions, PhaseDecision, Placement
from hydraplan.plans.language.workload import HOST, Workload
from hydraplan.plans.prediction.bounds import lower_bound_us
from hydraplan.plans.prediction.simulate import simulate

Small = tuple[Workload, Facts, Layout]
CALIBRATION = replace(read_profile(Path(__file__).parents[2] / "data" / "calibration.json"), name=PROFILE)


def small(
    *, jobs: int, devices: int, budget: int, bytes_per_s: int, update_bytes_per_s: int | None = None, steps: int = 6
) -> Small:
    """Jobs of three shards on devices as the committed calibration has them; `budget` in quarters of MiB."""
    layout = toy_layout(3, slab_bytes=MIB, tied=False, forward_us=600, backward_us=1_200)
    cluster = toy_cluster(devices, budget_bytes=budget * MIB // 4, bytes_per_s=bytes_per_s)
    profile = CALIBRATION
    if update_bytes_per_s is not None:
        profile = replace(profile, update_bytes_per_s=update_bytes_per_s)
    cluster = replace(cluster, profiles=(profile,))
    workload = toy_workload(jobs, cluster=cluster, steps=steps, microbatches=1)
    return workload, toy_facts(workload, layout), layout


INSTANCES = {
    "one device, two jobs": (small(jobs=2, devices=1, budget=24, bytes_per_s=10**9, steps=4), 3),
    "one device, three jobs": (small(jobs=3, devices=1, budget=24, bytes_per_s=10**9, steps=2), 3),
    "two devices, a slow host": (
        small(jobs=2, devices=2, budget=30, bytes_per_s=10**9, update_bytes_per_s=3 * 10**8, steps=3),
        6,
    ),
}
"""And the most options of a job."""
THREE_ON_TWO = small(jobs=3, devices=2, budget=18, bytes_per_s=10**9)

Part = tuple[int, str, int, int]
"""Of a job's training: phase, device, number of its option, steps."""
PHASES = 2


def cuts_of(workload: Workload, layout: Layout) -> dict[str, tuple[int, ...]]:
    return {job.name: layout.cuts for job in workload.jobs}


def simulated_us(workload: Workload, facts: Facts, decisions: Decisions) -> int:
    return simulate(draft(workload, facts, decisions, make_lists(workload, facts, decisions))).makespan_us


def every_way(steps: int, places: Sequence[tuple[str, int]]) -> Iterator[tuple[Part, ...]]:
    """Every way to train one job: in one phase, or cut anywhere in two, at any places."""
    for phase, (device, option) in product(range(PHASES), places):
        yield ((phase, device, option, steps),)
    for first in range(1, steps):
        for (device, option), (other, another) in product(places, repeat=2):
            yield ((0, device, option, first), (1, other, another, steps - first))


def every_schedule(workload: Workload, options: Sequence[Option]) -> list[tuple[int, tuple[PhaseDecision, ...]]]:
    """Every schedule of equal jobs in up to two phases, each with a bound: what its devices compute, and the host.

    The lowest bound first. Schedules that differ in the names of jobs or devices come once.
    """
    devices = [device.name for device in workload.cluster.devices]
    ways = list(every_way(workload.jobs[0].steps, list(product(devices, range(len(options))))))
    found = []
    for chosen in combinations_with_replacement(ways, len(workload.jobs)):
        parts = [part for way in chosen for part in way]
        if min(parts)[:2] != (0, devices[0]):
            continue
        placed: list[list[Placement]] = [[] for _ in range(PHASES)]
        busy: Counter[str] = Counter()
        for job, way in zip(workload.jobs, chosen, strict=True):
            for phase, device, option, steps in way:
                placed[phase].append(options[option].placement(job.name, device, steps))
                busy[device] += options[option].compute_us * steps
                busy[HOST] += options[option].host_us * steps
        phases = tuple(PhaseDecision(placements=tuple(each)) for each in placed if each)
        found.append((max(busy.values()), phases))
    return sorted(found, key=lambda each: each[0])


def judge(evaluator: Evaluator, schedules: Iterable[tuple[int, tuple[PhaseDecision, ...]]]) -> int:
    """The least makespan of all, by the simulator's word."""
    best: int | None = None
    for bound, phases in schedules:
        if best is not None and bound >= best:
            break
        makespan = evaluator.makespan_us(phases)
        best = min((each for each in (best, makespan) if each is not None), default=None)
    assert best is not None
    return best


@pytest.mark.parametrize("name", INSTANCES)
def test_brute_force_confirms_the_optimum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (workload, facts, layout), most = INSTANCES[name]
    monkeypatch.setattr("hydraplan.planner.scheduling.options.MOST_OPTIONS", most)
    cuts = tuple(Cuts(job=job.name, cuts=layout.cuts) for job in workload.jobs)
    instance = build_instance(workload, facts, layouts_by_job(facts, cuts))
    every = every_schedule(workload, instance.classes[0].options[0])
    best = judge(Evaluator(workload, facts, cuts, instance), every)

    decisions, _, record, _ = schedule(workload, facts, cuts_of(workload, layout), SolverOptions())
    found = simulated_us(workload, facts, decisions)
    assert len(decisions.phases) <= PHASES, "what was found is among what was tried"
    assert best <= found <= 1.001 * best
    assert record.name.startswith("highs"), "found by the MILP, not by the list schedule"
    assert lower_bound_us(workload, facts) <= found < record.list_schedule_us


def alternating() -> Small:
    """Enough memory for one job's shards, not for both: who always alternates streams both."""
    layout = toy_layout(4, slab_bytes=4 * MIB, tied=False, forward_us=1_000, backward_us=2_000)
    cluster = toy_cluster(1, budget_bytes=66 * MIB, bytes_per_s=10**9)
    cluster = replace(cluster, profiles=(replace(cluster.profiles[0], update_bytes_per_s=20 * 10**9),))
    workload = toy_workload(2, cluster=cluster, steps=40, microbatches=1)
    return workload, toy_facts(workload, layout), layout


def test_the_joint_plan_beats_the_list_schedule_by_more_than_a_tenth() -> None:
    workload, facts, layout = alternating()
    decisions, _, record, _ = schedule(workload, facts, cuts_of(workload, layout), SolverOptions())
    assert record.name != "list"
    assert 1.1 * simulated_us(workload, facts, decisions) < record.list_schedule_us


def test_the_record_says_who_found_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without effort nothing is searched: what is better with it was found by the search."""
    monkeypatch.setattr("hydraplan.planner.scheduling.schedule.LEAST_OPTIONS", 16)
    named = set()
    busy_host = small(jobs=3, devices=2, budget=18, bytes_per_s=10**9, update_bytes_per_s=10**9)
    for workload, facts, layout in (busy_host, INSTANCES["one device, three jobs"][0]):
        cuts, found = cuts_of(workload, layout), []
        for effort in (0, 20_000):
            decisions, _, record, _ = schedule(workload, facts, cuts, SolverOptions(effort=effort))
            found.append(simulated_us(workload, facts, decisions))
            assert (record.name == "list") == (found[-1] == record.list_schedule_us)
            assert record.name.endswith("+search") == (found[-1] < found[0])
            named.add(record.name)
    assert named == {"list", "highs", "highs+search"}


def test_where_lists_are_long_fewer_options_are_measured() -> None:
    workload, facts, layout = small(jobs=1, devices=1, budget=40, bytes_per_s=10**9, steps=7)
    cuts = (Cuts(job=workload.jobs[0].name, cuts=layout.cuts),)
    priced = build_instance(workload, facts, {workload.jobs[0].name: layout})

    def options(effort: int) -> int:
        return len(measured(priced, Evaluator(workload, facts, cuts, priced), effort).classes[0].options[0])

    assert len(priced.classes[0].options[0]) > LEAST_OPTIONS
    assert 0 < options(0) <= LEAST_OPTIONS < options(100_000)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_the_same_input_gives_the_same_schedule(solver: str) -> None:
    workload, facts, layout = THREE_ON_TWO
    cuts = cuts_of(workload, layout)
    options = SolverOptions(name="cbc" if solver == "cbc" else "highs", effort=20_000)
    assert schedule(workload, facts, cuts, options)[:3] == schedule(workload, facts, cuts, options)[:3]


def test_every_job_gets_its_steps_and_the_record_is_complete() -> None:
    workload, facts, layout = small(jobs=3, devices=2, budget=18, bytes_per_s=10**9, steps=7)
    workload = replace(workload, jobs=(replace(workload.jobs[0], steps=11), *workload.jobs[1:]))
    decisions, _, record, _ = schedule(workload, facts, cuts_of(workload, layout), SolverOptions(effort=20_000))
    for job in workload.jobs:
        placed = [each.steps for phase in decisions.phases for each in phase.placements if each.job == job.name]
        assert sum(placed) == job.steps
    assert record.status in ("optimal", "stopped")
    assert 0 < record.bound_us <= record.objective_us * 1.001
    assert record.list_schedule_us >= lower_bound_us(workload, facts)


def test_a_job_that_fits_nowhere_is_named_with_a_budget_that_would_do() -> None:
    workload, facts, layout = small(jobs=1, devices=2, budget=6, bytes_per_s=10**9)
    cuts = cuts_of(workload, layout)
    with pytest.raises(InfeasibleError, match="a fits no device: cpu0") as caught:
        schedule(workload, facts, cuts, SolverOptions())
    assert caught.value.missing_bytes > 0
    larger = workload.cluster.devices[0].budget_bytes + caught.value.missing_bytes
    devices = tuple(replace(each, budget_bytes=larger) for each in workload.cluster.devices)
    roomy = replace(workload, cluster=replace(workload.cluster, devices=devices))
    schedule(roomy, facts, cuts, SolverOptions(effort=5_000))
