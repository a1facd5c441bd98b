"""A process of its own that calls functions and plans side by side: what `tests/planner/processes/test_forks.py` runs.

pytest has threads, beside which nothing is forked.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import pytest
from support.whole import cluster, whole_job

from hydraplan.planner.pipeline import plan
from hydraplan.planner.processes.forks import Result, processes_for, side_by_side
from hydraplan.planner.scheduling import evaluate
from hydraplan.planner.scheduling.solver import SolverOptions
from hydraplan.planner.study import study
from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.workload import Workload

HERE = os.getpid()


def called(functions: Sequence[Callable[[], Result]], cores: int) -> list[Result]:
    with mock.patch.object(os, "sched_getaffinity", return_value=set(range(cores))):
        return side_by_side(functions)


def where() -> int:
    time.sleep(0.2)  # long enough for the other to begin
    return os.getpid()


def only_here() -> bool:
    time.sleep(0.2)
    if os.getpid() != HERE:
        os._exit(1)
    return True


def fails_elsewhere() -> bool:
    time.sleep(0.2)
    if os.getpid() != HERE:
        raise ValueError("elsewhere")
    return True


def fails() -> bool:
    time.sleep(0.2)
    raise ValueError("everywhere")


def functions_of_this_process() -> None:
    assert called([], 2) == []
    assert called([partial(abs, -number) for number in range(100)], 2) == list(range(100))
    assert set(called([where] * 4, 1)) == {HERE}
    both = called([where] * 4, 2)
    assert HERE in both
    assert len(set(both)) == 2
    assert called([only_here] * 4, 2) == [True] * 4
    assert called([fails_elsewhere] * 4, 2) == [True] * 4
    with pytest.raises(ValueError, match="everywhere"):
        called([fails] * 4, 2)
    assert not multiprocessing.active_children()


def plans_of_this_process() -> None:
    """Three classes of jobs on two devices, every task worth a process: the same bytes as with one core."""
    jobs = [
        whole_job("support.models:Skips", {}, name=f"{name}{size}", batch_size=size)
        for name in ("a", "b")
        for size in (2, 4, 8)
    ]
    workload = Workload(cluster=cluster(2, budget_bytes=2 << 20), jobs=tuple(jobs))
    texts = []
    children = 0
    for cores in (1, 2):
        forks = mock.patch.object(evaluate, "side_by_side", wraps=side_by_side)
        affinity = mock.patch.object(os, "sched_getaffinity", return_value=set(range(cores)))
        with affinity, forks as called_with, mock.patch.object(evaluate, "WORTH_A_PROCESS", 0):
            texts.append(dumps(plan(workload, studied=study(jobs), solver=SolverOptions(effort=1, rounds=1))))
            children = max(processes_for(len(call.args[0])) for call in called_with.call_args_list)
    assert children == 2, "nothing was asked side by side"
    assert texts[0] == texts[1]


if __name__ == "__main__":
    functions_of_this_process()
    plans_of_this_process()
    print("all of it holds")
