"""A process of its own with runs that hang: `python -m support.hung FOLDER SIGNAL[,SIGNAL] ...`; its last line is JSON.

The data set of the last job never returns some item. Each run gets its signals once it hangs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from support.staggered import assert_kept, first_losses, read_losses, staggered_plan, undisturbed

from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.workload import Target
from hydraplan.tools.cli import main

READS = 400
"""More than planning, preparing and the second job need."""


def hung(folder: Path, names: list[str]) -> dict[str, object]:
    folder.mkdir()
    weights, last = undisturbed(folder / "expected"), first_losses(folder / "last")
    plan, run = folder / "plan.json", folder / "-".join(names)
    data = Target(path="support.tinylm:hanging", arguments=(("reads", READS),))
    plan.write_text(dumps(staggered_plan(data={"last": data})))
    child = os.fork()
    if child == 0:
        os._exit(main(["execute", str(plan), "-o", str(run), "--quiet"]))
    while not (run / "weights" / "second").exists() or _grows(run / "losses" / "last.csv"):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it was to hang"
    began = time.monotonic()
    for name in names:
        os.kill(child, signal.Signals[name])
        time.sleep(0.3)
    _, status = os.waitpid(child, 0)
    record = assert_kept(run, weights, last)
    rows = {row["job"]: row for row in record["jobs"]}
    assert rows["last"]["trained"] == len(read_losses(run / "losses" / "last.csv"))
    return {
        "code": os.waitstatus_to_exitcode(status),
        "status": record["status"],
        "finished": sorted(name for name, row in rows.items() if row["status"] == "finished"),
        "took_s": time.monotonic() - began,
    }


def _grows(path: Path) -> bool:
    size = path.stat().st_size if path.exists() else 0
    time.sleep(0.5)
    return not size or path.stat().st_size != size


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps([hung(Path(sys.argv[1]) / each, each.split(",")) for each in sys.argv[2:]]))
