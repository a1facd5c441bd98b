"""Thousands of mutants of plans, by the command that has them."""

from __future__ import annotations

import json

import pytest

from hydraplan.tools.fuzz.__main__ import fuzz

pytestmark = pytest.mark.long


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_a_thousand_mutants(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz(mutants=1000, seed=seed) == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts["mutants"] == 1000 and counts["trained"] > 60 and counts["defects"] == 0
