"""Reports of run directories: times by kind of step, losses, timelines, and what is no run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.toyplan import toy_plan, toy_workload

from hydraplan.plans.file.strict import dumps_strict
from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.steps import Drop
from hydraplan.plans.prediction.simulate import simulate
from hydraplan.tools.cli import main
from hydraplan.tools.run_report import kinds, read_report


def planted_run(folder: Path, *, slower: int = 1, last_loss: float = 1.0, error: str | None = None) -> Path:
    """A run directory in which every step took `slower` times its prediction."""
    plan = toy_plan(toy_workload(2))
    simulation = simulate(plan)
    times: dict[tuple[int, str, int, int], Any] = {}
    for number, site in enumerate(simulation.flow.sites):
        start, duration = simulation.start_us[number], simulation.finish_us[number] - simulation.start_us[number]
        drop = isinstance(site.step, Drop)
        times[site.phase, site.section, site.copy, site.line] = None if drop else [start, start + slower * duration]
    assert all(phase.repeat == 2 for phase in plan.phases)
    record = {
        "format": "hydraplan-run/2",
        "status": "finished",
        "message": None,
        "unwritten": {},
        "predicted_makespan_us": plan.predictions.makespan_us,
        "makespan_us": slower * plan.predictions.makespan_us,
        "jobs": [
            {
                "job": job.name,
                "status": "finished" if error is None else "failed",
                "shards": 3,
                "steps": job.steps,
                "trained": job.steps if error is None else 1,
                "first_loss": 2.0,
                "last_loss": last_loss,
                "predicted_finish_us": 1,
                "finish_us": 2,
                "error": error,
                "weights": None,
            }
            for job in plan.workload.jobs
        ],
        "devices": [
            {
                "device": device.device,
                "budget_bytes": 64 << 20,
                "predicted_peak_bytes": device.peak_bytes,
                "peak_bytes": device.peak_bytes,
                "compute_us": 1,
                "load_us": 1,
                "spill_us": 1,
            }
            for device in plan.predictions.devices
        ],
        "phases": [
            {
                "iterations": [0, 1],
                "prologue": timed([[times[number, "prologue", 0, n] for n in range(len(phase.prologue))]]),
                "cycle": timed([[times[number, "cycle", copy, n] for n in range(len(phase.cycle))] for copy in (0, 1)]),
                "epilogue": timed([[times[number, "epilogue", 0, n] for n in range(len(phase.epilogue))]]),
            }
            for number, phase in enumerate(plan.phases)
        ],
    }
    folder.mkdir()
    (folder / "record.json").write_text(dumps_strict(record))
    (folder / "plan.json").write_text(dumps(plan))
    return folder


def timed(iterations: list[list[list[int] | None]]) -> dict[str, Any]:
    """A list's steps as the record has them, where all iterations are recorded step by step."""
    lines = [[each for each in line if each is not None] for line in zip(*iterations, strict=True)]
    return {
        "counts": [len(line) for line in lines],
        "busy_us": [sum(finish - start for start, finish in line) for line in lines],
        "times": iterations,
    }


def test_times_by_kind(tmp_path: Path) -> None:
    report = read_report(planted_run(tmp_path / "run", slower=3))
    found = kinds(report)
    assert {(kind.place, kind.op) for kind in found} >= {("cpu0", "Forward"), ("cpu0", "Load"), ("host", "Update")}
    assert all(kind.actual_us == 3 * kind.predicted_us for kind in found)
    forwards = next(kind for kind in found if (kind.place, kind.op) == ("cpu0", "Forward"))
    assert forwards.count == sum(3 * job.microbatches * job.steps for job in report.plan.workload.jobs)


@pytest.mark.parametrize(("last_loss", "fell"), [(1.0, True), (2.0, False), (float("nan"), False)])
def test_whether_a_loss_fell(tmp_path: Path, last_loss: float, fell: bool) -> None:
    report = read_report(planted_run(tmp_path / "run", last_loss=last_loss))
    assert [job.loss_fell for job in report.jobs] == [fell, fell]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = planted_run(tmp_path / "run", slower=2)
    assert main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-2].startswith("Run: 2 jobs trained in ") and "actual / predicted 2.00)" in shown
    assert "first loss" in shown and "2.0000" in shown

    assert main(["report", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["makespan_us"] == 2 * document["predicted_makespan_us"]

    trace = tmp_path / "trace.json"
    assert main(["report", str(folder), "--timeline", str(trace)]) == 0
    events = json.loads(trace.read_text())["traceEvents"]
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert processes == {f"{place} ({kind})" for place in ("host", "cpu0", "cpu1") for kind in ("predicted", "actual")}


def test_a_failed_job_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(planted_run(tmp_path / "run", error="loss is NaN at step 2"))]) == 0
    shown = capsys.readouterr().out
    assert "a: loss is NaN at step 2" in shown and "1 of " in shown and "2 jobs failed: a, b" in shown
    assert "Forward" in shown and "actual / predicted" not in shown, "less ran than was predicted"


@pytest.mark.parametrize(("status", "says"), [("training", "killed"), ("interrupted", "interrupted")])
def test_a_run_that_did_not_come_to_its_end(
    status: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first job had finished a moment before the record could say so."""
    folder = planted_run(tmp_path / "run")
    record = json.loads((folder / "record.json").read_text())
    for timed_at_the_end in ("makespan_us", "devices", "phases"):
        del record[timed_at_the_end]
    first, second = record["jobs"]
    first |= {"status": "training", "finish_us": None}
    second |= {"status": "training", "finish_us": None, "trained": 1}
    (folder / "record.json").write_text(json.dumps(record | {"status": status}))
    (folder / "weights" / "a").mkdir(parents=True)

    assert main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"Run: {says}; 1 of 2 jobs finished (a)" in shown and "1 of " in shown
    assert main(["report", str(folder), "--json", "--timeline", str(tmp_path / "trace.json")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["makespan_us"]) == (says, None)
    assert [job["status"] for job in document["jobs"]] == ["finished", "training"]
    assert [job["weights"] for job in document["jobs"]] == [str(folder / "weights" / "a"), None]


def test_what_is_no_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = planted_run(tmp_path / "run")
    record = json.loads((folder / "record.json").read_text())
    assert main(["report", str(tmp_path / "none")]) == 2
    for content, says in (
        ("{", "is not JSON"),
        (json.dumps(record | {"format": "other"}), "no run record"),
        (json.dumps({key: value for key, value in record.items() if key != "jobs"}), "was changed since the run"),
        (json.dumps(record | {"phases": [{}]}), "was changed since the run"),
    ):
        (folder / "record.json").write_text(content)
        capsys.readouterr()
        assert main(["report", str(folder)]) == 2
        assert says in capsys.readouterr().err
