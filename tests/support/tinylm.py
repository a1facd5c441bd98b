"""Data sets and models for whole runs, importable by a plan: `support.tinylm:tokens`."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn


class Tokens:
    """Rows of random tokens; the same for the same arguments."""

    def __init__(self, items: int, length: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(7)
        self.rows = torch.randint(0, vocabulary, (items, length), generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def tokens(items: int = 24, length: int = 8, vocabulary: int = 40) -> Tokens:
    return Tokens(items, length, vocabulary)


class Skipper(nn.Module):
    """A value that skips over many layers, a weight used in several, and a tied head."""

    def __init__(self, width: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(width, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        first = h = self.embed(input_ids)
        for layer in self.layers:
            h = h + torch.tanh(layer(h)) + torch.sin(self.mix(first))
        return self.head(self.norm(h + first))


def skipper(width: int = 16, layers: int = 3, vocabulary: int = 40) -> Skipper:
    return Skipper(width, layers, vocabulary)


def next_token_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["input_ids"])
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


class Rotten(Tokens):
    """Fails at one row."""

    def __init__(self, row: int, error: BaseException) -> None:
        super().__init__(24, 8, 40)
        self.row, self.error = row, error

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index == self.row:
            raise self.error
        return super().__getitem__(index)


def rotten(row: int) -> Rotten:
    return Rotten(row, ValueError(f"row {row} is rotten"))


def exiting(row: int) -> Rotten:
    return Rotten(row, SystemExit(3))


class Hanging(Tokens):
    """Never returns once it has been asked so often."""

    def __init__(self, reads: int) -> None:
        super().__init__(24, 8, 40)
        self.left = reads

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.left -= 1
        while self.left < 0:
            time.sleep(3600)
        return super().__getitem__(index)


def hanging(reads: int) -> Hanging:
    return Hanging(reads)


class Talking(Tokens):
    """Prints whenever it is asked for a row."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        print(f"row {index}")
        return super().__getitem__(index)


def talking(items: int = 24) -> Talking:
    print("a talking data set")
    return Talking(items, 8, 40)
