"""Models by what their constructors do: parts in eval mode, constants outside of parameters and buffers, draws of all
generators, memory formats. Each is `make(kind)`; all take x (batch, WIDTH) and regress y."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16
TABLES: dict[int, Tensor] = {}
"""A module's own cache."""


class Rows:
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(index))
        return {"x": x, "y": y}


def rows() -> Rows:
    return Rows()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(model(batch["x"]), batch["y"])


class Backbone(nn.Module):
    """Frozen statistics and no dropout, as detectors and distillation have it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
        self.head = nn.Linear(WIDTH, WIDTH)
        self.body.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class FrozenNorms(nn.Module):
    """Single norms in eval mode, within parts that train."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH, momentum=0.3)) for _ in range(3)
        )
        for part in self.parts[::2]:
            part[1].eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = torch.relu(part(x))
        return x


class Teacher(nn.Module):
    """A frozen teacher in eval mode beside its student."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH))
        self.teacher = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.9), nn.BatchNorm1d(WIDTH))
        self.teacher.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x) + self.teacher(x)


class Constants(nn.Module):
    """Random tensors in a list, a dictionary, a tuple, an object, a closure, and a cache of the module's."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.place = place
        made = torch.randn(WIDTH, WIDTH)
        if place == "list":
            self.held = [made, made.t()]
        elif place == "dictionary":
            self.named = {"first": {"mixing": made}}
        elif place == "object":
            self.owner = Owner(made)
        elif place == "closure":
            self.mix: Callable[[Tensor], Tensor] = lambda x: x @ made
        elif place == "attribute":
            self.made = made
        elif place == "cache":
            TABLES.setdefault(WIDTH, torch.linspace(0, 1, WIDTH))
        elif place == "remembered":
            self.table = remembered(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        match self.place:
            case "list":
                return h @ self.held[0] + x @ self.held[1]
            case "dictionary":
                return h @ self.named["first"]["mixing"]
            case "object":
                return h @ self.owner.tensor
            case "closure":
                return self.mix(h)
            case "attribute":
                return h @ self.made
            case "cache":
                return h + TABLES[WIDTH]
            case _:
                return h + self.table + remembered(WIDTH)


class Owner:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@functools.lru_cache
def remembered(width: int) -> Tensor:
    return torch.arange(width) / width


class Drawn(nn.Module):
    """A structure, and weights, drawn by Python's and numpy's generators."""

    def __init__(self, by: str) -> None:
        super().__init__()
        if by == "python":
            depth, scale = random.randint(1, 4), random.random()
        elif by == "numpy":
            depth, scale = int(np.random.randint(1, 5)), float(np.random.rand())
        else:
            depth, scale = 2, random.gauss(0, 1) + float(np.random.randn())
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        if by == "numpy":
            with torch.no_grad():
                self.layers[0].weight.copy_(torch.from_numpy(np.random.randn(WIDTH, WIDTH)))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) * self.scale
        return x


class LastChannels(nn.Module):
    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.head = nn.Linear(WIDTH * WIDTH, WIDTH)
        (self if whole else self.conv).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x.view(-1, 1, 4, 4)))).flatten(1))


class Transposed(nn.Module):
    """Parameters that are not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH).t())
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.inner.weight.data = self.inner.weight.data.t()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x @ self.weight)


class Pretrained(nn.Sequential):
    """Its root is in eval mode, as from_pretrained leaves a model."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH))
        self.eval()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "backbone in eval mode": Backbone,
    "norms in eval mode": FrozenNorms,
    "teacher in eval mode": Teacher,
    "root in eval mode": Pretrained,
    **{
        f"constants in {place}": functools.partial(Constants, place)
        for place in ("list", "dictionary", "object", "closure", "attribute", "cache", "remembered")
    },
    **{f"drawn by {by}": functools.partial(Drawn, by) for by in ("python", "numpy", "both")},
    "all channels last": functools.partial(LastChannels, True),
    "a part's channels last": functools.partial(LastChannels, False),
    "not contiguous": Transposed,
}


def make(kind: str) -> nn.Module:
    return KINDS[kind]()
