"""Runs that are ended by signals: what had finished is there and right, and the record says how far the others came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.processes import in_a_process


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Runs killed at a few moments; tests/long has twenty for each signal."""
    moments = {"SIGKILL": 2, "SIGTERM": 2, "SIGINT": 1, "SIGHUP": 1}
    words = [f"{name}={count}" for name, count in moments.items()]
    found = in_a_process("support.killed", tmp_path_factory.mktemp("killed"), *words)
    assert {name: each["right"] for name, each in found.items()} == moments
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("SIGKILL", -9, "killed"),
        ("SIGTERM", 143, "interrupted"),
        ("SIGINT", 130, "interrupted"),
        ("SIGHUP", 129, "interrupted"),
    ],
)
def test_what_had_finished_is_kept(some: dict[str, dict[str, Any]], name: str, code: int, status: str) -> None:
    assert (some[name]["codes"], some[name]["statuses"]) == ([code], [status])


def test_a_run_whose_data_set_hangs_ends_at_the_second_interrupt(tmp_path: Path) -> None:
    (found,) = in_a_process("support.hung", tmp_path, "SIGINT,SIGINT")
    assert (found["code"], found["status"]) == (130, "interrupted")
    assert found["finished"] == ["first", "second"]
