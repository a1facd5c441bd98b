"""`make demo`: profile this machine (once), plan, inspect, execute, report; 1 where a loss did not fall."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from hydraplan.tools.cli import main as hydraplan
from hydraplan.tools.run_report import read_report

WORKLOAD = Path("tools/demo/demo.toml")
FOLDER = Path("runs/demo")


def main() -> int:
    profile, plan, run = FOLDER / "profile.json", FOLDER / "plan.json", FOLDER / "run"
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run, ignore_errors=True)
    lines = [
        ["plan", str(WORKLOAD), "-o", str(plan), "--effort", "100000"],
        ["inspect", str(plan)],
        ["check", str(plan)],
        ["execute", str(plan), "-o", str(run)],
    ]
    if not profile.exists():
        lines.insert(0, ["profile", "-o", str(profile)])
    for line in lines:
        print(f"\n$ hydraplan {' '.join(line)}", flush=True)
        code = hydraplan(line)
        if code:
            return code
    risen = [job.name for job in read_report(run).jobs if not job.loss_fell]
    if risen:
        print(f"error: the loss of {', '.join(risen)} did not fall", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
