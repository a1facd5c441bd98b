"""Cycles as long as pays: several training steps of jobs that share a device, where the plan becomes shorter by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.toyplan import MIB, toy_cluster, toy_facts, toy_layout, toy_workload

from hydraplan.planner.lists import cycles
from hydraplan.planner.lists.cycles import make_lists
from hydraplan.planner.lists.making import draft
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Cuts, Decisions, Phase, PhaseDecision, Placement
from hydraplan.plans.language.workload import Workload
from hydraplan.plans.prediction.simulate import simulate


def instance(jobs: int, steps: int) -> tuple[Workload, Facts, Decisions]:
    """Jobs on one device, as slow to load as to compute, with room for few shards."""
    layout = toy_layout(8, slab_bytes=MIB, tied=False, forward_us=550, backward_us=1_100)
    cluster = toy_cluster(1, budget_bytes=9 * MIB, bytes_per_s=10**9)
    fast = replace(cluster.profiles[0], update_bytes_per_s=10**12)
    workload = toy_workload(jobs, cluster=replace(cluster, profiles=(fast,)), steps=steps, microbatches=1)
    placements = tuple(Placement(job=job.name, device="cpu0", steps=steps) for job in workload.jobs)
    decisions = Decisions(
        cuts=tuple(Cuts(job=job.name, cuts=layout.cuts) for job in workload.jobs),
        phases=(PhaseDecision(placements=placements),),
    )
    return workload, toy_facts(workload, layout), decisions


def makespan_us(given: tuple[Workload, Facts, Decisions], phases: tuple[Phase, ...]) -> int:
    return simulate(draft(*given, phases)).makespan_us


def test_jobs_that_share_a_device_get_cycles_of_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    given = instance(jobs=2, steps=24)
    (long,) = make_lists(*given)
    monkeypatch.setattr(cycles, "FACTORS", (1,))
    (short,) = make_lists(*given)
    assert (short.repeat, long.repeat) == (24, 6)
    assert makespan_us(given, (long,)) < (1 - cycles.WORTH) * makespan_us(given, (short,))


@pytest.mark.parametrize(("jobs", "steps"), [(1, 24), (2, 1), (2, 7)])
def test_others_keep_the_shortest(jobs: int, steps: int) -> None:
    """A job alone gains nothing; a number of cycles that has no divisor is left as it is."""
    (phase,) = make_lists(*instance(jobs, steps))
    assert phase.repeat == steps


def test_longer_lists_have_to_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "WORTH", 0.5)
    (phase,) = make_lists(*instance(jobs=2, steps=24))
    assert phase.repeat == 24
