"""The two calls: `planner.plan(workload)` and `runtime.execute(plan, directory)`, imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import planner
import runtime
from planner import pipeline
from runtime import execution

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
