"""What constructors do trains to the bits of a plain loop: modes of parts, constants, draws, memory formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.constructors import KINDS, TABLES, remembered
from support.plainly import differences, habit_job, plainly
from support.whole import cluster, run
from torch._subclasses import FakeTensor

from hydraplan.planner import plan
from hydraplan.planner.study import study
from hydraplan.plans.language.workload import Job, Workload


def job_of(kind: str, **more: object) -> Job:
    module = "support.constructors"
    return habit_job(f"{module}:make", data=f"{module}:rows", loss=f"{module}:loss", arguments={"kind": kind}, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_trains_as_a_plain_loop(kind: str, tmp_path: Path) -> None:
    assert differences(job_of(kind), tmp_path / "run") == []


@pytest.mark.parametrize(
    "kind", ["constants in list", "constants in closure", "constants in object", "drawn by python", "drawn by numpy"]
)
def test_each_seed_has_its_own(kind: str, tmp_path: Path) -> None:
    jobs = tuple(job_of(kind, seed=seed, name=f"seed{seed}") for seed in (0, 1, 7))
    found = run(plan(Workload(cluster=cluster(1), jobs=jobs)), tmp_path / "run")
    assert all(found[job.name].same_bits(plainly(job)) for job in jobs)
    assert len({found[job.name].losses for job in jobs}) == len(jobs)


def test_planning_leaves_no_fake_tensors(tmp_path: Path) -> None:
    TABLES.clear()
    remembered.cache_clear()
    for kind in ("constants in cache", "constants in remembered"):
        study([job_of(kind)])
        assert not TABLES and remembered.cache_info().currsize == 0
        assert not isinstance(remembered(3), FakeTensor)
        remembered.cache_clear()


def test_a_root_in_eval_mode_is_told() -> None:
    assert any("made in eval mode" in each for each in study([job_of("root in eval mode")]).notices)
    assert not study([job_of("backbone in eval mode")]).notices


def test_the_generators_are_left_as_they_were() -> None:
    import random

    import numpy as np

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    study([job_of("drawn by both"), replace(job_of("drawn by python"), name="b")])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == random.getstate()
