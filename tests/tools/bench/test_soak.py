"""The soak in small: threads, open files and the record are what they are however long the run is."""

from __future__ import annotations

from pathlib import Path

from hydraplan.runtime import execute
from hydraplan.tools.bench.soak import Watching, soak, soak_plan


def test_a_run_twice_as_long_holds_as_much(tmp_path: Path) -> None:
    short, long = (soak(steps, 20, tmp_path / f"run{steps}") for steps in (60, 120))
    for held in ("threads", "open_files"):
        assert short[held][1] == long[held][1]
    assert abs(long["record_bytes"] - short["record_bytes"]) < 1_000, "no row for each step"
    assert long["losses_bytes"] > short["losses_bytes"]


def test_it_would_see_a_leak(tmp_path: Path) -> None:
    """Of files, here: one is opened at each look."""
    held = []

    class Leaking(Watching):
        def step(self, job: str, step: int, loss: float) -> None:
            super().step(job, step, loss)
            held.append(open(__file__))  # noqa: SIM115

    watching = Leaking(every=1)
    execute(soak_plan(10), tmp_path / "run", progress=watching)
    assert watching.looks[-1].files > watching.looks[0].files
    for file in held:
        file.close()
