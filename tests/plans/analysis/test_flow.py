"""What lists mean: instances, versions, accumulators, and what must hold at borders."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawn import Coverage
from support.drawnplan import drawn_plan
from support.toyplan import toy_layout, toy_phase, toy_plan, toy_workload

from hydraplan.plans.analysis.arena import allocate
from hydraplan.plans.analysis.flow import Flow, gradient_tree, trace, unroll
from hydraplan.plans.analysis.memory import device_memory
from hydraplan.plans.checking.check import check
from hydraplan.plans.language.plan import Phase, Placement, Plan
from hydraplan.plans.language.steps import Backward, Drop, Forward, Load, SpillGradients, Step, Update


def with_cycle(plan: Plan, cycle: list[Step] | tuple[Step, ...]) -> Plan:
    return replace(plan, phases=(replace(plan.phases[0], cycle=tuple(cycle)), *plan.phases[1:]))


def causes(plan: Plan) -> list[str]:
    return [problem.cause for problem in trace(plan).problems]


def test_the_gradient_tree_is_the_one_of_the_rule() -> None:
    """[a, b) splits at a plus the largest power of two below b - a (EXACTNESS.md, rule 14)."""
    assert gradient_tree(1) == {}
    assert gradient_tree(2) == {(0, 1): ((1, 2), (0, 2)), (1, 2): ((0, 1), (0, 2))}
    five = gradient_tree(5)
    assert five[0, 4] == ((4, 5), (0, 5))
    assert five[2, 4] == ((0, 2), (0, 4))
    assert (1, 3) not in five


@given(st.integers(1, 40), st.randoms())
def test_gradients_meet_in_the_tree_in_whatever_order(microbatches: int, random: object) -> None:
    """Adding siblings as they appear always ends with the whole."""
    tree = gradient_tree(microbatches)
    order = list(range(microbatches))
    random.shuffle(order)  # type: ignore[attr-defined]
    nodes: set[tuple[int, int]] = set()
    for number in order:
        node = (number, number + 1)
        while node in tree and tree[node][0] in nodes:
            sibling, node = tree[node]
            nodes.discard(sibling)
        nodes.add(node)
    assert nodes == {(0, microbatches)}


def test_at_most_two_accumulators_for_four_microbatches_in_order() -> None:
    plan = toy_plan(toy_workload(1, steps=1, microbatches=4), toy_layout(1, tied=False), repeat=1)
    flow = trace(plan)
    gradients = [each for each in flow.instances if each.key.kind == "gradients" and each.place == "cpu0"]
    most = max(sum(each.begin <= site <= each.end for each in gradients) for site in range(len(flow.sites)))
    assert most == 2


def test_cycles_are_unrolled_twice() -> None:
    plan = toy_plan(repeat=4)
    assert {site.copy for site in unroll(plan)} == {0, 1}
    assert {site.copy for site in unroll(toy_plan(repeat=1))} == {0}
    assert trace(plan).steps == {(0, "cycle", "a"): 1}


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_drawn_lists_hold(seed: int) -> None:
    assert check(drawn_plan(seed)) == ()


def test_the_draws_cover_what_matters() -> None:
    coverage = Coverage()
    for seed in range(30):
        drawn_plan(seed, coverage)
    assert coverage.seen >= {
        "kept",
        "recomputed",
        "resident",
        "tied weights",
        "two devices in one job",
        "updated on a device",
        "gradient ranges of part of the microbatches",
    }


def resident() -> Plan:
    """Slab 1 lives on the device and is updated on the host."""
    return toy_plan(placements=[Placement(job="a", device="cpu0", steps=4, resident=("1",))])


def test_a_cycle_that_refreshes_first_is_as_good() -> None:
    """The refresh may stand at the next cycle's start as well as after the update."""
    plan = resident()
    cycle = list(plan.phases[0].cycle)
    update = max(number for number, step in enumerate(cycle) if isinstance(step, Update) and step.slab == "1")
    refresh = cycle.pop(update + 1)
    assert isinstance(refresh, Load)
    assert causes(with_cycle(plan, [refresh, *cycle])) == []
    assert any("needs update" in cause for cause in causes(with_cycle(plan, cycle)))


def test_a_single_cycle_needs_no_refresh_at_its_end() -> None:
    plan = toy_plan(
        toy_workload(1, steps=1), placements=[Placement(job="a", device="cpu0", steps=1, resident=("1",))], repeat=1
    )
    cycle = list(plan.phases[0].cycle)
    update = next(number for number, step in enumerate(cycle) if isinstance(step, Update) and step.slab == "1")
    del cycle[update + 1]
    assert causes(with_cycle(plan, cycle)) == []


def test_an_empty_prologue_means_that_nothing_is_held() -> None:
    plan = resident()
    bare = replace(plan, phases=(replace(plan.phases[0], prologue=()),))
    assert "parameters of slab 1 of a are not on cpu0" in causes(bare)


def test_every_cycle_must_end_alike() -> None:
    """A list that loads its resident from the store in the first cycle alone cannot be written: all copies are one."""
    plan = toy_plan(placements=[Placement(job="a", device="cpu0", steps=4, resident=("1",), device_updates=("1",))])
    cycle = list(plan.phases[0].cycle)
    load = Load(device="cpu0", job="a", slab="1")
    assert any("the newest is update" in cause for cause in causes(with_cycle(plan, [load, *cycle])))


def test_phases_follow_one_another_with_the_newest_parameters() -> None:
    layout, workload = toy_layout(2), toy_workload(1, steps=4)
    one = Placement(job="a", device="cpu0", steps=2, resident=("0",), device_updates=("0",))
    other = Placement(job="a", device="cpu1", steps=2, keep=(0, 1))
    phases = [toy_phase({"a": layout}, workload.jobs, [placement], repeat=2) for placement in (one, other)]
    plan = toy_plan(workload, layout, [one], phases=phases, predicted=False)
    assert causes(plan) == []
    unspilled = tuple(step for step in phases[0].epilogue if isinstance(step, Drop))
    found = causes(replace(plan, phases=(replace(phases[0], epilogue=unspilled), phases[1])))
    assert len(found) == 2
    assert all("not spilled" in cause for cause in found)


def test_a_step_in_every_list() -> None:
    """Prologue and epilogue may train too."""
    layout, workload = toy_layout(2), toy_workload(1, steps=4)
    phase = toy_phase({"a": layout}, workload.jobs, [Placement(job="a", device="cpu0", steps=1)], repeat=1)
    everywhere = Phase(repeat=2, prologue=phase.cycle, cycle=phase.cycle, epilogue=phase.cycle)
    plan = toy_plan(workload, layout, phases=[everywhere], predicted=False)
    assert causes(plan) == []
    assert trace(plan).steps == {(0, section, "a"): 1 for section in ("prologue", "cycle", "epilogue")}


def test_numbers_of_training_steps_have_no_gaps() -> None:
    plan = toy_plan(toy_workload(1, steps=2), repeat=2)
    cycle = [step if isinstance(step, Load | Drop) else replace(step, step=1) for step in plan.phases[0].cycle]
    assert any("numbered 1" in cause for cause in causes(with_cycle(plan, cycle)))


def test_a_tied_slab_waits_for_all_its_readers() -> None:
    plan = toy_plan()
    cycle = [
        step
        for step in plan.phases[0].cycle
        if not (isinstance(step, SpillGradients) and step.slab == "0+2" and step.shard == 2)
    ]
    (cause,) = set(causes(with_cycle(plan, cycle)))
    assert "needs shard 2's gradients of all microbatches [0, 2) on host, which has none" in cause


@pytest.mark.parametrize("keep", [(), (0,), (0, 1, 2)])
def test_kept_activations_count_until_their_backward(keep: tuple[int, ...]) -> None:
    plan = toy_plan(placements=[Placement(job="a", device="cpu0", steps=4, keep=keep)])
    flow = trace(plan)
    memory = device_memory(plan, flow, allocate(plan, flow))["cpu0"]
    assert memory.kept_bytes == 30_000 * len(keep)
    most = {0: 50_000, 1: max(30_000 + 50_000, 30_000 + 20_000), 3: 90_000 + 20_000}[len(keep)]
    assert memory.peak_bytes == memory.arena_bytes + most


def backwards_of(flow: Flow) -> list[int]:
    return [number for number, site in enumerate(flow.sites) if isinstance(site.step, Backward)]


def test_a_backward_reads_what_its_forward_read() -> None:
    """Kept or not: saved tensors in the arena are bound again (EXACTNESS.md, rule 13)."""
    flow = trace(toy_plan(placements=[Placement(job="a", device="cpu0", steps=4, keep=(0, 1, 2))]))
    for number in backwards_of(flow):
        step = flow.sites[number].step
        assert isinstance(step, Backward)
        forward = max(
            other
            for other, site in enumerate(flow.sites[:number])
            if isinstance(site.step, Forward)
            and (site.step.shard, site.step.microbatch) == (step.shard, step.microbatch)
        )
        read = {instance.key for instance in flow.uses[forward].reads}
        assert read <= {instance.key for instance in flow.uses[number].reads}
