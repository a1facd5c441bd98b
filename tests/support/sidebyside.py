"""A process of its own that studies jobs with one core and with two: what `tests/planner/test_study.py` runs.

pytest has threads, beside which nothing is forked.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Sequence
from unittest import mock

from support.models import Skips
from support.whole import cluster, whole_job
from torch import Tensor

from hydraplan.planner.costs.facts import graph_facts
from hydraplan.planner.pipeline import plan
from hydraplan.planner.processes.elsewhere import Question
from hydraplan.planner.scheduling.solver import SolverOptions
from hydraplan.planner.study import Study, study
from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job, Target, Workload

HERE = int(os.environ.setdefault("SIDE_BY_SIDE", str(os.getpid())))


class Reads(Skips):
    """Cannot be traced: it reads a value that training changes."""

    def forward(self, tokens: Tensor) -> Tensor:
        value = super().forward(tokens)
        return value * (2.0 if value.sum() > 0 else 1.0)


class OnlyHere(Skips):
    """Ends every other process that makes it."""

    def __init__(self) -> None:
        super().__init__()
        if os.getpid() != HERE:
            os._exit(1)


def skips(name: str, **more: object) -> Job:
    return whole_job("support.models:Skips", {}, name=name, **more)


def studied(jobs: Sequence[Job], cores: int) -> Study:
    with mock.patch.object(os, "sched_getaffinity", return_value=set(range(cores))):
        return study(jobs)


def plan_text(jobs: Sequence[Job], known: Study) -> str:
    workload = Workload(cluster=cluster(2, budget_bytes=2 << 20), jobs=tuple(jobs))
    return dumps(plan(workload, studied=known, solver=SolverOptions(effort=1, rounds=1)))


def refusal(jobs: Sequence[Job], cores: int) -> str:
    try:
        studied(jobs, cores)
    except TraceError as error:
        return str(error)
    raise AssertionError("it was traced")


def main() -> None:
    jobs = [skips("a"), skips("b", batch_size=2), skips("c", batch_size=8)]
    alone = plan_text(jobs, studied(jobs, 1))
    both = studied(jobs, 2)
    assert [graph.elsewhere is None for graph in both.graphs.values()] == [True, False, True]
    elsewhere = next(graph.elsewhere for graph in both.graphs.values() if graph.elsewhere is not None)
    elsewhere.ask(Question("nobody waits for this", graph_facts, {"name": ""}))
    assert plan_text(jobs, both) == alone
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    assert plan_text(jobs, both) == alone
    assert all(graph.elsewhere is None for graph in both.graphs.values())
    bad = [skips("a"), skips("bad", model=Target(path="support.sidebyside:Reads", arguments=()))]
    assert "job bad: " in refusal(bad, 2)
    assert refusal(bad, 2) == refusal(bad, 1)
    once = [skips("a"), skips("once", model=Target(path="support.sidebyside:OnlyHere", arguments=()))]
    done = studied(once, 2)
    assert done.graph_of["once"] in done.facts
    assert done.graphs[done.graph_of["once"]].elsewhere is None
    del both, done, elsewhere
    gc.collect()
    assert not multiprocessing.active_children()
    print("all of it holds")


if __name__ == "__main__":
    main()
