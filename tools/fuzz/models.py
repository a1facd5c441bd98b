"""Models and data of the fuzz: small enough to be trained in a moment, with what plans are made of in them: a tied
weight, a value that skips over layers, dropout, a buffer that a forward updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WORDS, WIDTH, LENGTH = 24, 12, 6


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        first = self.embed(words)
        hidden = self.dropout(torch.tanh(self.one(first)))
        hidden = torch.tanh(self.two(hidden)) + first
        scores: Tensor = self.head(hidden)
        return scores


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.middle = nn.Linear(WIDTH, 2 * WIDTH)
        self.head = nn.Linear(2 * WIDTH, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.norm(self.embed(words).transpose(1, 2)).transpose(1, 2)
        scores: Tensor = self.head(torch.relu(self.middle(hidden)))
        return scores


def sentences(items: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [{"words": torch.randint(0, WORDS, (LENGTH,), generator=generator)} for _ in range(items)]


def next_word(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    words = batch["words"]
    scores = model(words)[:, :-1].flatten(0, 1)
    return nn.functional.cross_entropy(scores, words[:, 1:].flatten())
