"""What other processes find out for this one: the same results and plans, the same errors, nothing lost with them."""

from __future__ import annotations

from support.alone import run_alone


def test_side_by_side_as_alone() -> None:
    run_alone("support.forked")
