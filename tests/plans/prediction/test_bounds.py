"""No plan is faster than the bound, and some are nearly as fast."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from support.drawnplan import plans
from support.toyplan import toy_cluster, toy_layout, toy_plan, toy_workload

from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.plans.prediction.bounds import lower_bound_us, terms_us
from hydraplan.plans.prediction.simulate import simulate


@settings(max_examples=60)
@given(plans())
def test_no_plan_beats_the_bound(plan: Plan) -> None:
    assert lower_bound_us(plan.workload, plan.facts) <= simulate(plan).makespan_us


def test_compute_bound_plans_come_close() -> None:
    layout = toy_layout(3, slab_bytes=1024, activation_bytes=256)
    slabs = tuple(slab.name for slab in layout.slabs)
    workload = toy_workload(2, steps=20)
    placements = [
        Placement(job=job, device=device, steps=20, resident=slabs, keep=(0, 1, 2), device_updates=slabs)
        for job, device in (("a", "cpu0"), ("b", "cpu1"))
    ]
    plan = toy_plan(workload, layout, placements, repeat=20)
    assert 0 <= plan.predictions.gap < 0.03


def test_what_cannot_stay_is_loaded_twice_a_step() -> None:
    """8 MiB of parameters on 4 MiB of devices, copies slower than compute."""
    layout = toy_layout(16, slab_bytes=1 << 19, tied=False, forward_us=1, backward_us=1)
    workload = toy_workload(1, steps=10, microbatches=1, cluster=toy_cluster(1, budget_bytes=4 << 20))
    plan = toy_plan(workload, layout, repeat=10)
    terms = terms_us(plan.workload, plan.facts)
    assert terms["loads"] == -(-2 * 10 * (4 << 20) * 1_000_000 // 100_000_000)
    assert terms["loads"] <= plan.predictions.makespan_us
    roomy = replace(plan.workload, cluster=toy_cluster(1, budget_bytes=1 << 30))
    assert terms_us(roomy, plan.facts)["loads"] == -(-(8 << 20) * 1_000_000 // 100_000_000)


def test_a_job_alone_waits_for_its_own_chain() -> None:
    """Four devices do not make one job's one microbatch faster."""
    layout = toy_layout(3, slab_bytes=1024)
    workload = toy_workload(1, steps=10, microbatches=1, cluster=toy_cluster(4))
    plan = toy_plan(workload, layout, repeat=10)
    terms = terms_us(plan.workload, plan.facts)
    assert terms["chain of a"] > 10 * 3 * 3_000
    assert terms["compute"] == 10 * 3 * 3_000 / 4


def test_of_several_layouts_the_best_counts() -> None:
    plan = toy_plan()
    (layout,) = plan.facts.layouts
    faster = replace(
        layout,
        cuts=(5, 20),
        shards=tuple(
            replace(shard, times=tuple(replace(times, forward_us=500) for times in shard.times))
            for shard in layout.shards
        ),
    )
    both = replace(plan.facts, layouts=(layout, faster))
    assert terms_us(plan.workload, both)["compute"] < terms_us(plan.workload, plan.facts)["compute"]
    assert lower_bound_us(plan.workload, both) <= lower_bound_us(plan.workload, plan.facts)
