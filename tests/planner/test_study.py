"""Graphs that other processes hold: the same plan, the same errors, and nothing lost with such a process."""

from __future__ import annotations

import os
import subprocess
import sys


def test_side_by_side_as_alone() -> None:
    paths = os.pathsep.join(each for each in sys.path if each)
    found = subprocess.run(
        [sys.executable, "-m", "support.sidebyside"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "all of it holds"
