"""Batches are made ahead, once, and freed when all fetches have had them; losses are means in a fixed order."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from threading import Event, Thread

import pytest
import torch

from hydraplan.plans.language.workload import Lengths
from hydraplan.runtime.losses import Losses
from hydraplan.runtime.replaying.batches import Batches


class Source:
    def __init__(self) -> None:
        self.made: list[int] = []

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        self.made.append(step)
        if step == 3:
            raise ValueError("no step 3")
        return {"x": torch.arange(6).reshape(6, 1) + 10 * step}


def test_rows_and_the_next_step_ahead() -> None:
    source = Source()
    batches = Batches({"a": source}, {"a": 3})
    assert batches.rows("a", 0, 2, 2, fetches=2)["x"].tolist() == [[2], [3]]
    assert batches.rows("a", 0, 4, 2, fetches=2)["x"].tolist() == [[4], [5]]
    assert batches.rows("a", 1, 0, 1, fetches=1)["x"].tolist() == [[10]]
    assert batches.rows("a", 2, 0, 1, fetches=1)["x"].tolist() == [[20]]
    batches.close()
    assert source.made == [0, 1, 2]


class Growing:
    def batch(self, step: int) -> dict[str, torch.Tensor]:
        if step == 2:
            raise ValueError("no step 2")
        return {"x": torch.zeros(2, 4 * (step + 1))}


def test_a_step_s_bucket_is_known_before_any_fetch_and_after_the_last() -> None:
    batches = Batches({"a": Growing()}, {"a": 3}, {"a": Lengths(buckets=(4, 8), pad=(("x", 0),))})
    assert batches.bucket("a", 1) == 8
    assert batches.rows("a", 0, 0, 2, fetches=1)["x"].shape == (2, 4)
    assert batches.rows("a", 1, 0, 2, fetches=1)["x"].shape == (2, 8)
    assert (batches.bucket("a", 0), batches.bucket("a", 1)) == (4, 8)
    assert batches.buckets("a") == (4, 8)
    with pytest.raises(ValueError, match="no step 2"):
        batches.bucket("a", 2)
    batches.close()


def test_what_the_data_raises_is_raised_by_the_fetch() -> None:
    batches = Batches({"a": Source()}, {"a": 4})
    assert batches.rows("a", 2, 0, 1, fetches=1)["x"].tolist() == [[20]]
    with pytest.raises(ValueError, match="no step 3"):
        batches.rows("a", 3, 0, 1, fetches=1)
    batches.close()


def test_losses_are_means_over_microbatches_whatever_the_order_of_arrival() -> None:
    told: list[tuple[str, int, float]] = []
    losses = Losses(steps={"a": 3}, microbatches={"a": 3}, told=lambda *each: told.append(each))
    values = [0.1, 0.2, 0.7]
    for microbatch in (2, 0, 0, 1):
        losses.loss("a", 0, microbatch, values[microbatch])
    losses.loss("a", 0, 1, values[1])
    losses.loss("a", 2, 0, 1.0)
    assert told == [("a", 0, sum(values) / 3)]
    assert losses.of("a") == (sum(values) / 3,)


class Hanging:
    def __init__(self) -> None:
        self.again = Event()

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        self.again.wait()
        return {"x": torch.zeros(1)}


def test_who_waits_for_a_batch_that_never_comes_is_let_go() -> None:
    source = Hanging()
    batches = Batches({"a": source}, {"a": 2})
    waiting = Thread(target=lambda: found.append(outcome(batches)))
    found: list[type[BaseException]] = []
    waiting.start()
    while not batches._taken and not batches._unmade:
        time.sleep(0.001)
    batches.stop()
    waiting.join()
    assert found == [CancelledError]
    assert outcome(batches) is CancelledError, "nor is one made afterwards"
    source.again.set()
    batches.close()


def outcome(batches: Batches) -> type[BaseException]:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - CancelledError, which is told by the caller
        batches.rows("a", 0, 0, 1, fetches=1)
    return caught.type
