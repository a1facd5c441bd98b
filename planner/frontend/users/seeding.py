"""The process-wide generators of torch, numpy and Python at a seed while the user's code runs, and back as they were.

constructors      of models, losses and data sets: the job's seed, as after torch.manual_seed(seed),
                  numpy.random.seed(seed % 2**32) and random.seed(seed) in a plain loop
items             a seed for each (job's seed, epoch, index): what a data set draws to augment an item is another in
                  each epoch, and the same in every plan, whoever reads it when
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch

from hydraplan.plans.language.errors import WorkloadError

_ALONE = RLock()
"""Nobody else's code runs under the generators meanwhile: items are read by a thread of their own."""
MOST_S = 60
"""How long that is waited for."""


class Drawn:
    """Whether Python's or numpy's generator was drawn from, once the context has ended."""

    def __init__(self) -> None:
        self.by_python = False
        self.by_numpy = False

    def __bool__(self) -> bool:
        return self.by_python or self.by_numpy


@contextmanager
def seeded(seed: int) -> Iterator[Drawn]:
    """All three generators at a seed, from 0. Raises WorkloadError where another thread keeps them."""
    drawn = Drawn()
    with kept_as_they_are():
        seed_all(seed)
        first = _numpys(), random.getstate()
        try:
            yield drawn
        finally:
            drawn.by_numpy, drawn.by_python = first[0] != _numpys(), first[1] != random.getstate()


@contextmanager
def kept_as_they_are() -> Iterator[None]:
    """What is done to the three generators inside is undone. Raises WorkloadError where another thread keeps them."""
    if not _ALONE.acquire(timeout=MOST_S):
        raise WorkloadError(
            f"another thread of this process has been in a user's constructor or data set for {MOST_S} s, under "
            "generators of its own: wait until it is done, or start another process"
        )
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
        _ALONE.release()


def seed_all(seed: int) -> None:
    """The three generators as after torch.manual_seed, numpy.random.seed and random.seed."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def item_seed(seed: int, epoch: int, index: int) -> int:
    """The seed under which an item is read: below 2**63, from a hash of the job's seed, the epoch and the index."""
    digest = hashlib.blake2b(f"item/{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _numpys() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()
    return (name, bytes(np.asarray(keys)), *rest)
