"""What is not right yet, by row: each mark is strict, and goes with its mend."""

from __future__ import annotations

import pytest

KNOWN: dict[str, str] = {}

CRASHES: dict[str, str] = dict.fromkeys(
    [f"copied modules-{each}" for each in ("MomentumEncoder", "Clones", "copy_of_a_model", "AveragedModel")],
    "copy.deepcopy of a batch norm is refused, and the interpreter crashes in its garbage collector",
)
"""Rows that end the interpreter (or break it, so that it ends later)."""


def known(key: str) -> list[pytest.MarkDecorator]:
    if key in CRASHES:
        return [pytest.mark.xfail(reason=CRASHES[key], run=False)]
    return [pytest.mark.xfail(reason=KNOWN[key])] if key in KNOWN else []
