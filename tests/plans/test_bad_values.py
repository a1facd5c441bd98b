"""Bad values in a plan's file: each refused with the line and the pointer of the value, and what would be right."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from support.toyplan import toy_layout, toy_phase, toy_plan, toy_workload

from hydraplan.planner.pipeline import replan
from hydraplan.plans.analysis import flow
from hydraplan.plans.analysis.state import State
from hydraplan.plans.checking.check import verify
from hydraplan.plans.checking.workload import workload_findings
from hydraplan.plans.file import reading
from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.errors import Finding, InvalidPlanError
from hydraplan.plans.language.plan import Placement
from hydraplan.plans.language.steps import Step
from hydraplan.tools.cli import main

JOB, OPTIMIZER = "/workload/jobs/0", "/workload/jobs/0/optimizer/arguments"
DEVICE, CLUSTER = "/workload/cluster/devices/0", "/workload/cluster"
NAMES = "write a name of letters, digits and . _ -, at most 100"


@cache
def text() -> str:
    return dumps(toy_plan())


def findings(broken: str) -> tuple[Finding, ...]:
    with pytest.raises(InvalidPlanError) as caught:
        verify(loads(broken))
    return caught.value.findings


BAD: list[tuple[str, str, str, str, str]] = [
    ('"lr": 0.001', f'"lr": {"9" * 5000}', f"{OPTIMIZER}/lr", "a number of 5000 digits is no number of JSON", "finite"),
    ('"lr": 0.001', f'"lr": -{"9" * 5000}', f"{OPTIMIZER}/lr", "a number of 5001 digits is no number", "finite number"),
    ('"lr": 0.001', '"lr": "a/b"', f"{OPTIMIZER}/lr", 'lr is "a/b"', "write a number from 0"),
    ('"lr": 0.001', '"lr": [1]', f"{OPTIMIZER}/lr", "lr is [1]", "write a number from 0"),
    ('"lr": 0.001', '"lr": null', f"{OPTIMIZER}/lr", "lr is null", "write a number from 0"),
    ('"lr": 0.001', '"lr": true', f"{OPTIMIZER}/lr", "lr is true", "write a number from 0"),
    ('"lr": 0.001', '"lr": -0.001', f"{OPTIMIZER}/lr", "lr is -0.001", "write a number from 0"),
    ('"lr": 0.001', '"lr": {"a": 1}', f"{OPTIMIZER}/lr", 'found {"a": 1}', "write null, true, false, a number"),
    ('"lr": 0.001', '"lr": 1e999', f"{OPTIMIZER}/lr", "1e999 is no number of JSON", "write a finite number"),
    ('"lr": 0.001', '"eps": -1', f"{OPTIMIZER}/eps", "eps is -1", "write a number from 0"),
    ('"lr": 0.001', '"weight_decay": "none"', f"{OPTIMIZER}/weight_decay", 'is "none"', "write a number from 0"),
    ('"lr": 0.001', '"amsgrad": 0', f"{OPTIMIZER}/amsgrad", "amsgrad is 0", "write true or false"),
    ("[0.9, 0.95]", "[0.9, 1.0]", f"{OPTIMIZER}/betas", "betas is [0.9, 1.0]", "two numbers, each from 0, below 1"),
    ("[0.9, 0.95]", "[0.9]", f"{OPTIMIZER}/betas", "betas is [0.9]", "two numbers, each from 0, below 1"),
    ("[0.9, 0.95]", "0.9", f"{OPTIMIZER}/betas", "betas is 0.9", "two numbers, each from 0, below 1"),
    ('"width": 8', f'"width": {"1" * 310}', "/workload/jobs/0/model/arguments/width", "111", "no more than 300 digits"),
    ('"seed": 0', f'"seed": {2**63}', f"{JOB}/seed", "9223372036854775808 is too large", f"up to {2**63 - 1}"),
    ('"seed": 0', '"seed": -1', f"{JOB}/seed", "-1 is too small", "from 0 on"),
    ('"seed": 0', f'"seed": {"7" * 5000}', f"{JOB}/seed", "a number of 5000 digits is no number", "finite number"),
    ('"threads": 1', '"threads": 1025', f"{JOB}/threads", "1025 is too large", "up to 1024"),
    ('"steps": 4, "batch', f'"steps": {2**64}, "batch', f"{JOB}/steps", "is too large", "a whole number up to"),
    ('"batch_size": 8', '"batch_size": 2000000001', f"{JOB}/microbatches", "2 microbatches do not divide", "change"),
    (
        '"batch_size": 8, "microbatches": 2',
        '"batch_size": 2000000000, "microbatches": 2000000000',
        f"{JOB}/microbatches",
        "2000000000 microbatches; all lists together have",
        "plan the changed workload again",
    ),
    ('"update_workers": 1', '"update_workers": 100000', f"{CLUSTER}/update_workers", "100000 is too large", "1024"),
    ('"update_workers": 1', '"update_workers": null', f"{CLUSTER}/update_workers", "found null", "a whole number"),
    ('"backing": "cpu"', '"backing": "tpu"', f"{DEVICE}/backing", '"tpu" is not allowed', '"cpu" or "cuda:N"'),
    ('"backing": "cpu"', '"backing": "cuda"', f"{DEVICE}/backing", '"cuda" is not allowed', '"cpu" or "cuda:N"'),
    ('"backing": "cpu"', '"backing": "cuda:-1"', f"{DEVICE}/backing", "is not allowed", '"cpu" or "cuda:N"'),
    ('"backing": "cpu"', f'"backing": "cuda:{"1" * 99}"', f"{DEVICE}/backing", "is not allowed", '"cpu" or'),
    ('{"name": "a", "model"', '{"name": ".", "model"', f"{JOB}/name", '"." is not allowed', NAMES),
    ('{"name": "a", "model"', '{"name": "..", "model"', f"{JOB}/name", '".." is not allowed', NAMES),
    ('{"name": "a", "model"', '{"name": "", "model"', f"{JOB}/name", '"" is not allowed', NAMES),
    ('{"name": "a", "model"', '{"name": "../a", "model"', f"{JOB}/name", '"../a" is not allowed', NAMES),
    ('{"name": "a", "model"', f'{{"name": "{"a" * 101}", "model"', f"{JOB}/name", "is not allowed", NAMES),
    ('{"name": "a", "model"', '{"name": "a\\n", "model"', f"{JOB}/name", "is not allowed", NAMES),
    ('"name": "cpu0", "backing"', '"name": "..", "backing"', f"{DEVICE}/name", '".." is not allowed', NAMES),
    ('"path": "toy.data:numbers"', '"path": "toy.data"', f"{JOB}/data/path", "names nothing to import", "package.mod"),
    ('"path": "toy.data:numbers"', '"path": "os; ls:x"', f"{JOB}/data/path", "names nothing to import", "package.mod"),
    ('"path": "AdamW"', '"path": "Adamw"', f"{JOB}/optimizer", "'Adamw' is not one of SGD, Adam, AdamW", "name an"),
]


@pytest.mark.parametrize(("old", "new", "pointer", "cause", "remedy"), BAD, ids=[f"{each[1][:40]}" for each in BAD])
def test_a_bad_value_is_told_at_its_place(old: str, new: str, pointer: str, cause: str, remedy: str) -> None:
    assert old in text()
    broken = text().replace(old, new, 1)
    line = broken[: broken.index(new)].count("\n") + 1
    found = {each.pointer: each for each in findings(broken)}
    assert pointer in found, found
    told = found[pointer]
    assert told.line == line and cause in told.cause and remedy in told.remedy, told
    assert len(str(told)) < 400


def test_a_nesterov_without_momentum_is_refused() -> None:
    broken = re.sub(
        r'"path": "AdamW", "arguments": \{.*?\}', '"path": "SGD", "arguments": {"lr": 0.1, "nesterov": true}', text()
    )
    assert any("nesterov needs a momentum" in each.cause for each in findings(broken))


def middle(found: str) -> int:
    """Somewhere within the text's lists."""
    return found.index('"op": "forward"')


SYNTAX: list[tuple[str, bytes, str]] = [
    (
        "a missing comma",
        text().replace('", "op": "forward"', '" "op": "forward"', 1).encode(),
        "expecting ',' delimiter",
    ),
    ("cut off in a line", text()[: middle(text())].encode(), "the file ends there|expecting"),
    ("cut off in a text", text()[: middle(text()) + 3].encode(), "unterminated string"),
    ("cut off between lines", text()[: text().index("\n", middle(text())) + 1].encode(), "expecting"),
    ("no UTF-8", text().encode().replace(b'"op": "forward"', b'"op": "\xff\xfe"', 1), "not UTF-8 text"),
    ("half of a character", text().replace('"op": "forward"', '"op": "\\ud800"', 1).encode(), "hex escape"),
    ("nested deep", text().replace('"op": "forward"', '"op": ' + "[" * 100_000, 1).encode(), "nested too deep"),
    ("nested", text().replace('"op": "forward"', '"op": ' + "[" * 300 + "]" * 300, 1).encode(), "recursion limit"),
    ("NaN", text().replace('"op": "forward"', '"op": NaN', 1).encode(), "NaN is no number of JSON"),
]


@pytest.mark.parametrize(("broken", "cause"), [each[1:] for each in SYNTAX], ids=[each[0] for each in SYNTAX])
def test_syntax_is_told_at_its_line(
    broken: bytes, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.json").write_bytes(broken)
    assert main(["check", str(tmp_path / "p.json")]) == 4
    line = text()[: middle(text())].count("\n") + 1
    told = re.match(rf"error: line (\d+)[^:]*: .*({cause})", capsys.readouterr().err)
    assert told is not None and int(told[1]) in (line, line + 1)


@pytest.mark.parametrize(("content", "line"), [(b"", 1), (b"\xef\xbb\xbf{}", 1), (b"\n\n\x00", 3), (b"{\n\n}\n}", 4)])
def test_what_is_no_plan_at_all(content: bytes, line: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.json").write_bytes(content)
    assert main(["check", str(tmp_path / "p.json")]) == 4
    assert capsys.readouterr().err.startswith(f"error: line {line}")


def test_a_byte_order_mark_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.json").write_bytes(b"\xef\xbb\xbf" + text().encode())
    assert main(["check", str(tmp_path / "p.json")]) == 4
    assert "a byte order mark stands before the text; save it as UTF-8 without one" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["check"], ["inspect"], ["execute", "-o", "run"], ["plan", "-o", "new", "--from"]])
def test_a_file_that_is_too_large_is_not_read(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hydraplan.tools.planfile.loads", None)
    with open("p.json", "wb") as file:
        file.truncate(reading.MOST_PLAN_BYTES + 1)
    assert main([*command, "p.json"]) == 4
    assert "line 1: more than 64.0 MiB; no larger file is read" in capsys.readouterr().err


def test_a_long_note_takes_no_more_memory_than_a_few_copies(tmp_path: Path) -> None:
    note = '\\"note' * 2_000_000
    broken = text().replace('"workload": {', f'"workload": {{"note": "{note}",', 1)
    tracemalloc.start()
    try:
        document = loads(broken)
        assert document.notes["/workload"] == note.replace("\\", "")
        assert document.lines["/phases/0/cycle/0"] > 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * len(note)


def test_hundreds_of_phases_are_followed_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work grows with the lists' lines, not with phases times phases: counted in steps that are followed."""
    followed = 0
    plain = flow._run

    def counted(state: State, step: Step) -> None:
        nonlocal followed
        followed += 1
        plain(state, step)

    monkeypatch.setattr(flow, "_run", counted)
    workload, layout = toy_workload(1, steps=2 * 400), toy_layout(2)
    placements = [Placement(job="a", device="cpu0", steps=2)]
    phase = toy_phase({"a": layout}, workload.jobs, placements, repeat=1)
    plan = toy_plan(workload, layout, placements, phases=[phase] * 400, predicted=False)
    verify(loads(dumps(plan)))
    assert followed == 400 * len(phase.cycle)


def test_a_workload_made_in_python_is_held_to_the_same() -> None:
    workload = toy_workload(1)
    (job,) = workload.jobs
    (device, *others) = workload.cluster.devices
    bad = replace(job, name="..", seed=2**70, threads=0, optimizer=replace(job.optimizer, arguments=(("lr", "a"),)))
    cluster = replace(workload.cluster, devices=(replace(device, backing="tpu"), *others), update_workers=9**9)
    found = {each.pointer for each in workload_findings(replace(workload, jobs=(bad,), cluster=cluster))}
    assert found == {f"{JOB}/{each}" for each in ("name", "seed", "threads", "optimizer/arguments/lr")} | {
        f"{DEVICE}/backing",
        f"{CLUSTER}/update_workers",
    }


@pytest.mark.parametrize(
    ("old", "new", "pointer", "cause"),
    [
        ('"cuts": [{"job": "a"', '"cuts": [{"job": "z"', "/decisions/cuts/0/job", 'there is no job "z"'),
        ('"cuts": [{"job": "a"', '"cuts": [{"job": "z"', "/decisions/cuts", 'there are no cuts of job "a"'),
        ('{"job": "a", "device": "cpu0", "steps"', '{"job": "a", "device": "gpu7", "steps"',
         "/decisions/phases/0/placements/0/device", 'there is no device "gpu7"'),
        ('{"job": "a", "device": "cpu0", "steps"', '{"job": "y", "device": "cpu0", "steps"',
         "/decisions/phases/0/placements/0/job", 'there is no job "y"'),
        ('{"job": "a", "graph"', '{"job": "x", "graph"', "/facts/jobs/0/job", 'there is no job "x"'),
        ('"graph": "chain", "state', '"graph": "chains", "state', "/facts/jobs/0/graph", 'there is no graph "chains"'),
        ('"lr": 0.001', '"lr": -1', f"{OPTIMIZER}/lr", "lr is -1"),
    ],
)  # fmt: skip
def test_new_lists_are_not_made_of_names_that_lead_nowhere(old: str, new: str, pointer: str, cause: str) -> None:
    """Found by mutated decisions: a KeyError, after all models had been traced."""
    flat = re.sub(r'"cuts": \[\s+\{"job"', '"cuts": [{"job"', text())
    assert old in flat
    with pytest.raises(InvalidPlanError) as caught:
        replan(loads(flat.replace(old, new, 1)).plan, discard_edited_lists=True)
    assert any(each.pointer == pointer and cause in each.cause for each in caught.value.findings)
