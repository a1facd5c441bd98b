"""Progress: plain lines off a terminal, bars on one."""

from __future__ import annotations

import io

from rich.console import Console

from hydraplan.runtime.progress import BarProgress, PlainProgress, progress_for


def test_plain_lines_at_first_and_last_step_and_now_and_then() -> None:
    out = io.StringIO()
    progress = PlainProgress(out, every_s=1e9)
    progress.begin({"a": 4, "b": 1})
    for step in range(4):
        progress.step("a", step, 2.0 - step)
    progress.fail("b", "forward of shard 0 failed: ValueError: no")
    progress.end()
    assert out.getvalue().splitlines() == [
        "a: step 1 of 4, loss 2.0000",
        "a: step 4 of 4, loss -1.0000",
        "b: forward of shard 0 failed: ValueError: no",
    ]


def test_every_step_where_time_has_passed() -> None:
    out = io.StringIO()
    progress = PlainProgress(out, every_s=0.0)
    progress.begin({"a": 4})
    for step in range(4):
        progress.step("a", step, 1.0)
    assert len(out.getvalue().splitlines()) == 4


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(progress_for(io.StringIO()), PlainProgress)


def test_a_terminal_gets_bars() -> None:
    out = io.StringIO()
    progress = BarProgress(Console(file=out, force_terminal=True, width=100))
    progress.begin({"gpt [lr=0.1]": 2})
    progress.step("gpt [lr=0.1]", 0, 3.5)
    progress.step("gpt [lr=0.1]", 1, 2.25)
    progress.fail("gpt [lr=0.1]", "broke [here]")
    progress.end()
    text = out.getvalue()
    assert "gpt [lr=0.1]" in text
    assert "2/2" in text
    assert "broke [here]" in text
