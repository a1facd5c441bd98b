"""Models with a habit that a graph does not hold, each beside its twin: the model as torch.export saw it once.

The audit is given the twin's graph with the model, so that these tests say what the audit finds, whatever is refused
before by kind.
"""

from __future__ import annotations

import random

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hydraplan.plans.language.workload import Job, Target

WIDTH = 12


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return -0.3 * gradient


class Habit(nn.Module):
    """Two layers and a habit; `live`: the habit is at work, else this is the twin."""

    def __init__(self, kind: str, live: bool) -> None:
        super().__init__()
        self.kind, self.live = kind, live
        self.first, self.second, self.last = nn.Linear(8, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(()))
        self.temperature, self.calls, self.cache = 1.0, 0, None
        if kind == "one memory" and live:
            self.second.weight.data = self.second.weight.data
            self.third = nn.Linear(WIDTH, WIDTH)
            self.third.weight = nn.Parameter(self.second.weight.data)
        elif kind == "one memory":
            self.third = nn.Linear(WIDTH, WIDTH)
            self.third.weight.data.copy_(self.second.weight.data)
        if kind == "other weights" and live:
            nn.init.constant_(self.first.weight, float(numpy.random.default_rng().random()))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.kind == "annealed":
            h = h / (1.0 if not self.live or not self._anneal() else self.temperature)
        if self.kind == "counter":
            self.calls += self.live
            h = h * (1.0 + 0.25 * max(0, self.calls - 1))
        if self.kind == "custom backward":
            h = _Reversed.apply(h) if self.live else h * 1.0
        if self.kind == "data written" and self.live:
            self.second.weight.data = F.normalize(self.second.weight.data, dim=1)
        if self.kind == "buffer kept" and self.live:
            self.seen = self.seen + 1
        if self.kind == "harmless cache" and self.live:
            self.register_buffer("cached", torch.ones(3), persistent=False)
        if self.kind == "cache":
            if self.cache is None or not self.live:
                self.cache = h.detach().mean()
            h = h - self.cache
        if self.kind == "frozen by the forward" and self.live:
            self.last.weight.requires_grad_(False)
        if self.kind == "python" and self.live:
            random.random()
        if self.kind == "numpy" and self.live:
            numpy.random.rand()
        if self.kind == "one memory":
            h = self.third(h)
        if self.kind in ("draws", "draws more"):
            h = self.drop(h)
            if self.kind == "draws more" and not self.live:
                h = self.drop(h)
        if self.kind == "unsteady":
            h = h + (1e-3 * float(numpy.random.default_rng().random()) if self.live else 0.0)
        if self.kind == "fails" and self.live:
            raise ValueError("the third call breaks")
        return self.last(torch.tanh(self.second(h)))

    def _anneal(self) -> bool:
        self.calls += 1
        self.temperature *= 0.9 if self.calls > 1 else 1.0
        return True


class Draws(nn.Module):
    """Random operators of many sorts: in a form of ours, by a generator, computed again by checkpointing, swept."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.2, batch_first=True)
        self.recurrent = nn.GRU(WIDTH, WIDTH, num_layers=2, dropout=0.25, batch_first=True)
        self.channels = nn.Dropout1d(0.4)
        self.alpha = nn.AlphaDropout(0.1)
        self.again = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.RReLU(), nn.Dropout(0.3))
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.rows(x), 0.2, inplace=True).unflatten(1, (1, WIDTH)).repeat(1, 3, 1)
        F.dropout(h, 0.5)  # nobody reads it: not in the graph
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h, _ = self.recurrent(self.channels(h))
        h = self.alpha(h) + torch.rand_like(h) * 0.1 + torch.randn(h.shape[-1])
        h = checkpoint(self.again, h, use_reentrant=False)
        h = h * torch.bernoulli(torch.full_like(h, 0.8))
        return self.last(h.mean(1))


class Samples:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": torch.tensor(index % 4)}


def samples() -> Samples:
    return Samples()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def habit_job(model: str, microbatches: int = 1, seed: int = 3, threads: int = 1, **arguments: bool | str) -> Job:
    return Job(
        name="habit",
        model=Target(path=f"support.habits:{model}", arguments=tuple(sorted(arguments.items()))),
        data=Target(path="support.habits:samples"),
        loss=Target(path="support.habits:loss"),
        optimizer=Target(path="AdamW", arguments=(("lr", 0.01),)),
        steps=3,
        batch_size=4,
        microbatches=microbatches,
        seed=seed,
        threads=threads,
        precision="fp32",
    )
