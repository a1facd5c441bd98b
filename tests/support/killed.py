"""A process of its own that kills runs: `python -m support.killed FOLDER SIGNAL=MOMENTS ...`; its last line is JSON.

Each run is a child that it forks once everything is imported, and that is sent its signal at some moment after the
weights of the first job have their name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from support.staggered import assert_kept, first_losses, staggered_plan, undisturbed

from hydraplan.plans.file.text import dumps
from hydraplan.tools.cli import main
from hydraplan.tools.run_report import read_report

LONGEST_S = 0.4
"""Of the moments after the first job has finished: the second finishes among them."""


def run_and_kill(plan: Path, run: Path, number: int, delay_s: float) -> int:
    """The exit code of a run that is sent a signal; negative: the signal ended it."""
    child = os.fork()
    if child == 0:
        os._exit(main(["execute", str(plan), "-o", str(run), "--quiet"]))
    while not (run / "weights" / "first").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run has ended before its first job"
        time.sleep(0.0005)
    time.sleep(delay_s)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def killed(folder: Path, moments_of: dict[str, int]) -> dict[str, object]:
    weights, last = undisturbed(folder / "expected"), first_losses(folder / "last")
    plan = folder / "plan.json"
    plan.write_text(dumps(staggered_plan()))
    found: dict[str, object] = {}
    for name, moments in moments_of.items():
        number = signal.Signals[name]
        statuses, codes, second = set(), set(), 0
        for moment in range(moments):
            run = folder / f"{name}{moment}"
            codes.add(run_and_kill(plan, run, number, LONGEST_S * (moment + 0.5) / moments))
            record = assert_kept(run, weights, last)
            statuses.add(read_report(run).status)
            second += (run / "weights" / "second").exists()
            if number != signal.SIGKILL:
                assert not (run / ".partial").exists()
                assert record["phases"][0]["cycle"]["counts"][0] > 0, "what was timed is told"
        found[name] = {"right": moments, "codes": sorted(codes), "statuses": sorted(statuses), "second": second}
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
    chosen = dict(each.split("=") for each in sys.argv[2:])
    print(json.dumps(killed(Path(sys.argv[1]), {name: int(count) for name, count in chosen.items()})))
