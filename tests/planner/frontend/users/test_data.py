"""A job's batches: a fixed order, any step at any time, clear refusals."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hydraplan.planner.frontend.users.data import JobData, open_data, order, steps_of_epochs
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Job, Target


class Numbers:
    """Items 0, 1, 2, ...; one of them may be replaced."""

    def __init__(self, items: int = 10, **replaced: Any) -> None:
        self.items = items
        self.replaced = replaced

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Any:
        return self.replaced.get(f"i{index}", {"x": torch.tensor([index, -index]), "y": torch.tensor(float(index))})


def data(items: int = 10, batch_size: int = 4, microbatches: int = 2, seed: int = 0, **replaced: Any) -> JobData:
    return JobData(
        name="numbers", dataset=Numbers(items, **replaced), seed=seed, batch_size=batch_size, microbatches=microbatches
    )


def rows(batch: dict[str, Tensor]) -> list[int]:
    return [int(value) for value in batch["y"]]


def test_an_epoch_covers_every_item_but_the_dropped_once() -> None:
    job = data()
    for epoch in range(3):
        seen = [row for step in (2 * epoch, 2 * epoch + 1) for row in rows(job.batch(step))]
        assert len(set(seen)) == 8
    assert job.dropped is not None and "the last 2 of each epoch's order are dropped" in job.dropped
    assert data(items=8).dropped is None


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    ascending = [rows(data().batch(step)) for step in range(6)]
    random.seed(1)
    torch.manual_seed(1)
    job = data()
    assert [rows(job.batch(step)) for step in reversed(range(6))] == ascending[::-1]
    assert ascending[:2] != ascending[2:4], "each epoch has its own order"
    assert ascending != [rows(data(seed=1).batch(step)) for step in range(6)]


def test_microbatches_are_slices_of_the_batch() -> None:
    job = data()
    whole = job.batch(3)
    parts = [job.microbatch(3, microbatch) for microbatch in range(2)]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([part[name] for part in parts]))
    assert whole["x"].shape == (4, 2)


def test_order_is_a_permutation() -> None:
    assert sorted(order(17, 3, 5).tolist()) == list(range(17))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (torch.zeros(2), "is a Tensor; return a dict of tensors"),
        ((torch.zeros(2), 1), "is a tuple; return a dict"),
        ({"x": 3}, "'x': int; only tensors"),
        ({}, "is empty"),
        ({"x": torch.zeros(3), "y": torch.zeros(())}, "do not stack"),
        ({"x": torch.zeros(2)}, "do not stack"),
    ],
)
def test_refuses_other_items(replaced: Any, message: str) -> None:
    job = data(items=2, batch_size=2, microbatches=1, i1=replaced)
    with pytest.raises(WorkloadError, match=message):
        job.batch(0)


def test_fingerprint_sees_length_and_items() -> None:
    base = data(10).fingerprint()
    assert base == data(10, seed=1).fingerprint()
    changed = {"x": torch.tensor([9, 9]), "y": torch.tensor(9.0)}
    others = {data(11).fingerprint(), data(10, i9=changed).fingerprint(), data(10, i0=changed).fingerprint()}
    assert base not in others and len(others) == 3


def test_opens_what_the_job_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "opened_data.py").write_text(
        "import torch\n"
        "def numbers(items):\n    return [{'x': torch.tensor(i)} for i in range(items)]\n"
        "def stream():\n    return iter(())\n"
        "def broken():\n    raise ValueError('on purpose')\n"
        "def exits():\n    raise SystemExit('no corpus here')\n"
        "class ExitingList(list):\n    def __len__(self):\n        raise SystemExit(3)\n"
        "class ExitingItem(list):\n    def __len__(self):\n        return 8\n"
        "    def __getitem__(self, index):\n        raise SystemExit(3)\n"
    )
    monkeypatch.chdir(tmp_path)

    def job(path: str, batch_size: int = 2, microbatches: int = 2, **arguments: int) -> Job:
        return Job(
            name="a",
            model=Target(path="m:m"),
            data=Target(path=path, arguments=tuple(sorted(arguments.items()))),
            loss=None,
            optimizer=Target(path="SGD"),
            steps=1,
            batch_size=batch_size,
            microbatches=microbatches,
            seed=0,
            threads=1,
            precision="fp32",
        )

    assert open_data(job("opened_data:numbers", items=5)).steps_per_epoch == 2
    for wrong, message in [
        (job("opened_data:numbers", items=1), "1 items, fewer than one batch of 2"),
        (job("opened_data:numbers", items=9, microbatches=3), "2 does not divide into 3 microbatches"),
        (job("opened_data:stream"), "map-style data set"),
        (job("opened_data:broken"), "failed: ValueError: on purpose"),
        (job("opened_data:numbers", rows=1), "failed: TypeError"),
        (job("opened_data:exits"), r"data opened_data:exits failed: it called sys.exit\('no corpus here'\)"),
        (job("opened_data:ExitingList"), r"data opened_data:ExitingList failed: it called sys.exit\(3\)"),
    ]:
        with pytest.raises(WorkloadError, match=message):
            open_data(wrong)
    with pytest.raises(WorkloadError, match=r"data opened_data:ExitingItem: item \d failed: it called sys.exit\(3\)"):
        open_data(job("opened_data:ExitingItem")).batch(0)


def test_epochs_to_steps() -> None:
    assert steps_of_epochs(3, 10, 4) == 6
