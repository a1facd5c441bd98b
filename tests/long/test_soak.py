"""20,000 steps: memory, threads and open files stay, and the record is small."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.processes import ROOT

pytestmark = pytest.mark.long


def test_a_long_run_stays_as_it_is() -> None:
    line = [sys.executable, "-m", "hydraplan.tools.bench.soak"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["steps"] == 20_000
    assert found["resident_growth_percent"] < 1
    assert found["threads"][0] == found["threads"][1]
    assert found["open_files"][0] == found["open_files"][1]
    assert found["record_bytes"] < 5_000_000
