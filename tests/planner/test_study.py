"""Graphs that other processes hold: the same plan, the same errors, and nothing lost with such a process."""

from __future__ import annotations

import subprocess
import sys


def test_side_by_side_as_alone() -> None:
    found = subprocess.run([sys.executable, "-m", "support.sidebyside"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "all of it holds"
