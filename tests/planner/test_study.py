"""Graphs that other processes hold: the same plan, the same errors, and nothing lost with such a process."""

from __future__ import annotations

from support.alone import run_alone


def test_side_by_side_as_alone() -> None:
    run_alone("support.sidebyside")
