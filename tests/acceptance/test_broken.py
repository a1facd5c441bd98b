"""Broken and stale plans through the command line: refused before anything trains, with all that a person needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.edits import Text
from support.models import GPT2, Skips
from support.whole import Rows, cluster, whole_job
from torch import Tensor

from hydraplan.planner.pipeline import plan
from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.workload import Workload
from hydraplan.runtime import execution
from hydraplan.tools.cli import main

Json = Any
FINDING = re.compile(r"(?:error: )?line (\d+)(?:, ((?:/[^\s:]+)+))?: (.+); (.+)")
INVALID, STALE = 4, 5


@pytest.fixture(scope="module")
def planned() -> str:
    """A plan file's text: job a streamed in several shards on cpu0, job b whole on cpu1."""
    a = whole_job("transformers:GPT2LMHeadModel", dict(GPT2), name="a", steps=2, microbatches=2)
    b = whole_job("support.models:Skips", {}, name="b", steps=2, microbatches=2)
    return dumps(plan(Workload(cluster=cluster(2, budget_bytes=400_000), jobs=(a, b))))


@dataclass(frozen=True)
class Found:
    """A line of stderr."""

    line: int
    pointer: str
    cause: str
    remedy: str


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, int], list[Found]]:
    """Executes a plan's text from the command line, which must end with an exit code, having done nothing."""

    def run(text: str, code: int) -> list[Found]:
        def training(*_: object, **__: object) -> None:
            pytest.fail("a broken plan reached training")

        monkeypatch.setattr(execution, "Training", training)
        path = tmp_path / "plan.json"
        path.write_text(text)
        assert main(["execute", str(path), "-o", str(tmp_path / "run"), "--quiet"]) == code
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        assert [each.name for each in tmp_path.iterdir()] == ["plan.json"], "no run directory, nor a part of one"
        found = []
        for line in said.err.splitlines():
            match = FINDING.fullmatch(line)
            assert match, line
            number, pointer, cause, remedy = match.groups()
            found.append(Found(int(number), pointer or "", cause, remedy))
        assert found
        for each in found:
            assert stands_at(text, each), each
        return found

    return run


def stands_at(text: str, found: Found) -> bool:
    """Whether the line holds what the pointer names, found without our own reader of positions."""
    line = text.splitlines()[found.line - 1]
    parts = found.pointer.split("/")[1:]
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return True
    names = [part for part in parts if not part.isdigit()]
    if not names or f'"{names[-1]}"' in line:
        return True
    try:
        for part in parts:
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (KeyError, IndexError, TypeError):
        return False
    rest: Json = line.strip().rstrip(",").lstrip()
    return bool(rest) and json.dumps(value)[:12] == json.dumps(json.loads(rest))[:12]


# -- broken -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    edit: Callable[[Text], None]
    pointer: str
    """Regular expression of the pointer of a finding."""
    cause: str
    remedy: str


def sub(old: str, new: str, section: str = "cycle", **fields: object) -> Callable[[Text], None]:
    """Replace in the first line of a list that has these fields."""
    return lambda text: text.sub(text.find(section, **fields), old, new)


def sub_first(part: str, old: str, new: str) -> Callable[[Text], None]:
    """Replace in the first line of the file that has a part."""
    return lambda text: text.sub(text.first(part), old, new)


def cut(section: str = "cycle", **fields: object) -> Callable[[Text], None]:
    def edit(text: Text) -> None:
        text.cut(text.find(section, **fields))

    return edit


def twice(**fields: object) -> Callable[[Text], None]:
    def edit(text: Text) -> None:
        number = text.find(**fields)
        text.put(number, text.lines[number])

    return edit


def move_up(before: dict[str, object], **fields: object) -> Callable[[Text], None]:
    def edit(text: Text) -> None:
        line = text.cut(text.find(**fields))
        text.put(text.find(**before), line.rstrip(",") + ",")

    return edit


def not_a_number(text: Text) -> None:
    text.lines[text.first('"gap":')] = '    "gap": NaN,'


def budget(text: Text) -> None:
    text.sub(text.first('"name": "cpu0", "backing"'), "400000", "90000")


def unspilled(text: Text) -> None:
    """Slab 0 of job b is updated on its device, and dropped without spilling it."""
    number = text.find(op="backward", job="b", microbatch=1)
    for field, value in (("op", "spill"), ("op", "update"), ("op", "drop")):
        text.cut(text.find(**{field: value, "job": "b"}))
    state = '"job": "b", "slab": "0", "what": "optimizer"},'
    number = text.find(op="backward", job="b", microbatch=1)
    for line in (
        f'        {{"device": "cpu1", "op": "drop", {state}',
        f'        {{"device": "cpu1", "op": "drop", {state.replace("optimizer", "parameters")}',
        '        {"device": "cpu1", "op": "update", "job": "b", "slab": "0"},',
        f'        {{"device": "cpu1", "op": "load", {state}',
    ):
        text.put(number + 1, line)


def decisions_edited(text: Text) -> None:
    number = text.first('"device_updates"')
    text.sub(number, '"keep": [', '"keep": [1, ')


def cuts_edited(text: Text) -> None:
    number = text.lines.index('  "decisions": {') + 2
    (position,) = re.findall(r"\"cuts\": \[(\d+)", text.lines[number])
    text.sub(number, f"[{position}", f"[{int(position) + 1}")


def a_digest(text: Text) -> None:
    number = text.first('"name": "Skips-2", "digest": ')
    text.lines[number] = re.sub(r'("digest": )"\w+"', rf'\1"{"f" * 64}"', text.lines[number])


LINE = r"/phases/0/(prologue|cycle|epilogue)/\d+"
BROKEN = [
    Case("unknown key", sub('"slab"', '"slub"', op="load"), LINE, "slab", "add"),
    Case(
        "duplicate key", sub('"job": "a"', '"job": "a", "job": "b"', op="load"), LINE + "/job", "second time", "delete"
    ),
    Case("NaN", not_a_number, "/predictions/gap", "NaN", "finite"),
    Case("wrong type", sub('"shard": 1', '"shard": "1"', op="forward", shard=1), LINE + "/shard", "whole number", ""),
    Case("missing key", sub('"shard": 1, ', "", op="forward", shard=1), LINE, '"shard" is missing', "add"),
    Case("unknown operation", sub("forward", "forwrad", op="forward"), LINE, "forwrad", '"forward"'),
    Case(
        "unknown shard", sub('"shard": 1', '"shard": 99', op="forward", shard=1), LINE + "/shard", "no shard 99", "0 to"
    ),
    Case("unknown slab", sub('"slab": "0"', '"slab": "77"', op="load", slab="0"), LINE + "/slab", '"77"', "known"),
    Case("unknown job", sub('"job": "b"', '"job": "c"', op="forward", job="b"), LINE + "/job", '"c"', "known"),
    Case("unknown device", sub("cpu1", "cpu9", op="forward", job="b"), LINE + "/device", '"cpu9"', "cpu"),
    Case(
        "unknown link", sub_first('"name": "cpu1", "backing"', "link-cpu1", "lnk"), "/workload/.*/link", '"lnk"', "link"
    ),
    Case("forward before its load", move_up({"op": "load", "job": "b"}, op="forward", job="b"), LINE, "not on", "load"),
    Case("load missing", cut(op="load", job="b"), LINE, "not on cpu1", "load slab 0 on cpu1"),
    Case("drop over an unspilled update", unspilled, LINE, "not spilled", "spill"),
    Case("drop missing", cut(op="drop", job="b"), "/phases/0/cycle|" + LINE, "slab 0 of b", "drop"),
    Case("budget exceeded", budget, "/workload/cluster/devices/0", "short", ""),
    Case(
        "host memory exceeded", sub_first("host_memory_bytes", "8589934592", "999"), "/workload/.*", "short", "memory"
    ),
    Case("cell missing", cut(op="backward", shard=1, microbatch=1, job="a"), LINE, "before that of shard 1", "add"),
    Case("cell twice", twice(op="forward", shard=1, microbatch=1, job="a"), LINE, "second time", "delete"),
    Case(
        "backwards out of order",
        move_up({"op": "backward", "shard": 1, "job": "a"}, op="backward", shard=0, microbatch=0, job="a"),
        LINE,
        "strictly descend",
        "",
    ),
    Case("update missing", cut(op="update", job="b"), "/phases/0/cycle", "no update of slab 0", "add the update"),
    Case("update twice", twice(op="update", job="b"), LINE, "updated it already", "delete"),
    Case("loss not saved", cut(op="save", job="b", microbatch=1), "/phases/0/cycle", "loss not saved", "save"),
    Case("steps do not add up", sub_first('"repeat": 2', "2", "3"), "/phases", "by 3 steps; its job says 2", "repeat"),
    Case("decisions edited without new lists", decisions_edited, "/decisions", "were edited", "plan --from"),
    Case(
        "a size edited",
        sub_first('"activation_bytes": 3072', "3072", "2816"),
        "/facts",
        "the facts were edited",
        "restore",
    ),
    Case("a digest edited", a_digest, "/facts", "the facts were edited", "restore"),
    Case("a cut moved without new lists", cuts_edited, "/decisions", "were edited", "plan --from"),
    Case(
        "microbatches",
        sub_first('"name": "b", "model"', '"batch_size": 4', '"batch_size": 5'),
        ".*",
        "divide",
        "change",
    ),
    Case(
        "unknown optimizer", sub_first('"name": "b", "model"', "AdamW", "AdamX"), "/workload/.*", "AdamX", "optimizer"
    ),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_broken(case: Case, planned: str, refused: Callable[[str, int], list[Found]]) -> None:
    text = Text(planned)
    case.edit(text)
    assert str(text) != planned
    found = refused(str(text), INVALID)
    assert any(
        re.fullmatch(case.pointer, each.pointer) and case.cause in each.cause and case.remedy in each.remedy
        for each in found
    ), found


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_inspect_says_what_check_says(
    case: Case, planned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, path = Text(planned), tmp_path / "plan.json"
    case.edit(text)
    path.write_text(str(text))
    said = {}
    for command in ("check", "inspect"):
        for form in ([], ["--json"]):
            assert main([command, str(path), *form]) == INVALID
            shown = capsys.readouterr()
            said[command, bool(form)] = (shown.out, shown.err)
    assert said["inspect", False] == said["check", False]
    assert said["inspect", True] == said["check", True]
    assert said["inspect", False][0] == "", "no table of a plan that does not hold"
    assert case.cause in said["inspect", False][1]


def test_there_are_at_least_twenty_kinds() -> None:
    assert len(BROKEN) + len(DRIFTED) >= 20


def test_all_at_once(planned: str, refused: Callable[[str, int], list[Found]]) -> None:
    """Four mistakes in the rules of lists, each told; then three in the form of the file."""
    text = Text(planned)
    edits = ("load missing", "loss not saved", "update twice", "steps do not add up")
    for case in BROKEN:
        if case.name in edits:
            case.edit(text)
    causes = " ".join(each.cause for each in refused(str(text), INVALID))
    for part in ("not on cpu1", "loss not saved", "updated it already", "its job says 2"):
        assert part in causes
    text = Text(planned)
    for case in BROKEN:
        if case.name in ("unknown key", "NaN", "wrong type", "missing key"):
            case.edit(text)
    found = refused(str(text), INVALID)
    assert len(found) >= 4
    assert [each.line for each in found] == sorted(each.line for each in found)


def test_a_syntax_error_alone(planned: str, refused: Callable[[str, int], list[Found]]) -> None:
    text = Text(planned)
    sub('"slab"', '"slub"', op="load")(text)
    number = text.find(op="forward", shard=1)
    text.sub(number, '"op": "forward",', '"op": "forward"')
    (found,) = refused(str(text), INVALID)
    assert found.line == number + 1
    assert found.cause.startswith("not JSON: ")
    assert found.pointer == ""


# -- stale --------------------------------------------------------------------------------------------


def edited_model(text: str, patch: pytest.MonkeyPatch) -> str:
    """A model argument in the plan's own job."""
    return text.replace('"n_layer": 2', '"n_layer": 3', 1)


def changed_code(text: str, patch: pytest.MonkeyPatch) -> str:
    def forward(self: Skips, tokens: Tensor) -> Tensor:
        return old(self, tokens) * 2.0

    old = Skips.forward
    patch.setattr(Skips, "forward", forward)
    return text


def changed_data(text: str, patch: pytest.MonkeyPatch) -> str:
    def item(self: Rows, index: int) -> dict[str, Tensor]:
        return {name: value.flip(0) for name, value in old(self, index).items()}

    old = Rows.__getitem__
    patch.setattr(Rows, "__getitem__", item)
    return text


def other_torch(text: str, patch: pytest.MonkeyPatch) -> str:
    return re.sub(r'("name": "torch", "value": )"[^"]+"', r'\1"1.13.1"', text)


def other_transformers(text: str, patch: pytest.MonkeyPatch) -> str:
    return re.sub(r'("name": "transformers", "value": )"[^"]+"', r'\1"4.0.0"', text)


Drift = Callable[[str, pytest.MonkeyPatch], str]
DRIFTED: list[tuple[str, Drift, str, str]] = [
    ("model argument", edited_model, r"/facts/graphs/0/digest", r"graph of a: planned with \w{64}, now \w{64}"),
    ("model's code", changed_code, r"/facts/graphs/1/digest", r"graph of b: planned with \w{64}, now \w{64}"),
    ("data", changed_data, r"/fingerprints/\d", r"data of b: planned with \w{64}, now \w{64}"),
    ("torch", other_torch, r"/fingerprints/\d", rf"torch: planned with 1.13.1, now {re.escape(torch.__version__)}"),
    ("transformers", other_transformers, r"/fingerprints/\d", r"transformers: planned with 4.0.0, now [\w.]+"),
]


@pytest.mark.parametrize(
    ("drift", "pointer", "cause"), [each[1:] for each in DRIFTED], ids=[each[0] for each in DRIFTED]
)
def test_stale(
    drift: Drift,
    pointer: str,
    cause: str,
    planned: str,
    refused: Callable[[str, int], list[Found]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = drift(planned, monkeypatch)
    found = refused(text, STALE)
    assert any(re.fullmatch(pointer, each.pointer) and re.fullmatch(cause, each.cause) for each in found), found
    assert all("plan the workload anew" in each.remedy for each in found)


def test_all_drift_at_once(
    planned: str, refused: Callable[[str, int], list[Found]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = other_torch(changed_code(changed_data(planned, monkeypatch), monkeypatch), monkeypatch)
    found = refused(text, STALE)
    assert [each.cause.split(":")[0] for each in found if "graph" in each.cause] == ["graph of b"]
    assert {each.cause.split(":")[0] for each in found} >= {"torch", "data of a", "data of b", "graph of b"}
