"""What fits a budget fits every larger one, and the budget that a refusal names is enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.models import BERT, GPT2
from support.whole import cluster, run, whole_job

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.study import Study, study
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.workload import Job, Workload


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


def sweep() -> dict[str, Job]:
    """Jobs of which the last needs the most memory, two of the small ones by seed alone."""
    small = whole_job("support.models:Skips", {}, name="small", steps=2, microbatches=2)
    large = whole_job("transformers:GPT2LMHeadModel", GPT2 | {"vocab_size": 4096}, name="large", steps=2)
    return {"small": small, "second": replace(small, name="second", seed=4), "large": large}


@pytest.fixture(scope="module")
def bert() -> tuple[Job, Study, int]:
    """A job, its study, and the budget that its refusal names."""
    job = whole_job("transformers:BertForMaskedLM", dict(BERT), name="a", steps=2, microbatches=2)
    studied = study((job,))
    with pytest.raises(InfeasibleError) as caught:
        plan(Workload(cluster=cluster(1, budget_bytes=2000), jobs=(job,)), studied=studied)
    return job, studied, 2000 + caught.value.missing_bytes


@pytest.mark.parametrize("percent", [0, 1, 3, 7, 16])
def test_all_budgets_from_the_named_one_on_do(bert: tuple[Job, Study, int], percent: int) -> None:
    job, studied, enough = bert
    budget = enough + enough * percent // 100
    made = plan(Workload(cluster=cluster(1, budget_bytes=budget), jobs=(job,)), studied=studied)
    assert made.predictions.devices[0].peak_bytes <= budget


def test_less_than_98_percent_of_the_named_budget_does_not_do(bert: tuple[Job, Study, int]) -> None:
    job, studied, enough = bert
    with pytest.raises(InfeasibleError) as caught:
        plan(Workload(cluster=cluster(1, budget_bytes=int(enough / 1.02)), jobs=(job,)), studied=studied)
    assert int(enough / 1.02) + caught.value.missing_bytes == enough, "what is needed does not depend on what there is"


@pytest.mark.parametrize("order", [("small", "second", "large"), ("large", "small", "second"), ("small", "large")])
def test_of_a_sweep_the_job_that_does_not_fit_is_named_and_can_be_left_out(
    order: tuple[str, ...], tmp_path: Path
) -> None:
    jobs = [sweep()[name] for name in order]
    where = cluster(1, budget_bytes=100_000)
    with pytest.raises(InfeasibleError, match=r"^large fits no device: .* short of the") as caught:
        plan(Workload(cluster=where, jobs=tuple(jobs)), solver=SolverOptions(effort=1000))
    assert [each.job for each in caught.value.each] == ["large"]
    assert f"{100_000 + caught.value.missing_bytes} bytes" in str(caught.value)
    left: list[InfeasibleError] = []
    made = plan(Workload(cluster=where, jobs=tuple(jobs)), left_out=left.append, solver=SolverOptions(effort=1000))
    assert [each.job for each in left] == ["large"]
    assert [job.name for job in made.workload.jobs] == [name for name in order if name != "large"]
    assert len(run(made, tmp_path / "run")) == len(jobs) - 1


def test_where_no_job_fits_all_are_named_and_nothing_is_planned() -> None:
    jobs = tuple(sweep().values())
    with pytest.raises(InfeasibleError) as caught:
        plan(Workload(cluster=cluster(1, budget_bytes=2000), jobs=jobs), left_out=lambda refusal: None)
    assert [each.job for each in caught.value.each] == ["small", "second", "large"]
    assert "second, large do not fit either" in str(caught.value)
