"""Data sets that augment at random, and ones that differ at each call; all give x and y of WIDTH."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

WIDTH = 16


class Augmented:
    """Twelve items, each with what `noise` makes of it."""

    def __init__(self, noise: Callable[[Tensor], Tensor]) -> None:
        self._noise = noise

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(index))
        return {"x": self._noise(x), "y": y}


def flipped(x: Tensor) -> Tensor:
    return x.flip(0) if random.random() < 0.5 else x * random.uniform(0.9, 1.1)


def jittered(x: Tensor) -> Tensor:
    return x + torch.from_numpy(np.random.normal(0, 0.1, WIDTH).astype(np.float32))


def cropped(x: Tensor) -> Tensor:
    start = int(torch.randint(0, 4, ()))
    return torch.roll(x, start) * (torch.rand(WIDTH) > 0.2)


def mixed(x: Tensor) -> Tensor:
    return cropped(jittered(flipped(x)))


class Shuffled(Augmented):
    """Its constructor draws."""

    def __init__(self) -> None:
        super().__init__(mixed)
        self._order = np.random.permutation(12).tolist()
        random.shuffle(self._order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return super().__getitem__(self._order[index])


class OwnGenerator(Augmented):
    def __init__(self) -> None:
        super().__init__(lambda x: x + self._rng.normal())
        self._rng = np.random.default_rng(0)


class Counted(Augmented):
    def __init__(self) -> None:
        super().__init__(self._counted)
        self._calls = 0

    def _counted(self, x: Tensor) -> Tensor:
        self._calls += 1
        return x * self._calls


def timed(x: Tensor) -> Tensor:
    return x + time.perf_counter_ns() % 997


KINDS: dict[str, Callable[[], Augmented]] = {
    **{each.__name__: lambda noise=each: Augmented(noise) for each in (flipped, jittered, cropped, mixed, timed)},
    "shuffled": Shuffled,
    "own generator": OwnGenerator,
    "counted": Counted,
}


def rows(kind: str) -> Augmented:
    return KINDS[kind]()
