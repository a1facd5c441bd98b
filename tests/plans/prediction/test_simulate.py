"""The simulator against dependencies, engines, links, known schedules, and itself without extrapolation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from support.drawnplan import plans
from support.toyplan import toy_cluster, toy_layout, toy_phase, toy_plan, toy_workload

from hydraplan.plans.analysis.arena import allocate
from hydraplan.plans.analysis.flow import trace
from hydraplan.plans.analysis.hazards import dependencies
from hydraplan.plans.language.errors import InvalidPlanError
from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.plans.language.steps import Forward, Load, Update, engine
from hydraplan.plans.language.workload import HOST
from hydraplan.plans.prediction import simulate as simulator
from hydraplan.plans.prediction.durations import Durations
from hydraplan.plans.prediction.events import NO_SERVER, Tasks
from hydraplan.plans.prediction.simulate import predict, simulate


@settings(max_examples=40)
@given(plans())
def test_times_respect_dependencies_engines_and_links(plan: Plan) -> None:
    result = simulate(plan)
    flow = result.flow
    durations = Durations(plan).of_sites(flow.sites)
    links = {device.name: device.link for device in plan.workload.cluster.devices}
    engines: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    shared: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for number, waits in enumerate(dependencies(flow, allocate(plan, flow))):
        site, runs_on = flow.sites[number], engine(flow.sites[number].step)
        start, finish = result.start_us[number], result.finish_us[number]
        assert all(result.finish_us[wait] <= start for wait in waits) or site.copy > 0 or site.section == "epilogue"
        assert finish - start == durations[number]
        if runs_on is None:
            continue
        if site.step.device != HOST:
            engines[site.step.device, runs_on].append((start, finish))
            if runs_on != "compute":
                shared[links[site.step.device], runs_on].append((start, finish))
    for spans in [*engines.values(), *(sorted(spans) for spans in shared.values())]:
        assert all(before[1] <= after[0] for before, after in pairwise(spans) if before[0] < before[1])
    assert result.makespan_us >= max(result.finish_us)
    assert result.makespan_us == max(finish for _, finish in result.jobs)


@settings(max_examples=20)
@given(plans())
def test_extrapolation_agrees_with_simulating_every_copy(plan: Plan) -> None:
    many = replace(
        plan,
        workload=replace(
            plan.workload,
            jobs=tuple(replace(job, steps=job.steps + 14 * _per_cycle(plan, job.name)) for job in plan.workload.jobs),
        ),
        phases=(replace(plan.phases[0], repeat=plan.phases[0].repeat + 14), *plan.phases[1:]),
    )
    short = simulate(many)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "FEW_COPIES", 100)
        whole = simulate(many)
    assert whole.steady
    assert short.devices == whole.devices
    assert short.host_update_us == whole.host_update_us
    shared = len({device.link for device in plan.workload.cluster.devices}) < len(plan.workload.cluster.devices)
    # Who is first on a shared link can change where an epilogue joins in.
    exact = short.steady and not shared
    assert abs(short.makespan_us - whole.makespan_us) <= (0 if exact else 0.02 * whole.makespan_us)


def _per_cycle(plan: Plan, job: str) -> int:
    return trace(plan).steps.get((0, "cycle", job), 0)


def test_devices_with_different_periods_are_extrapolated_each_by_its_own() -> None:
    """Job b's cycles take a fifth of job a's: b finishes early, and phase 1 begins early on its device."""
    cluster = toy_cluster(2)
    slow, fast = cluster.profiles[0], replace(cluster.profiles[0], name="fast")
    cluster = replace(
        cluster, profiles=(slow, fast), devices=(cluster.devices[0], replace(cluster.devices[1], profile="fast"))
    )
    layout = toy_layout(2, profiles=("toy", "fast"), slab_bytes=1024)
    quick = [replace(times, forward_us=200, backward_us=400) for times in layout.shards[0].times]
    shards = tuple(replace(shard, times=(shard.times[0], quick[1])) for shard in layout.shards)
    layout = replace(layout, shards=shards)
    workload = toy_workload(2, cluster=cluster, steps=60)
    placements = [
        Placement(job="a", device="cpu0", steps=60, resident=("0", "1", "0+1"), device_updates=("0", "1", "0+1")),
        Placement(job="b", device="cpu1", steps=60, resident=("0", "1", "0+1"), device_updates=("0", "1", "0+1")),
    ]
    result = simulate(toy_plan(workload, layout, placements, repeat=60))
    assert result.steady
    finish = dict(result.jobs)
    assert finish["b"] < 0.4 * finish["a"]
    assert result.phases[0].period_us == pytest.approx(finish["a"] / 60, rel=0.05)


def test_a_prefetch_hides_the_load() -> None:
    """Load 10 ms and compute 20 ms a shard: with the next load above the cell, compute is never idle."""
    layout = toy_layout(4, slab_bytes=1_000_000, tied=False, forward_us=20_000, backward_us=40_000)
    workload = toy_workload(1, steps=1, microbatches=1)
    plain = toy_plan(workload, layout, repeat=1)
    cycle = list(plain.phases[0].cycle)
    for load in [step for step in cycle if isinstance(step, Load) and step.slab == "1"][:1]:
        cycle.remove(load)
        cycle.insert(1, load)
    ahead = replace(plain, phases=(replace(plain.phases[0], cycle=tuple(cycle)),))
    assert simulate(plain).makespan_us - simulate(ahead).makespan_us == 10_000


def test_two_devices_on_one_link_take_turns() -> None:
    layout = toy_layout(2, tied=False, forward_us=1, backward_us=1)
    placements = [Placement(job=job, device=device, steps=1) for job, device in (("a", "cpu0"), ("b", "cpu1"))]
    apart, together = (
        simulate(
            toy_plan(toy_workload(2, steps=1, cluster=toy_cluster(2, shared_link=shared)), layout, placements, repeat=1)
        )
        for shared in (False, True)
    )
    loads = sum(each.load_us for each in together.devices)
    assert together.makespan_us > loads > apart.makespan_us


def test_update_workers_take_what_is_ready() -> None:
    """Two jobs' updates at once, by one worker or by two."""
    layout = toy_layout(1, tied=False, forward_us=1, backward_us=1, slab_bytes=10_000_000)
    placements = [Placement(job=job, device=device, steps=1) for job, device in (("a", "cpu0"), ("b", "cpu1"))]
    spans = {}
    for workers in (1, 2):
        cluster = toy_cluster(2, update_workers=workers, budget_bytes=1 << 30)
        plan = toy_plan(toy_workload(2, steps=1, cluster=cluster), layout, placements, repeat=1)
        result = simulate(plan)
        update_us = next(
            finish - start
            for site, start, finish in zip(result.flow.sites, result.start_us, result.finish_us, strict=True)
            if isinstance(site.step, Update)
        )
        spans[workers] = result.makespan_us
    assert spans[1] - spans[2] == update_us == 70_000


def test_predictions_are_of_the_whole_plan() -> None:
    plan = toy_plan(repeat=4)
    cells = 4 * 2 * 3
    assert plan.predictions.devices[0].compute_us == cells * (1_000 + 1_000 + 2_000)
    kept = toy_plan(placements=[Placement(job="a", device="cpu0", steps=4, keep=(0, 1, 2))], repeat=4)
    assert kept.predictions.devices[0].compute_us == cells * (1_000 + 2_000)
    assert plan.predictions.gap == pytest.approx(
        plan.predictions.makespan_us / plan.predictions.lower_bound_us - 1, abs=1e-6
    )
    assert predict(plan) == plan.predictions


def test_lists_that_cannot_run_are_not_simulated() -> None:
    plan = toy_plan()
    cycle = tuple(step for step in plan.phases[0].cycle if not isinstance(step, Forward))
    broken = replace(plan, phases=(replace(plan.phases[0], cycle=cycle),))
    for function in (simulate, predict):
        with pytest.raises(InvalidPlanError, match="before the forward"):
            function(broken)


def test_phases_are_chained_by_dependencies_alone() -> None:
    """What phase 1 does on an idle device need not wait for phase 0."""
    layout = toy_layout(2, tied=False)
    workload = toy_workload(2, steps=2)
    phases = [
        toy_phase({"a": layout}, workload.jobs, [Placement(job="a", device="cpu0", steps=2)], repeat=2),
        toy_phase({"b": layout}, workload.jobs, [Placement(job="b", device="cpu1", steps=2)], repeat=2),
    ]
    result = simulate(toy_plan(workload, layout, phases=phases))
    assert result.phases[1].start_us == 0


def test_tasks_are_served_in_order_of_number_when_ready() -> None:
    tasks = Tasks([1])
    first = tasks.add(10, 0, [])
    late = tasks.add(5, NO_SERVER, [])
    second = tasks.add(10, 0, [late])
    third = tasks.add(10, 0, [])
    tasks.run()
    assert [tasks.start_us[task] for task in (first, second, third)] == [0, 10, 20]
    tasks.shift(third, 100)
    fourth = tasks.add(30, 0, [third])
    fifth = tasks.add(95, 0, [])
    tasks.run()
    assert (tasks.start_us[fifth], tasks.start_us[fourth]) == (0, 130)
