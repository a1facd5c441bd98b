"""Tables: whole in a pipe; on a terminal names are never broken, and lines are no longer than it is wide."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraplan.tools.output import Output
from hydraplan.tools.table import Column, figures, fitted, names, natural, text, total

NAME = "a-rather-long-name-lr0.0003-bs16"
COLUMNS = [names("job"), text("graph"), *(figures(each) for each in ("parameters", "batch / microbatches", "ends at"))]
ROWS = [(NAME, "GPT2LMHeadModel-1", "497.8 MiB", "16 / 4", "1 h 05 m"), ("b", "Skips-2", "1.0 KiB", "4 / 1", "80 us")]


BOLD = re.compile(r"\x1b\[\d*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    Output().table("Jobs", COLUMNS, ROWS)
    return [BOLD.sub("", line).rstrip() for line in terminal.getvalue().splitlines()]


@pytest.mark.parametrize("width", [200, 100, 80, 72, 60, 40])
def test_names_and_figures_are_whole_on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown_on(width, monkeypatch)
    assert max(map(len, lines)) <= width
    for whole in (NAME, "497.8", "MiB"):
        assert sum(whole in line for line in lines) == 1, lines


def test_a_narrow_terminal_gets_a_few_lines_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_on(44, monkeypatch) == [
        "Jobs",
        "",
        f" job {NAME},",
        "   graph GPT2LMHeadModel-1,",
        "   parameters 497.8 MiB,",
        "   batch / microbatches 16 / 4,",
        "   ends at 1 h 05 m",
        " job b, graph Skips-2, parameters 1.0 KiB,",
        "   batch / microbatches 4 / 1,",
        "   ends at 80 us",
        "",
    ]


def test_nothing_is_broken_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "shard a/1 needs 21.4 GiB and has 20.0 GiB; " * 10
    Output().table("Capacity", [*COLUMNS, text("what binds")], [(*ROWS[0], reason), (*ROWS[1], "")])
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if NAME in line]
    assert row.endswith(reason.rstrip())
    assert sum("ends at" in line for line in lines) == 1
    assert not any(line.endswith(" ") for line in lines)


@given(
    rows=st.lists(st.tuples(*[st.text("ab -", max_size=30)] * 4), min_size=1, max_size=4), width=st.integers(20, 120)
)
def test_widths_fit_or_there_are_none(rows: list[tuple[str, ...]], width: int) -> None:
    columns: list[Column] = [names("job"), text("a longer title"), figures("count"), figures("peak of its device")]
    found = fitted(columns, rows, width)
    if found is None:
        assert total(natural(columns, rows)) > width
        return
    assert total(found) <= width
    for number, column in enumerate(columns):
        for each in (column.title, *(row[number] for row in rows)):
            words = [each] if column.names else each.split()
            assert column == columns[1] or all(len(word) <= found[number] for word in words)


def test_stdout_is_for_programs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    with output.working():
        print("what a data set says")
    output.json({"done": True})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"done": True}
    assert shown.err == "what a data set says\n"
