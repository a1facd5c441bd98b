"""State that a forward changes and that is neither parameter nor buffer: right, or refused at its line."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from habits.harness import WIDTH, Trunk, habit
from torch import Tensor, nn


class CountedInABuffer(Trunk):
    """The remedy for counters: a buffer that the forward updates in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.calls.add_(1)
        return h * (1 + 0.01 * self.calls)


class MeanInABuffer(Trunk):
    """The remedy for tensors in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
        return h - self.mean


# -- numbers --------------------------------------------------------------------------------------------


@habit("counters", "either", "CountedInABuffer", microbatches=2)
class Counter(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def middle(self, h: Tensor) -> Tensor:
        self.calls += 1  # habit
        return h * (1 + 0.01 * self.calls)  # habit


@habit("counters", "either", "CountedInABuffer")
class Annealed(Trunk):
    """Gumbel temperature, a product that shrinks in a submodule's forward."""

    class Softer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = 2.0

        def forward(self, h: Tensor) -> Tensor:
            self.temperature = max(0.5, self.temperature * 0.9)  # habit
            return F.softmax(h / self.temperature, -1)  # habit

    def __init__(self) -> None:
        super().__init__()
        self.soft = self.Softer()

    def middle(self, h: Tensor) -> Tensor:
        return self.soft(h)


@habit("counters", "either", "CountedInABuffer")
class Warmup(Trunk):
    """A schedule in a dict; changes the graph, not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = {"step": 0}

    def middle(self, h: Tensor) -> Tensor:
        self.progress["step"] += 1  # habit
        if self.progress["step"] > 2:
            h = torch.tanh(self.hidden(h))  # habit
        return h


@habit("counters", "either", "CountedInABuffer")
class CountsByClass(Trunk):
    calls = 0

    def middle(self, h: Tensor) -> Tensor:
        type(self).calls += 1  # habit
        return h * (1 + 0.01 * type(self).calls)  # habit


_calls = [0]


@habit("counters", "either", "CountedInABuffer")
class CountsInTheModule(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        _calls[0] += 1  # habit
        return h * (1 + 0.01 * _calls[0])  # habit


@habit("counters", "either", "CountedInABuffer", loss="weighs_later_steps_more")
class CountsInTheLoss(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0


def weighs_later_steps_more(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """KL annealing of a VAE."""
    if hasattr(model, "seen"):
        model.seen += 1  # habit: CountsInTheLoss
    return F.cross_entropy(model(batch["x"]), batch["y"]) * min(
        1.0, 0.2 * getattr(model, "seen", 5)
    )  # habit: CountsInTheLoss


@habit("counters", "either", "Trunk")
class CountsInAHook(Trunk):
    """A forward hook on a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.hidden.register_forward_hook(self.count)

    def count(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.calls += 1  # habit
        return output / self.calls  # habit


@habit("counters", "either", "Trunk")
class CountsInAClosure(Trunk):
    def __init__(self) -> None:
        super().__init__()
        calls = 0

        def grow(h: Tensor) -> Tensor:
            nonlocal calls
            calls += 1  # habit
            return h * (1 + 0.01 * calls)  # habit

        self.grow = grow

    def middle(self, h: Tensor) -> Tensor:
        return self.grow(h)  # habit


@habit("counters", "either", "Trunk")
class NextOfAnIterator(Trunk):
    """Alternates two paths: itertools.cycle."""

    def __init__(self) -> None:
        super().__init__()
        import itertools

        self.scales = itertools.cycle([1.0, 0.5])

    def middle(self, h: Tensor) -> Tensor:
        return h * next(self.scales)  # habit


# -- counters that change nothing -----------------------------------------------------------------------


@habit("harmless notes", "either", "Trunk")
class LogsItsCalls(Trunk):
    """Counts, but nothing follows from it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def middle(self, h: Tensor) -> Tensor:
        self.calls += 1  # habit
        return h


@habit("harmless notes", "either", "Trunk")
class KeepsItsFeatures(Trunk):
    """Keeps what a user looks at later."""

    def middle(self, h: Tensor) -> Tensor:
        self.features = h.detach()  # habit
        return h


@habit("harmless notes", "either", "Trunk")
class AuxiliaryLossOnTheModule(Trunk):
    """MoE code: the loss lies in an attribute, the loss function adds it. Nothing of it outlives the step."""

    def middle(self, h: Tensor) -> Tensor:
        self.auxiliary = h.square().mean()  # habit
        return h

    def forward(self, x: Tensor) -> Tensor:
        made = super().forward(x)
        return made + self.auxiliary


# -- tensors in attributes ------------------------------------------------------------------------------


@habit("tensors in attributes", "either", "MeanInABuffer", microbatches=2)
class RunningMean(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)  # habit
        return h - self.mean  # habit


@habit("tensors in attributes", "either", "MeanInABuffer")
class RunningMeanInPlace(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * h.mean(0))  # habit
        return h - self.mean  # habit


@habit("tensors in attributes", "either", "MeanInABuffer")
class StateCarriedOver(Trunk):
    """Transformer-XL and stateful RNNs: the last state, detached, starts the next step."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None

    def middle(self, h: Tensor) -> Tensor:
        if self.state is not None:
            h = h + 0.1 * self.state  # habit
        self.state = h.detach()  # habit
        return h


@habit("tensors in attributes", "either", "MeanInABuffer")
class MemoryBank(Trunk):
    """Contrastive learning: a queue of features in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Tensor] = []

    def middle(self, h: Tensor) -> Tensor:
        for kept in self.queue:
            h = h + 0.1 * kept.mean(0)  # habit
        self.queue.append(h.detach())  # habit
        self.queue = self.queue[-2:]  # habit
        return h


@habit("tensors in attributes", "either", "MeanInABuffer")
class PowerIteration(Trunk):
    """Spectral normalisation by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.u = F.normalize(torch.ones(WIDTH), dim=0)

    def middle(self, h: Tensor) -> Tensor:
        weight = self.hidden.weight
        with torch.no_grad():
            v = F.normalize(weight.T @ self.u, dim=0)  # habit
            self.u = F.normalize(weight @ v, dim=0)  # habit
        return F.linear(h, weight / (self.u @ weight @ v))  # habit


# -- caches: the first call fills them, and then they stay ----------------------------------------------


@habit("caches", "either", "PositionsInABuffer", microbatches=2)
class RotaryCache(Trunk):
    """cos and sin are made at the first call, as many rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.cached: tuple[Tensor, Tensor] | None = None

    def middle(self, h: Tensor) -> Tensor:
        if self.cached is None:
            angles = torch.arange(WIDTH).float() / WIDTH
            self.cached = angles.cos(), angles.sin()  # habit
        cos, sin = self.cached
        return h * cos + h.roll(1, -1) * sin


class PositionsInABuffer(Trunk):
    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(WIDTH).float() / WIDTH
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def middle(self, h: Tensor) -> Tensor:
        return h * self.cos + h.roll(1, -1) * self.sin


@habit("caches", "either", "PositionsInABuffer")
class CacheByLength(Trunk):
    """ALiBi: a dict of biases by length."""

    def __init__(self) -> None:
        super().__init__()
        self.biases: dict[int, Tensor] = {}

    def middle(self, h: Tensor) -> Tensor:
        rows = h.shape[1]
        if rows not in self.biases:
            self.biases[rows] = -torch.arange(rows).float() / rows  # habit
        return h + self.biases[rows]


@habit("caches", "either", "PositionsInABuffer")
class RegisteredInTheForward(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.arange(WIDTH).float() / WIDTH, persistent=False)  # habit
        return h * self.mask


@habit("caches", "either", "PositionsInABuffer")
class CacheOfWeights(Trunk):
    """A cached product of weights: the plain loop keeps that of the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.product: Tensor | None = None

    def middle(self, h: Tensor) -> Tensor:
        if self.product is None:
            self.product = (self.hidden.weight @ self.hidden.weight.T).detach()  # habit
        return h @ self.product.tanh()  # habit


_tables: dict[int, Tensor] = {}


def table(width: int) -> Tensor:
    if width not in _tables:
        _tables[width] = torch.arange(width).float() / width  # habit: CacheOfTheModule
    return _tables[width]


@habit("caches", "either", "PositionsInABuffer")
class CacheOfTheModule(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + table(WIDTH)  # habit


import functools  # noqa: E402


@functools.cache
def remembered(width: int) -> Tensor:
    return torch.arange(width).float() / width  # habit: CacheByDecorator


@habit("caches", "either", "PositionsInABuffer")
class CacheByDecorator(Trunk):
    """functools.lru_cache over a function that makes tensors."""

    def middle(self, h: Tensor) -> Tensor:
        return h + remembered(WIDTH)  # habit


# -- flags of parameters, data of parameters ------------------------------------------------------------


@habit("requires_grad flags", "either", "FrozenAtFirst")
class FreezesInTheForward(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        self.hidden.weight.requires_grad_(False)  # habit
        return torch.tanh(self.hidden(h))  # habit


class FrozenAtFirst(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.hidden.weight.requires_grad_(False)

    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(self.hidden(h))


@habit("requires_grad flags", "either", "DetachedWeight")
class TogglesAround(Trunk):
    """GAN code: the discriminator without gradient for one pass."""

    def middle(self, h: Tensor) -> Tensor:
        for each in self.hidden.parameters():
            each.requires_grad = False  # habit
        h = torch.tanh(self.hidden(h))  # habit
        for each in self.hidden.parameters():
            each.requires_grad = True  # habit
        return h


class DetachedWeight(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(F.linear(h, self.hidden.weight.detach(), self.hidden.bias.detach()))


@habit("requires_grad flags", "either", "Trunk")
class Unfreezes(Trunk):
    """Gradual unfreezing: frozen at first, trained from the third call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.hidden.requires_grad_(False)

    def middle(self, h: Tensor) -> Tensor:
        self.calls += 1  # habit
        if self.calls == 3:
            self.hidden.requires_grad_(True)  # habit
        return h


@habit("requires_grad flags", "either", "FrozenAtFirst", loss="freezes")
class FrozenByTheLoss(Trunk):
    pass


def freezes(model: Any, batch: dict[str, Tensor]) -> Tensor:
    if type(model) is FrozenByTheLoss:
        model.hidden.requires_grad_(False)  # habit: FrozenByTheLoss
    return F.cross_entropy(model(batch["x"]), batch["y"])  # habit: FrozenByTheLoss


class NormalisedWeight(Trunk):
    """The remedy: computed from the weight, not written to it."""

    def middle(self, h: Tensor) -> Tensor:
        return F.linear(h, F.normalize(self.hidden.weight, dim=1))


@habit("data written", "either", "NormalisedWeight")
class DataAssigned(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        self.hidden.weight.data = F.normalize(self.hidden.weight.data, dim=1)  # habit
        return torch.tanh(self.hidden(h))  # habit


@habit("data written", "either", "NormalisedWeight")
class DataClamped(Trunk):
    """WGAN's clipping in the forward."""

    def middle(self, h: Tensor) -> Tensor:
        for each in self.hidden.parameters():
            each.data.clamp_(-0.1, 0.1)  # habit
        return torch.tanh(self.hidden(h))  # habit


@habit("data written", "either", "NormalisedWeight")
class CopiedUnderNoGrad(Trunk):
    """Max-norm by hand: torch.renorm under no_grad."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.hidden.weight.copy_(torch.renorm(self.hidden.weight, 2, 0, 0.5))  # habit
        return torch.tanh(self.hidden(h))  # habit


@habit("data written", "either", "NormalisedWeight")
class WrittenByAPreHook(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.hidden.register_forward_pre_hook(normalise)

    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(self.hidden(h))  # habit


def normalise(module: Any, inputs: Any) -> None:
    module.weight.data.div_(module.weight.data.norm())  # habit: WrittenByAPreHook


class FrozenTeacher(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(WIDTH, WIDTH).requires_grad_(False)

    def middle(self, h: Tensor) -> Tensor:
        return h - torch.tanh(self.teacher(h))


@habit("data written", "either", "FrozenTeacher")
class MovingAverage(FrozenTeacher):
    """MoCo's momentum encoder: a frozen layer follows a trained one, in the forward."""

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.hidden.parameters(), strict=True):
            slow.data = slow.data * 0.9 + fast.data * 0.1  # habit

    def middle(self, h: Tensor) -> Tensor:
        self.follow()  # habit
        return super().middle(h)


@habit("data written", "either", "FrozenTeacher")
class MovingAverageInPlace(FrozenTeacher):
    """BYOL's."""

    def middle(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.hidden.parameters(), strict=True):
                slow.mul_(0.9).add_(fast, alpha=0.1)  # habit
        return super().middle(h)


# -- layers created in a forward, buffers that were None ------------------------------------------------


class TwoLayers(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return torch.tanh(self.more(h))


@habit("made in the forward", "refused", "TwoLayers")
class LayerMadeInTheForward(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        if not hasattr(self, "more"):
            self.more = nn.Linear(h.shape[-1], WIDTH)  # habit
        return torch.tanh(self.more(h))


@habit("made in the forward", "refused", "TwoLayers")
class ParameterMadeInTheForward(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        if "scale" not in self._parameters:
            self.register_parameter("scale", nn.Parameter(torch.ones(h.shape[-1])))  # habit
        return h * self.scale


@habit("made in the forward", "refused", "TwoLayers")
class ModuleListGrows(Trunk):
    """Progressive growing."""

    def __init__(self) -> None:
        super().__init__()
        self.grown = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def middle(self, h: Tensor) -> Tensor:
        for layer in self.grown:
            h = torch.tanh(layer(h))  # habit
        self.grown.append(nn.Linear(WIDTH, WIDTH))  # habit
        return h


@habit("made in the forward", "either", "TwoLayers")
class LayerOfEachCall(Trunk):
    """A norm that is made anew at each call: the same numbers each time, and nothing of it is trained."""

    def middle(self, h: Tensor) -> Tensor:
        return nn.LayerNorm(WIDTH)(h)  # habit


@habit("buffers that were None", "either", "MeanInABuffer")
class NoneAtFirst(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)

    def middle(self, h: Tensor) -> Tensor:
        batch = h.detach().mean(0)
        self.mean = batch if self.mean is None else 0.9 * self.mean + 0.1 * batch  # habit
        return h - self.mean  # habit


@habit("buffers that were None", "either", "MeanInABuffer")
class NoneInASubmodule(Trunk):
    """VQ code: the code book's usage is initialised by the first batch."""

    class Normalise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", None, persistent=False)

        def forward(self, h: Tensor) -> Tensor:
            if self.scale is None:
                self.scale = h.detach().std(0) + 0.1  # habit
            return h / self.scale  # habit

    def __init__(self) -> None:
        super().__init__()
        self.normalise = self.Normalise()

    def middle(self, h: Tensor) -> Tensor:
        return self.normalise(h)  # habit


@habit("buffers that were None", "either", "MeanInABuffer")
class EmptyUntilSeen(Trunk):
    """A flag as a buffer, and data-dependent initialisation (ActNorm)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", None)
        self.ready = False

    def middle(self, h: Tensor) -> Tensor:
        if not self.ready:
            self.offset = h.detach().mean(0)  # habit
            self.ready = True  # habit
        return h - self.offset  # habit


@habit("buffers of another shape", "either", "MeanInABuffer")
class BufferGrows(Trunk):
    """A replay memory: torch.cat onto a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(0, WIDTH), persistent=False)

    def middle(self, h: Tensor) -> Tensor:
        self.memory = torch.cat([self.memory, h.detach()])[-8:]  # habit
        return h - self.memory.mean(0)  # habit


@habit("buffers of another shape", "either", "MeanInABuffer")
class BufferBroadcast(Trunk):
    """A scalar zero becomes a vector at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def middle(self, h: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)  # habit
        return h - self.mean  # habit


@habit("buffers of another shape", "either", "MeanInABuffer")
class BufferOfAnotherType(Trunk):
    """An integer count becomes a floating-point one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def middle(self, h: Tensor) -> Tensor:
        self.seen = self.seen + 0.5  # habit
        return h / (1 + self.seen)  # habit
