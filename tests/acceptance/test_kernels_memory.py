"""What kernels keep and take for themselves is planned: it trains within its budget, to the plain loop's bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.plainly import habit_job, plainly, planned
from support.whole import cluster, run
from torch import equal

from hydraplan.planner import plan
from hydraplan.plans.language.workload import Job, Workload


def recurrent(kind: str) -> Job:
    names = dict(data="support.memorymodels:rows", loss="support.memorymodels:loss")
    return habit_job("support.memorymodels:Recurrent", arguments={"kind": kind}, **names)


@pytest.mark.parametrize("kind", ["one", "two", "both"])
@pytest.mark.parametrize("budget_bytes", [1 << 30, 700_000])
def test_an_lstm_that_is_kept_trains_as_its_plain_loop(kind: str, budget_bytes: int, tmp_path: Path) -> None:
    job = recurrent(kind)
    made = plan(Workload(cluster=cluster(1, budget_bytes=budget_bytes), jobs=(job,)))
    keeps = any(placement.keep for phase in made.decisions.phases for placement in phase.placements)
    assert keeps or budget_bytes < 1 << 30
    found, expected = run(made, tmp_path / "run")[job.name], plainly(job)
    assert found.losses == expected.losses
    assert all(equal(found.weights[name], value) for name, value in expected.weights.items())


def test_a_long_window_counts_what_its_convolution_copies(tmp_path: Path) -> None:
    names = dict(data="support.memorymodels:rows", loss="support.memorymodels:loss")
    job = habit_job("support.memorymodels:Windows", **names)
    (layout,) = plan(Workload(cluster=cluster(1), jobs=(job,))).facts.layouts
    columns = 4 * 401 * (16 * 128 - 400) * 4
    assert max(shard.backward_workspace_bytes for shard in layout.shards) > columns
    expected, found = plainly(job), planned(job, tmp_path / "run")
    assert found.losses == expected.losses
