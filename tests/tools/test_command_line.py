"""The command line: exit codes, streams, JSON, and what starts without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.toyplan import toy_plan, toy_workload

from hydraplan.plans.file.text import Document, dumps
from hydraplan.plans.language.digests import lists_digest
from hydraplan.plans.language.plan import Plan
from hydraplan.tools.cli import COMMANDS, main
from hydraplan.tools.planfile import read_plan, write_plan

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pulp", "highspy", "transformers", "networkx")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.json"
    write_plan(toy_plan(toy_workload(2)), path)
    return path


def hydraplan(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hydraplan", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def without(line: str, plan: Plan) -> str:
    """The plan's text without its first line that holds `line`."""
    text = dumps(plan)
    found = next(each for each in text.splitlines(keepends=True) if line in each)
    return text.replace(found, "", 1)


def test_check_of_a_good_plan(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(plan_file)]) == 0
    shown = capsys.readouterr()
    summary, following = shown.out.splitlines()[-2:]
    assert summary.startswith("Check: holds; ") and "2 jobs, 2 devices, 1 phase; makespan " in summary
    assert following == f"Next: hydraplan execute {plan_file} -o {plan_file.with_suffix('.run')}"
    assert shown.err == ""


def test_check_tells_every_finding_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = without('"op": "load"', toy_plan()).replace('"op": "backward"', '"op": "backwards"', 1)
    path = tmp_path / "broken.json"
    path.write_text(text)
    assert main(["check", str(path)]) == 4
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: line ") and "/phases/0/" in shown.err

    path.write_text(without('"op": "load"', toy_plan()))
    assert main(["check", str(path), "--json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert not document["valid"] and document["findings"]
    for finding in document["findings"]:
        assert finding["line"] > 1 and finding["pointer"].startswith("/") and finding["cause"] and finding["remedy"]


def test_check_of_edited_lists_tells_what_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = toy_plan()
    path = tmp_path / "edited.json"
    write_plan(replace(plan, predictions=replace(plan.predictions, makespan_us=1)), path)
    assert main(["check", str(path)]) == 0
    assert "Prediction changed: makespan 1 us -> " in capsys.readouterr().out
    write_plan(replace(plan, lists_digest=lists_digest(())), path)
    assert main(["check", str(path)]) == 0
    assert "The lists were edited by hand." in capsys.readouterr().out


def test_inspect(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(plan_file)]) == 0
    shown = capsys.readouterr()
    for title in ("Jobs", "Devices", "Phases", "Host: ", "Solver: list"):
        assert title in shown.out
    assert shown.out.splitlines()[-2].startswith("Plan: 2 jobs, 2 devices, 1 phase; makespan ")
    assert "\x1b[" not in shown.out, "no colour in a pipe"

    assert main(["inspect", str(plan_file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [job["name"] for job in document["jobs"]] == ["a", "b"]
    assert document["predictions"]["makespan_us"] > 0 and not document["lists_edited"]


def test_timeline(plan_file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert main(["inspect", str(plan_file), "--timeline", str(trace)]) == 0
    events = json.loads(trace.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"host", "cpu0", "cpu1"}
    slices = [event for event in events if event["ph"] == "X"]
    for track in {(event["pid"], event["tid"]) for event in slices}:
        ends = 0
        for event in sorted((each for each in slices if (each["pid"], each["tid"]) == track), key=lambda e: e["ts"]):
            assert event["ts"] >= ends, "an engine runs one step at a time"
            ends = event["ts"] + event["dur"]
    starts = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    finishes = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert starts and starts.keys() == finishes.keys()
    assert all(starts[arrow] < finishes[arrow] for arrow in starts)
    used = [event["args"]["bytes"] for event in events if event["ph"] == "C"]
    budget = max(device.budget_bytes for device in read_plan(plan_file).plan.workload.cluster.devices)
    assert min(used) >= 0 and 0 < max(used) <= budget


def test_diff(plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(plan_file), str(plan_file)]) == 0
    assert capsys.readouterr().out == "Diff: the plans are equal\n"
    other = tmp_path / "other.json"
    write_plan(toy_plan(toy_workload(2, steps=6)), other)
    assert main(["diff", str(plan_file), str(other)]) == 0
    assert capsys.readouterr().out.splitlines()[-2].startswith("Diff: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["pla"],
        ["plan"],
        ["plan", "w.toml"],
        ["plan", "w.toml", "-o", "p", "--solver", "glpk"],
        ["plan", "w.toml", "-o", "p", "--time-limit", "0"],
        ["capacity", "w.toml", "--devices", "8-1", "--memory", "1GiB"],
        ["capacity", "w.toml", "--devices", "1", "--memory", "1"],
        ["check"],
        ["check", "p", "--jason"],
        ["check", "p", "q"],
        ["plan", "w.toml", "-o", "p", "--no-json"],
        ["profile", "-o", "p", "--threads", "0"],
        ["plan", "w.toml", "-o", "p", "--effort", "9" * 5000],
    ],
)
def test_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    cause, usage = shown.err.splitlines()
    assert shown.out == "" and cause.startswith("error: ") and usage.startswith("usage: hydraplan ")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["pla"], "plan"),
        (["exectue", "p"], "execute"),
        (["check", "p", "--jason"], "--json"),
        (["plan", "w.toml", "-o", "p", "--efort", "3"], "--effort"),
        (["inspect", "p", "--timline", "t"], "--timeline"),
    ],
)
def test_usage_says_what_was_meant(arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert f'Did you mean "{meant}"?' in capsys.readouterr().err.replace(f" {meant}?", f' "{meant}"?')


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "-o", "p"],
        ["plan", "w.toml", "--from", "p", "-o", "p"],
        ["plan", "w.toml", "--discard-edited-lists", "-o", "p"],
        ["plan", "no-such-file.toml", "-o", "p"],
        ["plan", "--from", "no-such-file.json", "-o", "p"],
        ["check", "no-such-file.json"],
        ["inspect", "."],
        ["profile", "-o", "no-such-folder/p.json"],
    ],
)
def test_what_is_wrong_with_the_arguments_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1


def test_no_traceback_but_on_demand(plan_file: Path, tmp_path: Path) -> None:
    plan_file.write_text(plan_file.read_text()[:-20])
    quiet = hydraplan("check", plan_file)
    assert quiet.returncode == 4 and "Traceback" not in quiet.stderr and quiet.stderr.startswith("error: line ")
    loud = hydraplan("check", plan_file, HYDRAPLAN_TRACEBACK="1")
    assert loud.returncode == 4 and "Traceback" in loud.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, plan_file: Path) -> None:
    line = f'"{sys.executable}" -m hydraplan check "{plan_file}" {closed}'
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    plan_file.write_text("{")
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, ""), "an error is no result"


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(None), KeyError("surprise")])
def test_a_command_never_ends_without_a_word(
    error: BaseException, plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(document: Document) -> None:
        raise error

    monkeypatch.setattr("hydraplan.tools.planfile.verify", broken)
    assert main(["check", str(plan_file)]) == 1
    assert f"unexpected {type(error).__name__} in test_command_line.py" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(document: Document) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("hydraplan.tools.planfile.verify", broken)
    monkeypatch.delenv("HYDRAPLAN_TRACEBACK", raising=False)
    assert main(["check", str(plan_file)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: unexpected KeyError in test_command_line.py, line ") and shown.count("\n") == 1


def test_check_inspect_and_diff_start_without_torch_or_a_solver(plan_file: Path) -> None:
    program = (
        "import sys; from hydraplan.tools.cli import main; "
        "codes = [main(['check', sys.argv[1]]), main(['inspect', sys.argv[1]]), main(['diff', *sys.argv[1:] * 2])]; "
        f"print(codes, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(plan_file)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] []"


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command.__name__} " in shown
    for code in ("0 done", "2 usage", "3 infeasible", "130 interrupted"):
        assert code in " ".join(shown.split())


@pytest.mark.parametrize("command", [command.__name__ for command in COMMANDS])
def test_help_of_a_command_has_an_example_and_fits_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr()
    assert f" $ hydraplan {command} " in shown.out and shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80


def test_help_starts_without_torch_or_a_solver() -> None:
    program = (
        "import sys; from hydraplan.tools.cli import main; "
        f"codes = [main(['--help']), main(['plan', '--help']), main(['plan', '--efort'])]; "
        f"print(codes, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 2] []"


def test_a_plan_file_is_replaced_whole(plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_file.read_bytes()

    def full(*arguments: object, **options: object) -> None:
        Path(arguments[0]).write_bytes(b"half")  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Exception, match="No space left"):
        write_plan(toy_plan(), plan_file)
    assert plan_file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [plan_file.name]
