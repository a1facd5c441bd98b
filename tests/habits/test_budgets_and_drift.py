"""Budgets that are named, sweeps that do not fit, facts that were resealed: instances of someone from outside."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from habits import language, layers  # noqa: F401 - enter their rows
from habits.harness import CASES, Case
from habits.known import known
from support.whole import cluster

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.study import Study, study
from hydraplan.plans.language.digests import facts_digest
from hydraplan.plans.language.errors import InfeasibleError, StalePlanError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Job, Workload
from hydraplan.runtime import execute

MODELS = {
    "bert": "masks of ones-BertMasked",
    "pictures": "channels_last-image_model_in_channels_last",
    "copies": "copied modules-TransformerOfCopies",
}


studied = cache(study)


def planned(known: Study, jobs: tuple[Job, ...], budget_bytes: int) -> Plan:
    workload = Workload(cluster=cluster(1, budget_bytes=budget_bytes), jobs=jobs)
    return plan(workload, studied=known, solver=SolverOptions(effort=1000))


def fits(known: Study, job: Job, budget_bytes: int) -> bool:
    try:
        return planned(known, (job,), budget_bytes).predictions.devices[0].peak_bytes <= budget_bytes
    except InfeasibleError:
        return False


@pytest.mark.parametrize("name", [pytest.param(each, marks=known(f"budget-{each}")) for each in MODELS])
def test_the_budget_that_is_named_is_enough_and_hardly_more_than_enough(name: str) -> None:
    (job,) = CASES[MODELS[name]].jobs
    known = studied((job,))
    with pytest.raises(InfeasibleError) as caught:
        planned(known, (job,), 2000)
    enough = 2000 + caught.value.missing_bytes
    assert fits(known, job, enough)
    assert not fits(known, job, int(enough / 1.02) - 1), "less than 98 % of it would do"
    assert all(fits(known, job, enough + enough * part // 100) for part in (1, 3, 5, 8, 13, 40, 90))


@pytest.mark.parametrize("place", range(3))
def test_a_sweep_that_does_not_fit_names_its_job_and_the_figures_of_that(place: int) -> None:
    (small,) = CASES[MODELS["copies"]].jobs
    (large,) = CASES[MODELS["bert"]].jobs
    jobs = [replace(small, name=f"small{number}", seed=number) for number in range(2)]
    jobs.insert(place, replace(large, name="large"))
    known = study(tuple(jobs))
    with pytest.raises(InfeasibleError) as alone:
        planned(studied((jobs[place],)), (jobs[place],), 2000)
    enough = 2000 + alone.value.missing_bytes
    budget = int(enough * 0.9)
    assert all(fits(studied((each,)), each, budget) for each in jobs if each.name != "large")
    with pytest.raises(InfeasibleError, match=r"^large ") as caught:
        planned(known, tuple(jobs), budget)
    assert caught.value.job == "large"
    assert budget + caught.value.missing_bytes == pytest.approx(enough, rel=0.02)


FIGURES = ("recompute_workspace_bytes", "keep_workspace_bytes", "kept_bytes", "backward_workspace_bytes")


@pytest.fixture(scope="module")
def honest() -> Plan:
    case: Case = CASES[MODELS["pictures"]]
    return planned(study(case.jobs), case.jobs, 1 << 30)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({name: value}, marks=known(f"resealed-{name}-{value}"), id=f"{name}-{value}")
        for name, value in [*((each, 0) for each in FIGURES), ("kept_bytes", 256)]
    ],
)
def test_resealed_figures_are_drift(honest: Plan, change: dict[str, int], tmp_path: Path) -> None:
    """Facts with a figure that is not the derived one, sealed again: refused before anything runs."""
    layout = honest.facts.layouts[0]
    fields: Any = {name: value for name, value in change.items() if getattr(layout.shards[-1], name) != value}
    assert fields, "the instance changes nothing"
    shards = (*layout.shards[:-1], replace(layout.shards[-1], **fields))
    facts = replace(honest.facts, layouts=(replace(layout, shards=shards),))
    with pytest.raises(StalePlanError, match="/facts/"):
        execute(replace(honest, facts=facts, facts_digest=facts_digest(facts)), tmp_path / "run")
    assert not list(tmp_path.rglob("*.safetensors"))
