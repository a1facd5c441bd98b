"""`hydraplan plan` and `hydraplan execute` as programs see them, and as they are interrupted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, TextIO

import pytest
from support.realplan import lm_job, real_plan

from hydraplan.plans.file.text import dumps
from hydraplan.runtime import progress
from hydraplan.tools.cli import main
from hydraplan.tools.planfile import read_plan

WORKLOAD = """
[cluster]
profile = "server-cpu"
host = { memory = "1GiB" }

[[cluster.devices]]
name = "cpu"
budget = "1MiB"
bandwidth = "1GB/s"

[[jobs]]
name = "talks"
model = "support.tinylm:skipper"
data = { call = "support.tinylm:talking", items = 26 }
loss = "support.tinylm:next_token_loss"
optimizer = { name = "AdamW", lr = 1e-2 }
steps = 2
batch_size = 4
"""
NOTICE = "data support.tinylm:talking: 26 items make 6 batches of 4; the last 2 of each epoch's order are dropped"


def test_jobs_that_fit_no_device_are_left_out_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = WORKLOAD[WORKLOAD.index("[[jobs]]") :]
    large = job.replace('"talks"', '"large"').replace("batch_size = 4", "batch_size = 24")
    workload, plan = tmp_path / "w.toml", tmp_path / "plan.json"
    workload.write_text(WORKLOAD.replace("1MiB", "32KiB") + large)
    assert main(["plan", str(workload), "-o", str(plan)]) == 3
    assert "large fits no device" in capsys.readouterr().err and not plan.exists()
    assert main(["plan", str(workload), "-o", str(plan), "--skip-infeasible", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["jobs"] == ["talks"]
    assert [line for line in found["notices"] if line.startswith("left out: large fits no device: cpu has 32.0 KiB")]


def test_stdout_is_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the user's data set prints."""

    def said(*line: str | Path) -> Any:
        assert main([*map(str, line), "--json"]) == 0
        shown = capsys.readouterr()
        assert "row 0\n" in shown.err and "a talking data set\n" in shown.err
        return json.loads(shown.out)

    workload, plan, run = tmp_path / "w.toml", tmp_path / "plan.json", tmp_path / "run"
    workload.write_text(WORKLOAD)
    found = said("plan", workload, "-o", plan)
    predictions = read_plan(plan).plan.predictions
    assert (found["plan"], found["jobs"], found["devices"]) == (str(plan), ["talks"], ["cpu"])
    assert (found["notices"], found["phases"]) == ([NOTICE], 1)
    assert found["predictions"]["makespan_us"] == predictions.makespan_us
    assert found["solver"]["name"].startswith("highs")

    found = said("execute", plan, "-o", run)
    assert found["run"] == str(run)
    assert found["predicted_makespan_us"] == predictions.makespan_us
    (job,) = found["jobs"]
    assert (job["name"], job["trained"], job["error"]) == ("talks", 2, None)


def test_a_broken_plan_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(dumps(real_plan([lm_job()])).replace('"op": "forward"', '"op": "forwards"', 1))
    assert main(["execute", str(path), "-o", str(tmp_path / "run"), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert not found["valid"]
    assert "forwards" in found["findings"][0]["cause"]


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting(progress.PlainProgress):
        def step(self, job: str, step: int, loss: float) -> None:
            super().step(job, step, loss)
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)  # to the main thread, as a terminal does

    def progress_for(out: TextIO) -> progress.Progress:
        return Interrupting(out)

    monkeypatch.setattr(progress, "progress_for", progress_for)
    path = tmp_path / "plan.json"
    path.write_text(dumps(real_plan([lm_job("a", steps=5_000), lm_job("b", steps=5_000)], repeat=5_000)))
    assert main(["execute", str(path), "-o", str(tmp_path / "run")]) == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    told = [line for line in shown.err.splitlines() if "step " not in line]
    run = tmp_path / "run"
    assert told[0] == "this plan imports and calls:"
    assert told[-2:] == [
        "build 2 models and compare with the plan",
        f"interrupted; Run: interrupted; 0 of 2 jobs finished; hydraplan report {run}",
    ]
    assert sorted(each.name for each in run.iterdir()) == ["losses", "plan.json", "record.json"]
