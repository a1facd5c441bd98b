"""Checks in a process of their own: pytest has threads, beside which nothing is forked."""

from __future__ import annotations

import os
import subprocess
import sys


def run_alone(module: str) -> None:
    """Run a module that ends with a line of success."""
    paths = os.pathsep.join(each for each in sys.path if each)
    found = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "all of it holds"
