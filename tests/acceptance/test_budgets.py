"""What fits a budget fits every larger one, and the budget that a refusal names is enough."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.models import GPT2
from support.whole import cluster, whole_job

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.study import study
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.workload import Workload


@pytest.mark.parametrize("call", ["transformers:GPT2LMHeadModel", "support.models:Skips"])
def test_the_budget_that_is_named_is_enough_and_so_is_any_larger(call: str) -> None:
    job = whole_job(call, dict(GPT2) if "GPT2" in call else {}, name="a", steps=4, microbatches=2)
    studied = study((job,))

    def planned(budget_bytes: int) -> int:
        workload = Workload(cluster=cluster(1, budget_bytes=budget_bytes), jobs=(job,))
        made = plan(workload, solver=SolverOptions(effort=1000), studied=studied)
        return made.predictions.devices[0].peak_bytes

    with pytest.raises(InfeasibleError, match=r"a fits no device: cpu0 has .* with which it can be planned") as caught:
        planned(1000)
    enough = 1000 + caught.value.missing_bytes
    for part in range(0, 16, 3):
        budget = enough + enough * part // 16
        assert planned(budget) <= budget


def test_a_device_that_is_too_small_for_a_job_does_not_keep_it_from_a_larger_one() -> None:
    job = whole_job("transformers:GPT2LMHeadModel", dict(GPT2), name="a", steps=2, microbatches=2)
    where = cluster(2, budget_bytes=2 << 20)
    small = replace(where.devices[0], budget_bytes=1000)
    made = plan(Workload(cluster=replace(where, devices=(small, where.devices[1])), jobs=(job,)))
    assert {each.device for phase in made.decisions.phases for each in phase.placements} == {"cpu1"}
