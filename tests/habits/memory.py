"""Tensors that share memory: tied where they are equal in layout, else refused."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from habits.harness import WIDTH, Trunk, habit
from torch import Tensor, nn


class Two(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(self.more(h))


class TiedByAttribute(Two):
    """The remedy: one Parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.more.weight = self.hidden.weight


# -- equal layouts: tied --------------------------------------------------------------------------------
# Two Parameters on one storage: a plain loop's optimizer updates the storage twice, once by each.


@habit("tied storages", "equal", optimizer="SGD")
class DataShared(Two):
    def __init__(self) -> None:
        super().__init__()
        self.more.weight.data = self.hidden.weight.data  # habit


@habit("tied storages", "equal")
class NewParameterOnOldData(Two):
    def __init__(self) -> None:
        super().__init__()
        self.more.weight = nn.Parameter(self.hidden.weight.data)  # habit


@habit("tied storages", "equal")
class Assigned(Two):
    """A state_dict with one tensor under two names, as torch.load gives it."""

    def __init__(self) -> None:
        super().__init__()
        shared = torch.randn(WIDTH, WIDTH) / 6
        state = self.state_dict() | {"more.weight": shared, "hidden.weight": shared}
        self.load_state_dict(state, assign=True)  # habit


@habit("tied storages", "equal")
class SetData(Two):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.more.weight.set_(self.hidden.weight)  # habit


@habit("tied storages", "equal", budget_bytes=40_000)
class EmbeddingAndHead(Trunk):
    """GPT-2's tie as older code has it: on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, WIDTH)
        self.last.weight.data = self.table.weight.data  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.table(h[:, :8].argmax(-1))


@habit("tied storages", "equal", microbatches=1)
class TiedModules(Trunk):
    """One module under two names; also with its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.more = self.hidden

    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(self.more(h))


@habit("overlapping storages", "either", "DetachedTwin")
class FrozenTwins(Two):
    """A frozen one on the storage of a trained one: reads what the optimizer writes."""

    def __init__(self) -> None:
        super().__init__()
        self.more.weight = nn.Parameter(self.hidden.weight.detach(), requires_grad=False)  # habit


class DetachedTwin(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(F.linear(h, self.hidden.weight.detach(), self.hidden.bias.detach()))


# -- other layouts: refused, or right -------------------------------------------------------------------


@habit("overlapping storages", "either", "OwnRows")
class RowsOfAnother(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Parameter(self.hidden.weight.data[:8])  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + (h @ self.part.T).tanh() @ self.part


class OwnRows(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        part = self.hidden.weight[:8]
        return h + (h @ part.T).tanh() @ part


@habit("overlapping storages", "either", "OwnTranspose")
class Transposed(Two):
    """An autoencoder's decoder on the transpose of the encoder's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.more.weight.data = self.hidden.weight.data.T  # habit


class OwnTranspose(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(F.linear(h, self.hidden.weight.T))


@habit("overlapping storages", "either", "BufferAfresh")
class BufferViewsParameter(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("snapshot", self.hidden.weight.data)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.snapshot


class BufferAfresh(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("snapshot", self.hidden.weight.detach().clone())

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.snapshot


@habit("overlapping storages", "either", "Two")
class FlatStorage(Two):
    """All weights are slices of one flat tensor, as of hand-made fused optimizers."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.cat([self.more.weight.detach().flatten(), self.hidden.weight.detach().flatten()])
        self.more.weight.data = flat[: WIDTH * WIDTH].view(WIDTH, WIDTH)  # habit
        self.hidden.weight.data = flat[WIDTH * WIDTH - 8 : -8].view(WIDTH, WIDTH)  # habit


@habit("slices of one storage", "either", "Two")
class DisjointSlices(Two):
    """RNN's flat weights: slices that do not overlap are no tie."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.cat([self.more.weight.detach().flatten(), self.hidden.weight.detach().flatten()])
        self.more.weight.data = flat[: WIDTH * WIDTH].view(WIDTH, WIDTH)  # habit
        self.hidden.weight.data = flat[WIDTH * WIDTH :].view(WIDTH, WIDTH)  # habit


@habit("slices of one storage", "either", "Two")
class Chunks(Two):
    """query and key, chunks of one drawn tensor."""

    def __init__(self) -> None:
        super().__init__()
        left, right = (torch.randn(2 * WIDTH, WIDTH) / 6).chunk(2)
        self.more.weight, self.hidden.weight = nn.Parameter(left), nn.Parameter(right)  # habit


@habit("slices of one storage", "either", "Two")
class ColumnsOfOne(Two):
    """Slices that interleave in memory and share no element."""

    def __init__(self) -> None:
        super().__init__()
        both = torch.randn(WIDTH, 2 * WIDTH) / 6
        self.more.weight.data, self.hidden.weight.data = both[:, :WIDTH], both[:, WIDTH:]  # habit


@habit("overlapping storages", "either", "BufferAfresh")
class BufferIsAStateDictOne(Trunk):
    """A checkpoint with one tensor under the names of a buffer and a parameter, taken over as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("snapshot", torch.zeros(WIDTH, WIDTH))
        state = self.state_dict()
        self.load_state_dict(state | {"snapshot": state["hidden.weight"]}, assign=True)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.snapshot


# torch's own optimizers refuse to write to what is trained of these: a plain loop fails.


@habit("expanded parameters", "refused", "OwnColumn")
class ExpandedRow(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, WIDTH).expand(WIDTH, WIDTH))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.scale.tanh()


class OwnColumn(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, WIDTH))

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.scale.expand(WIDTH, WIDTH).tanh()


@habit("expanded parameters", "refused", "OwnColumn")
class ExpandedNumber(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5).expand(WIDTH))  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h * self.temperature


@habit("expanded parameters", "refused", "Trunk")
class ExpandedWeight(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.hidden.weight.data = self.hidden.weight.data[:1].expand(WIDTH, -1)  # habit


@habit("expanded parameters", "either", "BufferAfresh")
class ExpandedBuffer(Trunk):
    """Nobody trains it: nothing is wrong with it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.arange(WIDTH).float().expand(4, -1) / WIDTH)  # habit

    def middle(self, h: Tensor) -> Tensor:
        return h + self.positions
