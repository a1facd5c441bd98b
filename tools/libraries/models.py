"""What jobs name: an entry's model, a data set that fits its forward, and a loss over whatever it gives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hydraplan.tools.libraries.catalogue import entry
from hydraplan.tools.libraries.entry import make_model


def make(name: str) -> nn.Module:
    """The model of an entry such as `timm/resnet18`."""
    return make_model(entry(name))


class Rows:
    """`count` samples."""

    def __init__(self, name: str, count: int) -> None:
        sample = entry(name).sample
        self._items = [sample(torch.Generator().manual_seed(number)) for number in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._items[index]


def rows(name: str, count: int) -> Rows:
    """The data set of an entry."""
    return Rows(name, count)


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean square of all floating-point outputs that have a gradient, over their number."""
    outputs = model(*batch.values())
    trained = [
        each
        for each in tree_leaves(outputs if isinstance(outputs, (Tensor, tuple, list, dict)) else vars(outputs))
        if isinstance(each, Tensor) and each.is_floating_point() and each.requires_grad
    ]
    total = trained[0].square().mean()
    for each in trained[1:]:
        total = total + each.square().mean()
    return total / len(trained)
