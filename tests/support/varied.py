"""Items of differing length, the job that trains on them, and an independent padding of its batches."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch
from support.models import TOKENS
from support.whole import whole_job
from torch import Tensor, nn

from hydraplan.planner.frontend.users.data import order
from hydraplan.plans.language.workload import Job, Lengths, Target, Value

BUCKETS = (6, 8, 12)
PAD = {"attention_mask": 0, "input_ids": 0, "labels": -100}
ITEMS = 32


class Varied:
    """Mostly short items, so that batches of few fall into every bucket."""

    def __init__(self, shortest: int, longest: int) -> None:
        generator = torch.Generator().manual_seed(1)
        spread = [3, 4, 5, 6, 6, 4, 5, 3, 7, 8, 10, 12]
        drawn = torch.randint(0, len(spread), (ITEMS,), generator=generator).tolist()
        self.sizes = [min(max(spread[index], shortest), longest) for index in drawn]
        self.tokens = [torch.randint(1, TOKENS, (size,), generator=generator) for size in self.sizes]

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self.tokens[index]
        return {"input_ids": tokens, "labels": tokens.clone(), "attention_mask": torch.ones_like(tokens)}


class Normed(nn.Module):
    """Running statistics, whose every update depends on the padded length."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(4))
        self.head = nn.Linear(width, TOKENS)

    def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        value = self.embed(input_ids).transpose(1, 2)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            value = torch.relu(norm(layer(value))) + value
        logits = self.head(value.transpose(1, 2) * attention_mask.unsqueeze(-1))
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def varied(shortest: int = 1, longest: int = 12) -> Varied:
    return Varied(shortest, longest)


def varied_job(
    path: str, arguments: dict[str, Value], *, name: str, shortest: int = 1, longest: int = 12, **more: object
) -> Job:
    """A job over `varied` items, clipped to [shortest, longest]."""
    job = whole_job(path, arguments, name=name, batch_size=4)
    data = Target(path="support.varied:varied", arguments=(("longest", longest), ("shortest", shortest)))
    job = replace(job, data=data, lengths=Lengths(buckets=BUCKETS, pad=tuple(PAD.items())))
    return replace(job, **more)  # type: ignore[arg-type]


def padded_by_hand(job: Job, step: int) -> dict[str, Tensor]:
    """A training step's batch, by torch's own padding."""
    data = Varied(**{name: int(value) for name, value in job.data.arguments})  # type: ignore[arg-type]
    epoch, place = divmod(step, ITEMS // job.batch_size)
    numbers = order(ITEMS, job.seed, epoch)[place * job.batch_size :][: job.batch_size].tolist()
    bucket = next(each for each in BUCKETS if each >= max(data.sizes[number] for number in numbers))
    items = [data[number] for number in numbers]
    return {
        name: torch.stack(
            [torch.nn.functional.pad(item[name], (0, bucket - len(item[name])), value=fill) for item in items]
        )
        for name, fill in PAD.items()
    }
