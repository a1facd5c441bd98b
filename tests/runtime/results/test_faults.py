"""A full disk at some of the writes of a run: nothing but that file is lost. (tests/long has every write.)"""

from __future__ import annotations

import pytest
from support.faults import Faults, How


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(("how", "stride"), [("once", 6), ("this file", 5), ("all", 13)])
def test_a_write_that_fails_costs_its_file_alone(faults: Faults, how: How, stride: int) -> None:
    for at in range(stride // 2, faults.operations, stride):
        faults.check(at, how)
