"""A data set whose items' keys stand in an order that is not the alphabet's, and losses that rely on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Rows:
    """Items whose keys stand in the order given."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {name: torch.randn(WIDTH, generator=generator) for name in self._names}


def rows(names: str) -> Rows:
    return Rows(names.split())


def model() -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


def positional(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    given, wanted = batch.values()
    return F.mse_loss(model(given), wanted)


def last_is_wanted(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    *given, wanted = (batch[name] for name in batch)
    return F.mse_loss(model(torch.stack(given).sum(0)), wanted)


def unpacked(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    (_, given), (_, wanted) = batch.items()
    return F.mse_loss(model(given), wanted)
