"""Tiny models, each hard to cut for a reason of its own, and the rows that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8
ROWS = 16


class Samples:
    """Rows of every kind of value that the models below read."""

    def __init__(self, names: Sequence[str]) -> None:
        draw = torch.Generator().manual_seed(3)
        every = {
            "image": torch.randn(ROWS, 2, 8, 8, generator=draw),
            "left": torch.randn(ROWS, WIDTH, generator=draw),
            "right": torch.randn(ROWS, WIDTH, generator=draw),
            "tokens": torch.randint(0, 12, (ROWS, 6), generator=draw),
            "weight": torch.rand(ROWS, generator=draw, dtype=torch.float64),
            "seen": torch.rand(ROWS, 6, generator=draw) > 0.4,
        }
        self.values = {name: every[name] for name in names}

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.values.items()}


def samples(names: Sequence[str]) -> Samples:
    return Samples(names)


def scored(value: Tensor) -> SimpleNamespace:
    """What transformers' models return: something with a loss."""
    return SimpleNamespace(loss=value.square().mean())


class UNet(nn.Module):
    """Skips over all that lies between the way down and the way up; convolutions, batch norm, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(8)])
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 4, 2, 2), nn.ConvTranspose2d(8, 2, 2, 2)])

    def forward(self, image: Tensor) -> SimpleNamespace:
        value, skips = image, []
        for layer, norm in zip(self.down, self.norms, strict=True):
            value = F.max_pool2d(F.relu(norm(layer(value)), inplace=True), 2)
            skips.append(value)
        value = torch.tanh(self.middle(value))
        for layer in self.up:
            value = layer(torch.cat([value, skips.pop()], 1))
        return scored(value - image)


class Channels(nn.Module):
    """Convolutions over images with channels last, as those who train fast lay them out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Conv2d(2 if first else 6, 6, 3, padding=1) for first in (True, False, False))
        self.norm = nn.GroupNorm(2, 6)

    def forward(self, image: Tensor) -> SimpleNamespace:
        value = image.contiguous(memory_format=torch.channels_last)
        for layer in self.body:
            value = torch.tanh(layer(value))
        return scored(self.norm(value) + value.mean((2, 3), keepdim=True))


class Translation(nn.Module):
    """What the encoder makes, every layer of the decoder reads twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.encoder = nn.Linear(WIDTH, WIDTH)
        self.queries = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.keys = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.values = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        memory = torch.tanh(self.encoder(self.embed(tokens)))
        value = self.embed(tokens.flip(1))
        for query, key, mixed in zip(self.queries, self.keys, self.values, strict=True):
            value = value + F.scaled_dot_product_attention(query(value), key(memory), mixed(memory))
        return scored(value)


class Outputs(nn.Module):
    """Several outputs, several losses: one is made early and added at the end; an operator with two results."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 12) for _ in range(3))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        value, logits = self.embed(tokens), []
        for layer, head in zip(self.body, self.heads, strict=True):
            value = torch.tanh(layer(value)) + value
            logits.append(head(value))
        top, place = value.max(-1)
        return {"early": logits[0], "late": logits[-1], "between": logits[1], "top": top, "place": place}


def of_all_outputs(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    made = model(batch["tokens"])
    losses = [F.cross_entropy(made[name].flatten(0, 1), batch["tokens"].flatten()) for name in ("early", "between")]
    return losses[0] * 0.3 + losses[1] * 0.2 + made["late"].square().mean() + (made["top"] * made["place"]).mean()


class Kinds(nn.Module):
    """Integers, booleans, doubles, transposed and expanded values, all made of weights, all read much later."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        first = self.embed(tokens)
        chosen, positive = first.argmax(-1), first > 0
        turned, wide, exact = first.transpose(0, 2), self.scale.expand_as(first), first.double().cumsum(1)
        value = first
        for layer in self.body:
            value = torch.tanh(layer(value))
        value = value * wide * positive + value.gather(-1, chosen.unsqueeze(-1)) * ~positive
        return scored(value + turned.sum(1).T.unsqueeze(1) + (exact * value).float())


class Writes(nn.Module):
    """In-place operators on memory that views made before read after."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            canvas = value * 0
            row = canvas[:, 1:4]
            canvas[:, 2:] = layer(value)[:, 2:]
            row.mul_(2).add_(value[:, 1:4])
            canvas[..., ::2] *= 0.5
            value = torch.tanh(canvas) + row.sum(1, keepdim=True)
        return scored(value)


class Still(nn.Module):
    """Parameters that get no gradient though they could: read under no_grad, detached, or multiplied away."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH)
        self.teacher = nn.Linear(WIDTH, WIDTH)
        self.offset = nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        with torch.no_grad():
            aim = self.teacher(value)
        return scored(torch.tanh(self.body(value)) - aim + self.offset.detach())


class Mixture(nn.Module):
    """Each token goes to two of three experts; gates and places are read by every expert."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.router = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 6), nn.GELU(), nn.Linear(6, WIDTH)) for _ in range(3)
        )

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens).flatten(0, 1)
        gates, places = self.router(value).softmax(-1).topk(2)
        result = torch.zeros_like(value)
        for number, expert in enumerate(self.experts):
            gate = (gates * (places == number)).sum(-1, keepdim=True)
            result = result + expert(value) * gate
        spread = F.one_hot(places, 3).float().mean((0, 1)) * gates.mean()
        return SimpleNamespace(loss=(result - value).square().mean() + spread.square().sum())


class Inputs(nn.Module):
    """Several inputs of several types, each read somewhere else, two of one form."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens: Tensor, seen: Tensor, right: Tensor, left: Tensor, weight: Tensor) -> SimpleNamespace:
        value = torch.tanh(self.body[0](right))
        value = torch.tanh(self.body[1](value - left * right))
        words = self.body[2](self.embed(tokens)).masked_fill(~seen.unsqueeze(-1), 0.0).sum(1)
        each = (value * words + left).square().mean(-1)
        return SimpleNamespace(loss=(each.double() * weight).mean().float())


class Constants(nn.Module):
    """A buffer that no state_dict holds, a plain attribute, a literal in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("frequency", torch.linspace(1, 2, WIDTH), persistent=False)
        self.shift = torch.linspace(-1, 1, WIDTH)

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens) * torch.sin(self.get_buffer("frequency"))
        return scored(self.body(value + self.shift) * torch.tensor([1.0, 2.0]).repeat(WIDTH // 2))


class Recurrent(nn.Module):
    """Two LSTMs; states and outputs both go on."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.first = nn.LSTM(WIDTH, WIDTH, batch_first=True, num_layers=2)
        self.second = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value, (state, _) = self.first(self.embed(tokens))
        value = self.second(torch.tanh(value) + value)[0]
        return scored(value + state[-1].unsqueeze(1))


class Tied(nn.Module):
    """One weight is the first and the last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.last = nn.Linear(WIDTH, 12, bias=False)
        self.last.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            value = torch.tanh(layer(value)) + value
        return SimpleNamespace(loss=F.cross_entropy(self.last(value).flatten(0, 1), tokens.flatten()))


class Twice(nn.Module):
    """A layer is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for _ in range(3):
            value = torch.tanh(self.layer(value))
        return scored(value)


class Dropped(nn.Module):
    """Dropout between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            value = value + F.dropout(torch.tanh(layer(value)), 0.3)
        return scored(value)


class Inattentive(nn.Module):
    """Dropout within attention, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            query, key, mixed = layer(value).chunk(3, -1)
            value = value + F.scaled_dot_product_attention(query, key, mixed, dropout_p=0.3)
        return scored(value)


class Wide(nn.Module):
    """One module that is nearly all of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 64)
        self.wide = nn.Sequential(*(nn.Linear(64, 64) for _ in range(12)))

    def forward(self, left: Tensor) -> SimpleNamespace:
        return scored(self.wide(self.first(left)))


class Huge(nn.Module):
    """One weight that no cut parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.huge = nn.Linear(WIDTH, 2048)

    def forward(self, left: Tensor) -> SimpleNamespace:
        return scored(self.huge(torch.tanh(self.first(left))))
