"""Items of differing length: padded to the bucket of the whole batch, or refused by name."""

from __future__ import annotations

import pytest
import torch
from support.models import GPT2
from support.varied import BUCKETS, padded_by_hand, varied_job
from torch import Tensor

from hydraplan.planner.frontend.users.data import JobData, open_data
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Lengths, Pad


class Items:
    def __init__(self, *items: dict[str, Tensor]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.items[index]


def data(*items: dict[str, Tensor], pad: dict[str, Pad] | None = None) -> JobData:
    return JobData(
        name="items",
        dataset=Items(*items),
        seed=0,
        batch_size=2,
        microbatches=2,
        lengths=Lengths(buckets=(4, 8), pad=tuple(sorted((pad or {"x": 0}).items()))),
    )


def test_every_microbatch_has_the_length_of_the_whole_batch() -> None:
    job = varied_job("transformers:GPT2LMHeadModel", dict(GPT2), name="varied", microbatches=4)
    source = open_data(job)
    seen = set()
    for step in range(16):
        batch = source.batch(step)
        by_hand = padded_by_hand(job, step)
        assert batch.keys() == by_hand.keys()
        parts = [source.microbatch(step, microbatch) for microbatch in range(4)]
        for name, value in by_hand.items():
            assert torch.equal(batch[name], value)
            assert torch.equal(torch.cat([part[name] for part in parts]), value)
        seen.add(batch["labels"].shape[1])
    assert seen == set(BUCKETS)


def test_padding_keeps_types_and_further_dimensions() -> None:
    one = {"x": torch.ones(3, 2, dtype=torch.bfloat16), "flag": torch.tensor([True] * 5), "kind": torch.tensor(1)}
    two = {"x": torch.ones(1, 2, dtype=torch.bfloat16), "flag": torch.tensor([True]), "kind": torch.tensor(2)}
    batch = data(one, two, pad={"x": 0.5, "flag": False}).batch(0)
    assert batch["x"].shape == (2, 8, 2) and batch["x"].dtype is torch.bfloat16
    assert batch["flag"].sum() == 6 and batch["flag"].dtype is torch.bool
    assert batch["x"].float().sum() == 4 * 2 + 12 * 2 * 0.5
    assert batch["kind"].shape == (2,)


@pytest.mark.parametrize(
    ("item", "pad", "message"),
    [
        ({"x": torch.zeros(9)}, {"x": 0}, "x of item 1 has length 9, 1 more than the largest bucket, 8; shorten"),
        ({"y": torch.zeros(2)}, {"x": 0}, "item 1 has only y where lengths.pad names 'x'"),
        ({"x": torch.tensor(2)}, {"x": 0}, "item 1 has one number where lengths.pad names 'x'"),
        ({"x": torch.zeros(2, dtype=torch.uint8)}, {"x": -100}, "x is torch.uint8, which has no -100"),
        ({"x": torch.zeros(2, dtype=torch.int64)}, {"x": 0.5}, "x is torch.int64, which has no 0.5"),
        ({"x": torch.zeros(2, dtype=torch.bool)}, {"x": 2}, "x is torch.bool, which has no 2"),
    ],
)
def test_what_cannot_be_padded_is_refused(item: dict[str, Tensor], pad: dict[str, Pad], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        data({"x": torch.zeros(3)}, item, pad=pad).batch(0)


def test_keys_that_are_not_padded_must_not_vary() -> None:
    one, two = ({"x": torch.zeros(size), "y": torch.zeros(size)} for size in (2, 3))
    with pytest.raises(WorkloadError, match=r"do not stack to a batch.*or have those that differ padded"):
        data(one, two).batch(0)
