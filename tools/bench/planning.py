"""How long planning takes, and in how much memory: a sweep of twelve GPT-2 XL, and one GPT-J of six billion parameters.

    tools/bench/gpt2_xl.toml    12 jobs on 8 devices of 11 GiB
    tools/bench/gpt_j.toml      1 job on 1 device of 11 GiB

Each is planned by `hydraplan plan` as a user would, in a process that starts others where there are cores. The kernel's
own account gives their CPU time; memory is the sum of what they hold (pages that they share once), looked at every
`SAMPLE_S` seconds. The aim on two cores: under 60 s and 2 GiB each. The last line is a JSON object:

    seconds, cpu_seconds, peak_bytes    of each planning
    makespan_us, gap                    what the plan predicts, and how far above the lower bound that is
    within_aims                         whether both took less than the aims; if not, the command ends with 1
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hydraplan.tools.planfile import read_plan

HERE = Path(__file__).parent
WORKLOADS = ("gpt2_xl", "gpt_j")
MOST_SECONDS = 60.0
MOST_BYTES = 2 << 30
KIB = 1024
SAMPLE_S = 0.2


def main() -> None:
    figures: dict[str, Any] = {name: planned(HERE / f"{name}.toml") for name in WORKLOADS}
    within = all(each["seconds"] < MOST_SECONDS and each["peak_bytes"] < MOST_BYTES for each in figures.values())
    print(json.dumps({**figures, "within_aims": within}))
    if not within:
        raise SystemExit(1)


def planned(workload: Path) -> dict[str, float]:
    """Plan a workload in a process of its own. Raises CalledProcessError where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "hydraplan", "plan", str(workload), "-o", str(path)]
        started = time.perf_counter()
        process = subprocess.Popen(command)
        peak_bytes = 0
        while True:
            found, status, usage = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            peak_bytes = max(peak_bytes, held_bytes(process.pid))
            time.sleep(SAMPLE_S)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        predictions = read_plan(path).plan.predictions
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": peak_bytes,
        "makespan_us": predictions.makespan_us,
        "gap": predictions.gap,
    }


def held_bytes(process: int) -> int:
    """What a process and those that it started hold; of pages that processes share, each its part."""
    try:
        proportional = Path(f"/proc/{process}/smaps_rollup").read_text().split("Pss:")[1].split()[0]
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (OSError, IndexError):  # it has just ended
        return 0
    return KIB * int(proportional) + sum(held_bytes(int(child)) for child in children)


if __name__ == "__main__":
    main()
