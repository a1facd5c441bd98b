"""A language model of our own, which needs no library but torch; data and loss for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, value: Tensor) -> Tensor:
        batch, length, width = value.shape
        parts = self.inner(self.first(value)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, content = (each.transpose(1, 2) for each in parts.unbind(2))
        attended = functional.scaled_dot_product_attention(query, key, content, is_causal=True)
        value = value + functional.dropout(
            self.outer(attended.transpose(1, 2).reshape(batch, length, width)), self.dropout
        )
        result: Tensor = value + self.down(functional.gelu(self.up(self.second(value))))
        return result


class Language(nn.Module):
    """Its head is tied to its embedding."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        for block in self.blocks:
            value = block(value)
        result: Tensor = self.head(self.norm(value))
        return result


def language(vocabulary: int = 64, width: int = 32, layers: int = 3, heads: int = 2, dropout: float = 0.0) -> nn.Module:
    return Language(vocabulary, width, layers, heads, dropout)


class Tokens:
    """Random tokens, the same at every call."""

    def __init__(self, vocabulary: int, length: int, items: int) -> None:
        self.tokens = torch.randint(0, vocabulary, (items, length + 1), generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"tokens": self.tokens[index, :-1].clone(), "next": self.tokens[index, 1:].clone()}


def tokens(vocabulary: int = 64, length: int = 16, items: int = 64) -> Tokens:
    return Tokens(vocabulary, length, items)


def next_token(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    logits = model(batch["tokens"])
    return functional.cross_entropy(logits.flatten(0, 1), batch["next"].flatten())
