"""Lists made from any decisions run as written, hold their memory, and overlap what can overlap."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sweep import facts_of, gpu_cluster, job_of
from support.toyplan import MIB, toy_cluster, toy_facts, toy_layout, toy_workload

from hydraplan.planner.lists.cycles import make_lists
from hydraplan.planner.lists.making import ListMaker, draft
from hydraplan.planner.lists.rates import split
from hydraplan.plans.analysis.arena import allocate
from hydraplan.plans.analysis.flow import trace
from hydraplan.plans.analysis.memory import device_memory
from hydraplan.plans.language.errors import InfeasibleError, InvalidPlanError
from hydraplan.plans.language.facts import Facts, Layout
from hydraplan.plans.language.plan import Cuts, Decisions, Phase, PhaseDecision, Placement
from hydraplan.plans.language.steps import Backward, Fetch, FetchBatch, Load, Save, SpillGradients, Update
from hydraplan.plans.language.workload import Workload
from hydraplan.plans.prediction.simulate import simulate


def decide(workload: Workload, layout: Layout, *phases: tuple[Placement, ...]) -> Decisions:
    return Decisions(
        cuts=tuple(Cuts(job=job.name, cuts=layout.cuts) for job in workload.jobs),
        phases=tuple(PhaseDecision(placements=each) for each in phases),
    )


def check(workload: Workload, facts: Facts, decisions: Decisions) -> tuple[Phase, ...]:
    phases = make_lists(workload, facts, decisions)
    plan = draft(workload, facts, decisions, phases)
    flow = trace(plan)
    assert not flow.problems
    memory = device_memory(plan, flow, allocate(plan, flow))
    for device in workload.cluster.devices:
        assert memory[device.name].peak_bytes <= device.budget_bytes
    return phases


def shortage(workload: Workload, facts: Facts, decisions: Decisions) -> InfeasibleError | None:
    try:
        check(workload, facts, decisions)
    except InfeasibleError as error:
        return error
    return None


@st.composite
def instances(draw: st.DrawFn) -> tuple[Workload, Facts, Decisions]:
    shards = draw(st.integers(1, 6))
    layout = toy_layout(
        shards,
        tied=draw(st.booleans()),
        skip=draw(st.booleans()) and shards > 2,
        activation_bytes=draw(st.sampled_from([4096, 300_000])),
        frozen=draw(st.sampled_from([0, 0, 1, shards])),
    )
    if draw(st.booleans()):
        frozen = draw(st.integers(0, shards - 1))
        layout = replace(
            layout,
            slabs=tuple(
                replace(slab, trainable_bytes=0) if slab.name == str(frozen) else slab for slab in layout.slabs
            ),
            shards=tuple(
                replace(shard, gradient_bytes=tuple(each for each in shard.gradient_bytes if each[0] != str(frozen)))
                for shard in layout.shards
            ),
        )
    jobs = draw(st.integers(1, 3))
    devices = draw(st.integers(1, 2))
    cluster = toy_cluster(
        devices,
        budget_bytes=draw(st.sampled_from([12, 24, 64])) * MIB,
        shared_link=draw(st.booleans()),
        update_workers=draw(st.integers(1, 2)),
    )
    workload = toy_workload(jobs, cluster=cluster, microbatches=draw(st.integers(1, 4)))
    steps = draw(st.sampled_from([st.integers(1, 7), st.just(6)]))
    workload = replace(workload, jobs=tuple(replace(job, steps=draw(steps)) for job in workload.jobs))
    slabs = st.lists(st.sampled_from([slab.name for slab in layout.slabs]), unique=True, max_size=4).map(tuple)
    backward = [number for number, shard in enumerate(layout.shards) if shard.has_backward]
    keep = st.lists(st.sampled_from(backward), unique=True).map(tuple) if backward else st.just(())
    options = st.fixed_dictionaries({"resident": slabs, "keep": keep, "device_updates": slabs})
    alike = draw(st.none() | options)
    phases: tuple[list[Placement], list[Placement]] = ([], [])
    for job in workload.jobs:
        first = draw(st.integers(0, job.steps))
        for phase, count in zip(phases, (first, job.steps - first), strict=True):
            if count:
                phase.append(
                    Placement(
                        job=job.name,
                        device=draw(st.sampled_from([device.name for device in cluster.devices])),
                        steps=count,
                        **(draw(options) if alike is None else alike),
                    )
                )
    state_copies = draw(st.integers(0, 2))
    return (
        workload,
        toy_facts(workload, layout, state_copies=state_copies),
        decide(workload, layout, *(tuple(each) for each in phases if each)),
    )


@settings(max_examples=60, deadline=None)
@given(instances())
def test_any_decisions_give_valid_lists_within_budget_or_say_what_is_missing(
    instance: tuple[Workload, Facts, Decisions],
) -> None:
    workload, facts, decisions = instance
    error = shortage(workload, facts, decisions)
    if error is not None:
        assert error.missing_bytes > 0
        assert error.device in {device.name for device in workload.cluster.devices}


@settings(max_examples=10, deadline=None)
@given(instances())
def test_the_same_decisions_give_the_same_lists(instance: tuple[Workload, Facts, Decisions]) -> None:
    def lists() -> object:
        try:
            return make_lists(*instance)
        except InfeasibleError as error:
            return str(error)

    assert lists() == lists()


@settings(max_examples=20, deadline=None)
@given(instances(), st.randoms())
def test_what_was_made_before_changes_nothing(instance: tuple[Workload, Facts, Decisions], random: Random) -> None:
    """A maker reuses what it found for other phases; the lists are the same in whatever order they are made."""

    def lists(maker: ListMaker, placements: tuple[Placement, ...]) -> object:
        try:
            return maker.phases_of(placements)
        except InfeasibleError as error:
            return str(error)

    workload, facts, decisions = instance
    maker = ListMaker(workload, facts, decisions.cuts)
    phases = [each.placements for each in decisions.phases]
    parts = [tuple(random.sample(each, random.randint(1, len(each)))) for each in phases for _ in range(2)]
    made = {each: lists(maker, each) for each in (*parts, *phases)}
    assert made == {each: lists(ListMaker(workload, facts, decisions.cuts), each) for each in made}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_rates_add_up(steps: list[int]) -> None:
    parts = split(steps)
    assert [sum(repeat * rates[job] for repeat, rates in parts) for job in range(len(steps))] == steps
    assert all(any(rates) for _, rates in parts)


def one_job(*, slab_bytes: int, forward_us: int, budget_bytes: int) -> tuple[Workload, Facts, Layout]:
    layout = toy_layout(16, slab_bytes=slab_bytes, tied=False, forward_us=forward_us, backward_us=2 * forward_us)
    cluster = toy_cluster(1, budget_bytes=budget_bytes, bytes_per_s=10**9)
    fast = replace(cluster.profiles[0], update_bytes_per_s=10**12)
    workload = toy_workload(1, cluster=replace(cluster, profiles=(fast,)), steps=20, microbatches=1)
    return workload, toy_facts(workload, layout), layout


def test_loads_hide_behind_compute() -> None:
    """Streaming sixteen shards of which four fit: forwards wait for loads, loads hide behind backwards."""
    workload, facts, layout = one_job(slab_bytes=MIB, forward_us=550, budget_bytes=5 * MIB)
    decisions = decide(workload, layout, (Placement(job="a", device="cpu0", steps=20),))
    phases = check(workload, facts, decisions)
    makespan = simulate(draft(workload, facts, decisions, phases)).makespan_us
    load, forward, backward = 1_049, 550, 3 * 550
    assert makespan < 1.1 * 20 * 16 * (max(load, forward) + max(load, backward))
    assert makespan < 0.8 * 20 * 16 * (2 * load + forward + backward)


def test_jobs_in_turn_even_out_loads_and_compute() -> None:
    """One's backwards run over the other's loads: both engines are busy nearly all of the time."""
    layout = toy_layout(16, slab_bytes=MIB, tied=False, forward_us=550, backward_us=1_100)
    cluster = toy_cluster(1, budget_bytes=12 * MIB, bytes_per_s=10**9)
    fast = replace(cluster.profiles[0], update_bytes_per_s=10**12)
    workload = toy_workload(2, cluster=replace(cluster, profiles=(fast,)), steps=20, microbatches=1)
    facts = toy_facts(workload, layout)
    both = tuple(Placement(job=job, device="cpu0", steps=20) for job in ("a", "b"))
    decisions = decide(workload, layout, both)
    simulation = simulate(draft(workload, facts, decisions, check(workload, facts, decisions)))
    assert simulation.makespan_us < 1.1 * 2 * 20 * 16 * 4 * 550


def test_two_jobs_hide_each_others_waits() -> None:
    layout = toy_layout(8, slab_bytes=MIB, tied=False, forward_us=500, backward_us=500)
    cluster = toy_cluster(1, budget_bytes=12 * MIB, bytes_per_s=10**9)
    workload = toy_workload(2, cluster=cluster, steps=20, microbatches=1)
    facts = toy_facts(workload, layout)

    def makespan(*phases: tuple[Placement, ...]) -> int:
        decisions = decide(workload, layout, *phases)
        return simulate(draft(workload, facts, decisions, check(workload, facts, decisions))).makespan_us

    a, b = (Placement(job=job, device="cpu0", steps=20) for job in ("a", "b"))
    assert makespan((a, b)) < 0.95 * makespan((a,), (b,))


def test_residents_are_loaded_once_a_step_and_their_refresh_does_not_wait_at_the_border() -> None:
    workload, facts, layout = one_job(slab_bytes=MIB, forward_us=2_000, budget_bytes=64 * MIB)
    resident = tuple(slab.name for slab in layout.slabs)
    decisions = decide(workload, layout, (Placement(job="a", device="cpu0", steps=20, resident=resident),))
    (phase,) = check(workload, facts, decisions)
    loads = [step.slab for step in phase.cycle if isinstance(step, Load)]
    assert sorted(loads) == sorted(resident)


def test_residents_updated_on_the_device_are_not_moved_within_the_cycle() -> None:
    workload, facts, layout = one_job(slab_bytes=MIB, forward_us=2_000, budget_bytes=80 * MIB)
    slabs = tuple(slab.name for slab in layout.slabs)
    placement = Placement(job="a", device="cpu0", steps=20, resident=slabs, device_updates=slabs)
    (phase,) = check(workload, facts, decide(workload, layout, (placement,)))
    assert not [step for step in phase.cycle if isinstance(step, Load)]
    assert {step.device for step in phase.cycle if isinstance(step, Update)} == {"cpu0"}


def test_activations_go_to_the_host_where_they_do_not_fit() -> None:
    layout = toy_layout(8, slab_bytes=MIB, tied=False, activation_bytes=MIB)
    workload = toy_workload(1, cluster=toy_cluster(1, budget_bytes=13 * MIB), microbatches=3)
    facts = toy_facts(workload, layout)
    (phase,) = check(workload, facts, decide(workload, layout, (Placement(job="a", device="cpu0", steps=4),)))
    saved = {(step.shard, step.microbatch) for step in phase.cycle if isinstance(step, Save)}
    fetched = {(step.shard, step.microbatch) for step in phase.cycle if isinstance(step, Fetch)}
    assert fetched and fetched < saved


def test_one_load_serves_all_microbatches() -> None:
    workload, facts, layout = one_job(slab_bytes=MIB, forward_us=2_000, budget_bytes=8 * MIB)
    workload = replace(workload, jobs=(replace(workload.jobs[0], microbatches=4),))
    (phase,) = check(workload, facts, decide(workload, layout, (Placement(job="a", device="cpu0", steps=20),)))
    loads = [step for step in phase.cycle if isinstance(step, Load)]
    assert len(loads) <= 2 * len(layout.shards)
    assert len([step for step in phase.cycle if isinstance(step, FetchBatch)]) == 2 * 4


def test_the_error_says_how_much_is_missing() -> None:
    workload, facts, layout = one_job(slab_bytes=MIB, forward_us=2_000, budget_bytes=8 * MIB)
    resident = tuple(slab.name for slab in layout.slabs)
    decisions = decide(workload, layout, (Placement(job="a", device="cpu0", steps=20, resident=resident),))
    with pytest.raises(InfeasibleError, match=r"a on cpu0: .* bytes short") as caught:
        make_lists(workload, facts, decisions)
    least = workload.cluster.devices[0].budget_bytes + caught.value.missing_bytes
    assert least > 16 * MIB


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"device": "gpu9"}, "/decisions/phases/0/placements/0/device"),
        ({"job": "z"}, "/decisions/phases/0/placements/0/job"),
        ({"resident": ("99",)}, "/decisions/phases/0/placements/0/resident"),
        ({"device_updates": ("99",)}, "/decisions/phases/0/placements/0/device_updates"),
        ({"keep": (99,)}, "/decisions/phases/0/placements/0/keep"),
        ({"steps": 3}, "/decisions/phases"),
        ({"steps": 0}, "/decisions/phases/0/placements/0/steps"),
    ],
)
def test_decisions_that_contradict_the_workload_are_refused(change: dict[str, object], pointer: str) -> None:
    workload, facts, layout = one_job(slab_bytes=MIB, forward_us=2_000, budget_bytes=8 * MIB)
    placement = replace(Placement(job="a", device="cpu0", steps=20), **change)
    with pytest.raises(InvalidPlanError) as caught:
        make_lists(workload, facts, decide(workload, layout, (placement,)))
    assert pointer in {finding.pointer for finding in caught.value.findings}


def test_keeping_for_a_backward_that_a_shard_has_not_is_refused() -> None:
    workload, layout = toy_workload(1), toy_layout(3, frozen=1)
    placement = Placement(job="a", device="cpu0", steps=4, keep=(0, 1))
    with pytest.raises(InvalidPlanError, match="shard 0 of a has no backward to keep activations for") as caught:
        make_lists(workload, toy_facts(workload, layout), decide(workload, layout, (placement,)))
    assert [finding.pointer for finding in caught.value.findings] == ["/decisions/phases/0/placements/0/keep"]


def test_lists_have_a_backward_only_where_one_makes_something() -> None:
    """Two frozen shards of four: no backward, spill or update of them, and each is loaded once a step."""
    workload, layout = toy_workload(1, microbatches=2), toy_layout(4, frozen=2)
    placement = Placement(job="a", device="cpu0", steps=4)
    (phase,) = check(workload, toy_facts(workload, layout), decide(workload, layout, (placement,)))
    lines = [*phase.prologue, *phase.cycle]
    assert {(step.shard, step.microbatch) for step in lines if isinstance(step, Backward)} == {
        (shard, microbatch) for shard in (2, 3) for microbatch in (0, 1)
    }
    assert {step.slab for step in lines if isinstance(step, Update | SpillGradients)} == {"2", "3"}
    loads = Counter(step.slab for step in phase.cycle if isinstance(step, Load))
    assert loads["0"] == loads["1"] == 1


def test_jobs_of_several_graphs_and_devices() -> None:
    """Unlike rates: the remainder becomes a phase of its own."""
    layouts = tuple(toy_layout(shards, graph=f"g{shards}", profiles=("rtx2080ti",)) for shards in (2, 5))
    jobs = (job_of("x", steps=7), job_of("y", steps=3, microbatches=2))
    workload = Workload(cluster=gpu_cluster(2, budget_bytes=32 * MIB), jobs=jobs)
    facts = facts_of(jobs, layouts, {"x": "g2", "y": "g5"})
    decisions = Decisions(
        cuts=(Cuts(job="x", cuts=layouts[0].cuts), Cuts(job="y", cuts=layouts[1].cuts)),
        phases=(
            PhaseDecision(
                placements=(
                    Placement(job="x", device="gpu0", steps=7),
                    Placement(job="y", device="gpu1", steps=3, resident=("1",)),
                )
            ),
        ),
    )
    phases = check(workload, facts, decisions)
    assert len(phases) == 2
