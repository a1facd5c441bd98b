"""Shards without a backward, and slabs of which a part changes: what lists must, may and must not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.drawn import Coverage
from support.drawnplan import drawn_plan
from support.toyplan import MIB, toy_layout, toy_plan, toy_workload

from hydraplan.plans.analysis.flow import Problem, refreshes, trace, unroll
from hydraplan.plans.checking.check import check
from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.plans.language.steps import Backward, Drop, Forward, Load, Spill, Step
from hydraplan.plans.prediction.durations import Durations

RATE = 100_000_000
"""Bytes per second of the toy cluster's links."""


def plan_of(placement: Placement | None = None, *, frozen: int = 2, predicted: bool = True) -> Plan:
    """Three shards of a megabyte, of which the first two are frozen and a quarter of the last is trained."""
    layout = toy_layout(3, tied=False, frozen=frozen)
    placement = placement or Placement(job="a", device="cpu0", steps=4)
    return toy_plan(toy_workload(1, microbatches=2), layout, [placement], predicted=predicted)


def with_cycle(plan: Plan, cycle: Sequence[Step]) -> Plan:
    return replace(plan, phases=(replace(plan.phases[0], cycle=tuple(cycle)),))


def put(plan: Plan, step: Step, *, below: type[Step]) -> Plan:
    """Put a line below the first of a kind."""
    cycle = list(plan.phases[0].cycle)
    at = next(number for number, each in enumerate(cycle) if isinstance(each, below))
    return with_cycle(plan, [*cycle[: at + 1], step, *cycle[at + 1 :]])


def problem(plan: Plan) -> Problem:
    (found,) = trace(plan).problems
    return found


def test_complete_without_the_backwards_that_nothing_needs() -> None:
    plan = plan_of()
    assert check(plan) == ()
    assert {step.shard for step in plan.phases[0].cycle if isinstance(step, Backward)} == {2}


def test_nothing_is_trained_and_every_step_still_runs() -> None:
    plan = plan_of(frozen=3)
    assert check(plan) == ()
    assert not any(isinstance(step, Backward) for step in plan.phases[0].cycle)


def test_a_backward_that_nothing_needs_is_refused() -> None:
    backward = Backward(device="cpu0", job="a", shard=1, microbatch=0)
    found = problem(put(plan_of(), backward, below=Backward))
    assert found.cause == "backward of shard 1 of a, which makes no gradients: nothing upstream needs it"
    assert found.remedy == "delete the line"


def test_a_backward_that_something_needs_is_missed() -> None:
    plan = plan_of(frozen=1)
    first = next(step for step in plan.phases[0].cycle if isinstance(step, Backward) and step.shard == 1)
    found = trace(with_cycle(plan, [step for step in plan.phases[0].cycle if step != first])).problems
    assert any("no backward of shard 1, microbatch 0" in each.cause for each in found)


def test_keeping_for_no_backward_is_refused() -> None:
    plan = plan_of()
    cycle = [
        replace(step, keep=True) if isinstance(step, Forward) and step.shard == 0 else step
        for step in plan.phases[0].cycle
    ]
    assert all(
        found.cause == "shard 0 of a keeps activations for a backward that it does not have"
        for found in trace(with_cycle(plan, cycle)).problems
    )


def test_decisions_that_keep_for_no_backward_are_refused() -> None:
    plan = plan_of(Placement(job="a", device="cpu0", steps=4, keep=(0,)), predicted=False)
    finding = check(plan)[0]
    assert finding.pointer == "/decisions/phases/0/placements/0/keep/0"
    assert finding.cause == "shard 0 of a has no backward to keep activations for"


def test_a_spill_of_what_is_frozen_is_refused() -> None:
    found = problem(put(plan_of(), Spill(device="cpu0", job="a", slab="0"), below=Load))
    assert found.cause == "slab 0 of a is frozen: the host store has all of it"


def test_values_live_to_the_last_forward_that_reads_them() -> None:
    """Shard 0's values are read by shard 1, which has no backward; shard 1's by shard 2, which has one."""
    flow = trace(plan_of())
    ends = {
        each.key.shard: type(flow.sites[each.end].step)
        for each in flow.instances
        if each.key.kind == "activations" and each.place == "cpu0" and each.key.shard < 2
    }
    assert ends == {0: Forward, 1: Backward}


@pytest.mark.parametrize("device_updates", [(), ("2",)])
def test_what_moves_after_the_first_load_is_what_changes(device_updates: tuple[str, ...]) -> None:
    """A quarter of slab 2 is trained: a refresh of it and a spill of it move a quarter of a megabyte."""
    plan = plan_of(Placement(job="a", device="cpu0", steps=4, resident=("2",), device_updates=device_updates))
    sites = unroll(plan)
    over_present = refreshes(sites)
    durations = Durations(plan).of_sites(sites)
    moved: dict[tuple[type[Step], bool], set[int]] = {}
    for number, (site, duration_us) in enumerate(zip(sites, durations, strict=True)):
        step = site.step
        if isinstance(step, Load | Spill) and step.slab == "2" and step.what == "parameters":
            moved.setdefault((type(step), number in over_present), set()).add(duration_us * RATE // 1_000_000)
    whole, part = MIB, MIB // 4
    after: dict[tuple[type[Step], bool], set[int]] = (
        {(Spill, False): {part}} if device_updates else {(Load, True): {part}}
    )
    assert {key: {round(size, -3) for size in sizes} for key, sizes in moved.items()} == {
        key: {round(size, -3) for size in sizes} for key, sizes in {(Load, False): {whole}, **after}.items()
    }


def test_a_load_after_a_drop_is_no_refresh() -> None:
    plan = plan_of()
    assert any(isinstance(step, Drop) for step in plan.phases[0].cycle)
    assert not refreshes(unroll(plan))


def test_drawn_plans_cover_what_is_frozen() -> None:
    coverage = Coverage()
    for number in range(60):
        drawn_plan(number, coverage)
    assert coverage.seen >= {"no backward", "loaded over a present copy"}
