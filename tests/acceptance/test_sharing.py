"""Tensors on one memory train to the bits of a plain loop, where each has a gradient and a state of its own, or are
refused by name."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from support.plainly import differences, habit_job, plainly
from support.sharing import EQUAL, REFUSED
from support.whole import Draws
from torch import nn

from hydraplan.planner.frontend.models.sharing import shared_memory
from hydraplan.planner.study import study
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job, Target

HOME = "support.sharing"


def job_of(kind: str, **more: object) -> Job:
    return habit_job(f"{HOME}:make", data=f"{HOME}:rows", loss=f"{HOME}:loss", arguments={"kind": kind}, **more)


@pytest.mark.parametrize("kind", EQUAL)
def test_trains_as_a_plain_loop(kind: str, tmp_path: Path) -> None:
    assert differences(job_of(kind), tmp_path / "run") == []


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_with_any_optimizer(optimizer: str, tmp_path: Path) -> None:
    arguments = (("lr", 0.01), ("momentum", 0.9)) if optimizer == "SGD" else (("lr", 0.01),)
    assert differences(job_of("by data", optimizer=Target(path=optimizer, arguments=arguments)), tmp_path / "run") == []


@pytest.mark.parametrize("kind", ["by data", "three"])
def test_every_plan_gives_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(kind)
    draws, random = Draws.of(job, monkeypatch, expected=plainly(job)), Random(kind)
    for _ in range(4):
        draws.train(draws.draw(draws.cut_anywhere(random, most=4), random))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_right_is_refused(kind: str) -> None:
    with pytest.raises(TraceError, match=REFUSED[kind]):
        study([job_of(kind)])


def test_bf16_has_no_memory_for_two() -> None:
    one = nn.Linear(2, 2)
    with pytest.raises(TraceError, match="precision bf16 gives each its own"):
        shared_memory({"a": one.weight, "b": nn.Parameter(one.weight.data)}, "bf16")
