"""Buffers that a forward updates change once a microbatch, in order, whatever the plan recomputes or where it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from support.whole import Draws, cluster, run, whole_job

from hydraplan.planner import SolverOptions, plan
from hydraplan.plans.language.steps import Save
from hydraplan.plans.language.workload import Job, Workload

MICROBATCHES = 4
DRAWN_PLANS = 8
BUDGETS = (48_000, 60_000, 1 << 20)


def statistics() -> Job:
    return whole_job("support.models:Statistics", {}, name="statistics", microbatches=MICROBATCHES, steps=2)


def test_every_valid_plan_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Microbatches over two devices, kept and recomputed, updates on either side; then the planner's own lists."""
    job, random = statistics(), Random(9)
    draws = Draws.of(job, monkeypatch)
    for _ in range(DRAWN_PLANS):
        found = draws.train(draws.draw(draws.cut_anywhere(random), random))
    for budget in BUDGETS:
        workload = Workload(cluster=cluster(1, budget_bytes=budget), jobs=(job,))
        draws.train(plan(workload, solver=SolverOptions(effort=1_000)))
    times = job.steps * MICROBATCHES
    for name, calls in (("calls", 1), ("norms.0.num_batches_tracked", 1), ("twice.num_batches_tracked", 2)):
        assert found.weights[name] == calls * times
    assert draws.coverage.seen >= {"buffers", "two devices in one job", "kept", "recomputed", "updated on a device"}


@pytest.mark.parametrize("resident", [True, False])
def test_lists_save_buffers_once_a_step_where_the_host_updates(resident: bool) -> None:
    job = statistics()
    where = cluster(1, budget_bytes=BUDGETS[-1 if resident else 0])
    made = plan(Workload(cluster=where, jobs=(job,)), solver=SolverOptions(effort=1_000))
    on_device = {slab for phase in made.decisions.phases for each in phase.placements for slab in each.device_updates}
    layout = made.facts.layouts[0]
    updating = [
        number
        for number, shard in enumerate(layout.shards)
        if shard.buffer_bytes and not any(layout.slab(slab).buffer_bytes and slab in on_device for slab in shard.slabs)
    ]
    saved = [
        step.shard
        for phase in made.phases
        for _ in range(phase.repeat)
        for step in phase.cycle
        if isinstance(step, Save) and step.what == "buffers"
    ]
    assert sorted(saved) == sorted(updating * job.steps)


def test_a_frozen_model_still_updates_its_buffers(tmp_path: Path) -> None:
    """Nothing of a shard is trained, and it has no backward: its slab is updated all the same."""
    job = replace(statistics(), model=replace(statistics().model, path="support.models:FrozenStatistics"))
    made = plan(Workload(cluster=cluster(1, budget_bytes=60_000), jobs=(job,)), solver=SolverOptions(effort=1_000))
    layout = made.facts.layouts[0]
    assert any(slab.buffer_bytes and not slab.trainable_bytes for slab in layout.slabs)
    found = run(made, tmp_path / "run")[job.name]
    assert found.weights["norms.0.num_batches_tracked"] == job.steps * MICROBATCHES
    assert not torch.equal(found.weights["norms.0.running_mean"], torch.zeros(16))
