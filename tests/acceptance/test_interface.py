"""The two calls: `planner.plan(workload)` and `runtime.execute(plan, directory)`, imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.whole import cluster, whole_job

from hydraplan import planner, runtime
from hydraplan.planner import pipeline
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.workload import HOST, Workload
from hydraplan.runtime import execution

ROOT = Path(__file__).parents[2]


def test_the_packages_offer_the_two_calls() -> None:
    assert planner.plan is pipeline.plan
    assert runtime.execute is execution.execute
    assert all(hasattr(package, name) for package in (planner, runtime) for name in package.__all__)
    assert not hasattr(planner, "execute")
    assert not hasattr(runtime, "plan")


def test_their_import_brings_neither_torch_nor_a_solver() -> None:
    heavy = ("torch", "pulp", "highspy", "transformers", "networkx")
    program = f"import sys, planner, runtime; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_too_little_host_memory_is_infeasible_and_what_is_named_would_do() -> None:
    job = whole_job("support.models:Skips", {}, name="a", steps=2, microbatches=2)
    roomy = Workload(cluster=cluster(1), jobs=(job,))
    for host_bytes in (1000, planner.plan(roomy).predictions.host_peak_bytes - 1):
        small = replace(roomy, cluster=replace(roomy.cluster, host_memory_bytes=host_bytes))
        with pytest.raises(InfeasibleError, match="the host has") as caught:
            planner.plan(small)
        assert (caught.value.device, caught.value.exit_code) == (HOST, 3)
    enough = host_bytes + caught.value.missing_bytes
    planner.plan(replace(roomy, cluster=replace(roomy.cluster, host_memory_bytes=enough)))
