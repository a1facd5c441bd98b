"""What the jobs of the families' trials name: an entry's tiny model, and a data set that fits its forward."""

from __future__ import annotations

from torch import Tensor, nn

from hydraplan.tools.families.tiny import entry, make_item, make_model


def make(name: str, dropout: bool) -> nn.Module:
    """The model of an entry such as `causal-lm/gpt2`."""
    return make_model(entry(name), dropout=dropout)


class Rows:
    """As many samples as a trial trains on."""

    def __init__(self, name: str, count: int) -> None:
        which = entry(name)
        self._items = [make_item(which, number) for number in range(count)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._items[index]


def rows(name: str, count: int) -> Rows:
    """The data set of an entry."""
    return Rows(name, count)
