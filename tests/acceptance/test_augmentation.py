"""Random augmentation is exact: each item is read under seeds of its own, by job, epoch and index."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.augmented import KINDS
from support.constructors import make
from support.plainly import differences, habit_job
from support.whole import cluster, run

from hydraplan.planner import plan
from hydraplan.planner.frontend.users.data import open_data, order
from hydraplan.planner.frontend.users.seeding import item_seed
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Job, Target, Workload

AUGMENTED = ("flipped", "jittered", "cropped", "mixed", "shuffled")


def job_of(kind: str, **more: object) -> Job:
    fields: dict[str, object] = {
        "data": Target(path="support.augmented:rows", arguments=(("kind", kind),)),
        "steps": 7,
    }
    module = "support.constructors"
    job = habit_job(f"{module}:make", data="", loss=f"{module}:loss", arguments={"kind": "not contiguous"})
    return replace(job, **(fields | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", AUGMENTED)
def test_trains_as_a_plain_loop(kind: str, tmp_path: Path) -> None:
    assert differences(job_of(kind), tmp_path / "run") == []


def test_a_loop_without_ours_draws_the_same(tmp_path: Path) -> None:
    """What README says of seeds, spelled out."""
    job = job_of("mixed", name="mine", steps=7)
    found = run(plan(Workload(cluster=cluster(1), jobs=(job,))), tmp_path / "run")["mine"]
    torch.manual_seed(job.seed)
    model, dataset = make("not contiguous"), KINDS["mixed"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    losses = []
    for step in range(7):
        epoch, place = divmod(step, 3)
        items = []
        for index in order(12, job.seed, epoch)[4 * place : 4 * place + 4].tolist():
            seed = item_seed(job.seed, epoch, index)
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            items.append(dataset[index])
        batch = torch.utils.data.default_collate(items)
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch["x"]), batch["y"])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert found.losses == tuple(losses)


@pytest.mark.parametrize("kind", AUGMENTED)
def test_an_item_is_another_in_each_epoch_and_for_each_seed_and_the_same_in_any_order(kind: str) -> None:
    data, other = open_data(job_of(kind)), open_data(job_of(kind, seed=4))
    first = [data.item(index, epoch)["x"] for epoch in (0, 1) for index in range(12)]
    again = [data.item(index, epoch)["x"] for epoch in (1, 0) for index in reversed(range(12))]
    assert all(torch.equal(one, two) for one, two in zip(first, reversed(again), strict=True))
    assert not torch.equal(torch.stack(first[:12]), torch.stack(first[12:]))
    assert not torch.equal(torch.stack(first[:12]), torch.stack([other.item(index)["x"] for index in range(12)]))


@pytest.mark.parametrize("kind", ["timed", "own generator", "counted"])
def test_what_differs_at_each_call_is_refused_by_name(kind: str) -> None:
    with pytest.raises(WorkloadError, match=r"item 0 differs each time that it is read, in x, .* are seeded for each"):
        plan(Workload(cluster=cluster(1), jobs=(job_of(kind),)))
