"""The joint schedule against brute force, the list schedule, the bounds and itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import pytest
from support.toyplan import MIB, toy_cluster, toy_facts, toy_layout, toy_workload

from planner.cycles import make_lists
from planner.evaluate import Evaluator
from planner.instance import build_instance
from planner.lists import draft, layouts_by_job
from planner.schedule import LEAST_OPTIONS, SolverOptions, measured, schedule
from plans.bounds import lower_bound_us
from plans.errors import InfeasibleError
from plans.facts import Facts, Layout
from plans.plan import Cuts, Decisions, PhaseDecision, Placement
from plans.simulate import simulate
from plans.workload import Workload

Small = tuple[Workload, Facts, Layout]


def small(
    *, jobs: int, devices: int, budget: int, bytes_per_s: int, update_bytes_per_s: int = 10**9, steps: int = 6
) -> Small:
    layout = toy_layout(3, slab_bytes=MIB, tied=False, forward_us=600, backward_us=1_200)
    cluster = toy_cluster(devices, budget_bytes=budget * MIB // 4, bytes_per_s=bytes_per_s)
    cluster = replace(cluster, profiles=(replace(cluster.profiles[0], update_bytes_per_s=update_bytes_per_s),))
    workload = toy_workload(jobs, cluster=cluster, steps=steps, microbatches=1)
    return workload, toy_facts(workload, layout), layout


INSTANCES = {
    "one device, two jobs that hide each other's loads": small(jobs=2, devices=1, budget=24, bytes_per_s=10**9),
    "two devices, three jobs": small(jobs=3, devices=2, budget=18, bytes_per_s=10**9),
    "a slow host": small(jobs=2, devices=2, budget=30, bytes_per_s=10**9, update_bytes_per_s=4 * 10**8),
}


def simulated_us(workload: Workload, facts: Facts, decisions: Decisions) -> int:
    return simulate(draft(workload, facts, decisions, make_lists(workload, facts, decisions))).makespan_us


def every_schedule(workload: Workload, facts: Facts, layout: Layout) -> Iterator[tuple[PhaseDecision, ...]]:
    """All assignments of jobs to devices, all options of each, all together or one after the other."""
    instance = build_instance(workload, facts, {job.name: layout for job in workload.jobs})
    options = instance.classes[0].options[0]
    devices = [device.name for device in workload.cluster.devices]
    steps = workload.jobs[0].steps
    for places in product(devices, repeat=len(workload.jobs)):
        if list(dict.fromkeys(places)) != devices[: len(set(places))]:
            continue  # the same under another name of a device
        for chosen in product(range(len(options)), repeat=len(workload.jobs)):
            members = list(zip(places, chosen, strict=True))
            if members != sorted(members, key=lambda each: (places.index(each[0]), each[1])):
                continue  # the same under another name of a job
            placements = [
                options[o].placement(job.name, device, steps)
                for job, (device, o) in zip(workload.jobs, members, strict=True)
            ]
            yield (PhaseDecision(placements=tuple(placements)),)
            if len(set(places)) < len(places):
                yield _one_after_the_other(placements)


def _one_after_the_other(placements: Sequence[Placement]) -> tuple[PhaseDecision, ...]:
    queues: dict[str, list[Placement]] = {}
    for placement in placements:
        queues.setdefault(placement.device, []).append(placement)
    return tuple(
        PhaseDecision(placements=tuple(queue[turn] for queue in queues.values() if turn < len(queue)))
        for turn in range(max(map(len, queues.values())))
    )


@pytest.mark.parametrize("name", INSTANCES)
def test_brute_force_finds_nothing_better(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.options.MOST_OPTIONS", 6)
    workload, facts, layout = INSTANCES[name]
    cuts = tuple(Cuts(job=job.name, cuts=layout.cuts) for job in workload.jobs)
    layouts = layouts_by_job(facts, cuts)
    evaluator = Evaluator(workload, facts, cuts, build_instance(workload, facts, layouts))
    judged = (evaluator.makespan_us(phases) for phases in every_schedule(workload, facts, layout))
    best = min(makespan for makespan in judged if makespan is not None)
    decisions, _, record = schedule(workload, facts, {job.name: layout.cuts for job in workload.jobs}, SolverOptions())
    found = simulated_us(workload, facts, decisions)
    assert found <= 1.01 * best
    assert lower_bound_us(workload, facts) <= found <= record.list_schedule_us


def alternating() -> Small:
    """Enough memory for one job's shards, not for both: who always alternates streams both."""
    layout = toy_layout(4, slab_bytes=4 * MIB, tied=False, forward_us=1_000, backward_us=2_000)
    cluster = toy_cluster(1, budget_bytes=66 * MIB, bytes_per_s=10**9)
    cluster = replace(cluster, profiles=(replace(cluster.profiles[0], update_bytes_per_s=20 * 10**9),))
    workload = toy_workload(2, cluster=cluster, steps=40, microbatches=1)
    return workload, toy_facts(workload, layout), layout


def test_the_joint_plan_beats_the_list_schedule_by_more_than_a_tenth() -> None:
    workload, facts, layout = alternating()
    decisions, _, record = schedule(workload, facts, {job.name: layout.cuts for job in workload.jobs}, SolverOptions())
    assert record.name != "list"
    assert 1.1 * simulated_us(workload, facts, decisions) < record.list_schedule_us


def test_the_record_says_who_found_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without effort nothing is searched: what is better with it was found by the search."""
    monkeypatch.setattr("planner.schedule.LEAST_OPTIONS", 16)
    named = set()
    for workload, facts, layout in INSTANCES.values():
        cuts, found = {job.name: layout.cuts for job in workload.jobs}, []
        for effort in (0, 5_000):
            decisions, _, record = schedule(workload, facts, cuts, SolverOptions(effort=effort))
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
    workload, facts, layout = INSTANCES["two devices, three jobs"]
    cuts = {job.name: layout.cuts for job in workload.jobs}
    options = SolverOptions(name="cbc" if solver == "cbc" else "highs", effort=20_000)
    assert schedule(workload, facts, cuts, options) == schedule(workload, facts, cuts, options)


def test_every_job_gets_its_steps_and_the_record_is_complete() -> None:
    workload, facts, layout = small(jobs=3, devices=2, budget=18, bytes_per_s=10**9, steps=7)
    workload = replace(workload, jobs=(replace(workload.jobs[0], steps=11), *workload.jobs[1:]))
    decisions, _, record = schedule(
        workload, facts, {job.name: layout.cuts for job in workload.jobs}, SolverOptions(effort=20_000)
    )
    for job in workload.jobs:
        placed = [each.steps for phase in decisions.phases for each in phase.placements if each.job == job.name]
        assert sum(placed) == job.steps
    assert record.status in ("optimal", "stopped")
    assert 0 < record.bound_us <= record.objective_us * 1.001
    assert record.list_schedule_us >= lower_bound_us(workload, facts)


def test_a_job_that_fits_nowhere_is_named_with_a_budget_that_would_do() -> None:
    workload, facts, layout = small(jobs=1, devices=2, budget=6, bytes_per_s=10**9)
    cuts = {job.name: layout.cuts for job in workload.jobs}
    with pytest.raises(InfeasibleError, match="a fits no device: cpu0") as caught:
        schedule(workload, facts, cuts, SolverOptions())
    assert caught.value.missing_bytes > 0
    larger = workload.cluster.devices[0].budget_bytes + caught.value.missing_bytes
    devices = tuple(replace(each, budget_bytes=larger) for each in workload.cluster.devices)
    roomy = replace(workload, cluster=replace(workload.cluster, devices=devices))
    schedule(roomy, facts, cuts, SolverOptions(effort=5_000))
