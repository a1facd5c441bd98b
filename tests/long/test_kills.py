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
