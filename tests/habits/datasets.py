"""What differs at each call: augmentation by seeded generators is exact; what still differs is refused at plan."""

from __future__ import annotations

import os
import random
import time

import numpy as np
import torch
from habits.harness import Case, Rows, Trunk, enter, habit
from torch import Tensor, nn
from torch.utils.data import Dataset

# -- seeded augmentation: exact, other in each epoch, the same in every plan ----------------------------


class AugmentByTorch(Rows):
    """Noise and a random crop, as of torchvision's transforms."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        return item | {"x": item["x"].roll(int(torch.randint(4, (1,)))) + 0.1 * torch.randn(16)}


class AugmentByPython(Rows):
    """random.random() < p, as of every hand-written flip."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        return item | {"x": item["x"].flip(0) * random.uniform(0.9, 1.1) if random.random() < 0.5 else item["x"]}


class AugmentByNumpy(Rows):
    """np.random, as of albumentations."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        noise = np.random.normal(size=16).astype(np.float32)
        return item | {"x": item["x"] + torch.from_numpy(noise)}


class AugmentMixup(Dataset):  # type: ignore[type-arg]
    """Draws another item and a share, from all three generators; rows are made in the constructor."""

    def __init__(self) -> None:
        self.rows = [Rows()[index] for index in range(16)]

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        other, share = self.rows[random.randrange(16)], float(np.random.beta(0.4, 0.4))
        item = self.rows[index]
        return {"x": share * item["x"] + (1 - share) * other["x"] + 0.01 * torch.randn(16), "y": item["y"]}


for number, data in enumerate((AugmentByTorch, AugmentByPython, AugmentByNumpy, AugmentMixup)):
    enter(
        Case(
            kind="seeded augmentation",
            name=data.__name__,
            expect="equal",
            path="habits.harness:Trunk",
            data=f"{__name__}:{data.__name__}",
            microbatches=1 + number % 2,
        )
    )


# -- data that differ at each call ----------------------------------------------------------------------


class AugmentByTheTime(Rows):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        return item | {"x": item["x"] + time.time_ns() % 1000 / 1000}  # habit


class AugmentBySystemNoise(Rows):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        return item | {"x": item["x"] * (1 + os.urandom(1)[0] / 256)}  # habit


class AugmentByItsOwnGenerator(Rows):
    """A generator that goes on from call to call."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        noise = self.generator.standard_normal(16, dtype=np.float32)  # habit
        return item | {"x": item["x"] + torch.from_numpy(noise)}


class AugmentByCounting(Rows):
    """A curriculum in the data set: later reads get more noise."""

    def __init__(self) -> None:
        self.reads = 0

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.reads += 1  # habit
        return super().__getitem__(index) | {"x": self.x[index] * (1 + 0.01 * self.reads)}


for data in (AugmentByTheTime, AugmentBySystemNoise, AugmentByItsOwnGenerator, AugmentByCounting):
    enter(
        Case(
            kind="data that differ",
            name=data.__name__,
            expect="refused",
            path="habits.harness:Trunk",
            data=f"{__name__}:{data.__name__}",
            remedy="data:AugmentByTorch",
        )
    )


# -- models that differ at each call --------------------------------------------------------------------


@habit("models that differ", "refused", "Trunk")
class AsksTheTime(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h * (1 + time.time_ns() % 1000 / 1000)  # habit


@habit("models that differ", "refused", "Trunk")
class AsksTheClockInItsConstructor(Trunk):
    """Other at each construction: a constant of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1 + time.perf_counter_ns() % 1000 / 1000  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h * self.scale  # habit


@habit("models that differ", "refused", "Trunk")
class SystemNoise(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + int.from_bytes(os.urandom(4), "little") / 2**32  # habit


_made = [0]


@habit("models that differ", "refused", "Trunk")
def numbered() -> nn.Module:
    """A factory that counts its models."""
    _made[0] += 1  # habit
    model = Trunk()
    return nn.Sequential(model, *[nn.Tanh() for _ in range(_made[0])])
