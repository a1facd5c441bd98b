"""Twenty moments for each signal that ends a run, after its first job has finished."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import in_a_process

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
def test_twenty_of_twenty(name: str, tmp_path: Path) -> None:
    (found,) = in_a_process("support.killed", tmp_path, f"{name}=20").values()
    assert found["right"] == 20
    assert found["second"] > 0, "some moments come after the second job"


def test_a_data_set_that_hangs_ends_by_one_signal_too(tmp_path: Path) -> None:
    for found in in_a_process("support.hung", tmp_path, "SIGTERM", "SIGTERM,SIGINT", "SIGINT,SIGTERM"):
        assert found["code"] in (130, 143)
        assert (found["status"], found["finished"]) == ("interrupted", ["first", "second"])
