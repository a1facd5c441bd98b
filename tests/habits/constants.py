"""Constants in lists, dicts, closures and globals; what constructors and imports draw; who draws in a forward.

Two seeds train in one plan and one process, so that constants of the first would show in the second.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from habits.harness import WIDTH, Case, Trunk, enter, habit
from torch import Tensor, nn

BOTH: Any = dict(seeds=(5, 6))
SCALES = [torch.linspace(0.5, 1.5, WIDTH), torch.linspace(1.5, 0.5, WIDTH)]
TABLE = {"shift": torch.arange(WIDTH).float() / WIDTH}
MIXING = torch.randn(WIDTH, WIDTH) / 6
"""Drawn at import: the same for all jobs of a process, in plan and run."""


def drawn() -> Tensor:
    return torch.randn(WIDTH, WIDTH) / 6


# -- constants in containers ----------------------------------------------------------------------------


@habit("constants in containers", "equal", **BOTH)
class InAList(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.constants = [drawn(), drawn()]

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.constants[0] + h @ self.constants[1]


@habit("constants in containers", "equal", **BOTH)
class InADict(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.by_name = {"mix": drawn(), "nested": {"shift": torch.rand(WIDTH)}}

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.by_name["mix"] + self.by_name["nested"]["shift"]


@habit("constants in containers", "equal", **BOTH)
class InAClosure(Trunk):
    def __init__(self) -> None:
        super().__init__()
        mixed = drawn()
        self.mix = lambda h: h @ mixed

    def middle(self, h: Tensor) -> Tensor:
        return self.mix(h)


@habit("constants in containers", "equal", **BOTH)
class InATuple(Trunk):
    """A plain attribute, a tuple and a slice of one drawn tensor."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(2 * WIDTH, WIDTH) / 6
        self.parts = whole[:WIDTH], whole[WIDTH:]

    def middle(self, h: Tensor) -> Tensor:
        return h @ self.parts[1] + h


@dataclass
class Priors:
    mean: Tensor
    scales: list[Tensor]


@habit("constants in containers", "equal", **BOTH)
class InADataclass(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.priors = Priors(torch.randn(WIDTH), [torch.rand(WIDTH)])

    def middle(self, h: Tensor) -> Tensor:
        return (h - self.priors.mean) * self.priors.scales[0]


@habit("constants in containers", "equal", microbatches=2)
class InModuleGlobals(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h * SCALES[0] + TABLE["shift"] * SCALES[1]


@habit("constants in containers", "equal")
class InAnUnregisteredModule(Trunk):
    """A teacher in a list, so that its parameters are not the model's: constant, drawn under the seed."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [nn.Linear(WIDTH, WIDTH).requires_grad_(False)]

    def middle(self, h: Tensor) -> Tensor:
        return h + self.teacher[0](h)


@habit("constants in containers", "equal", loss="weighted")
class InTheLoss(Trunk):
    pass


CLASS_WEIGHTS = torch.linspace(0.5, 1.5, 8)


def weighted(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"], weight=CLASS_WEIGHTS)


@habit("constants in containers", "equal")
class ClassAttributeTensor(Trunk):
    kernel = torch.hann_window(WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return h * self.kernel


@habit("constants in containers", "equal")
class FromNumpy(Trunk):
    """A numpy array that the constructor drew, made a tensor in the forward's closure."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = torch.from_numpy(np.linspace(0, 1, WIDTH, dtype=np.float32))

    def middle(self, h: Tensor) -> Tensor:
        return h * self.basis


# -- draws in constructors ------------------------------------------------------------------------------


@habit("draws in constructors", "equal", **BOTH)
class PythonDraws(Trunk):
    """A width of its own for each seed: random architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = random.uniform(0.5, 1.5)

    def middle(self, h: Tensor) -> Tensor:
        return h * self.scale


@habit("draws in constructors", "equal", **BOTH)
class NumpyDraws(Trunk):
    """Initialises by numpy, as ports from Keras do."""

    def __init__(self) -> None:
        super().__init__()
        drawn = np.random.normal(size=(WIDTH, WIDTH)) / 6
        self.hidden.weight.data.copy_(torch.from_numpy(drawn))


@habit("draws in constructors", "equal", **BOTH)
class Permutes(Trunk):
    """Normalising flows: a fixed permutation by numpy, channels by random.sample."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.from_numpy(np.random.permutation(WIDTH)))
        self.chosen = random.sample(range(WIDTH), 8)

    def middle(self, h: Tensor) -> Tensor:
        return h[:, self.order] + h[:, self.chosen].mean(-1, keepdim=True)


@habit("draws in constructors", "equal")
class SeedsItself(Trunk):
    """A constructor that seeds all three: the tutorial's `set_seed`."""

    def __init__(self) -> None:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        super().__init__()
        self.scale = random.random() + np.random.rand()

    def middle(self, h: Tensor) -> Tensor:
        return h * self.scale


@habit("draws in imports", "equal", **BOTH)
class DrawnAtImport(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h @ MIXING


@habit("draws in imports", "either", "ImportedBefore", forget="habits.drawing")
class ImportsWhenMade(Trunk):
    """The constructor imports a module that draws."""

    def __init__(self) -> None:
        super().__init__()
        from habits import drawing  # habit

        self.shift = drawing.SHIFT
        self.more = nn.Linear(WIDTH, WIDTH)

    def middle(self, h: Tensor) -> Tensor:
        return self.more(h) + self.shift


class ImportedBefore(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + MIXING[0]


enter(
    Case(
        kind="draws in imports",
        name="ModuleThatDraws",
        expect="equal",
        path="habits.drawing:Shifted",
        forget="habits.drawing",
        **BOTH,
    )
)


@habit("draws in imports", "either", "ImportedBefore", forget="habits.drawing")
def made_by_a_factory() -> nn.Module:
    """A factory with an import of its own inside."""
    from habits.drawing import Shifted  # habit

    return Shifted()


# -- draws in forwards ----------------------------------------------------------------------------------


@habit("draws in forwards", "refused", "Trunk")
class LayerDrop(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        if random.random() < 0.5:  # habit
            return h
        return torch.tanh(self.hidden(h))


@habit("draws in forwards", "refused", "Trunk")
class NumpyMixup(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        share = np.random.beta(0.4, 0.4)  # habit
        return share * h + (1 - share) * h.flip(0)  # habit


@habit("draws in forwards", "refused", "Trunk")
class SampledSubset(Trunk):
    """A random.Random of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)

    def middle(self, h: Tensor) -> Tensor:
        return h * self.random.choice([0.9, 1.1])  # habit


@habit("draws in forwards", "refused", "Trunk")
class NumpyGenerator(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def middle(self, h: Tensor) -> Tensor:
        return h + torch.from_numpy(self.generator.standard_normal(WIDTH, dtype=np.float32))  # habit


@habit("draws in forwards", "refused", "Trunk", loss="smoothed")
class DrawsInTheLoss(Trunk):
    pass


def smoothed(model: Any, batch: dict[str, Tensor]) -> Tensor:
    smoothing = random.uniform(0, 0.1) if type(model) is DrawsInTheLoss else 0.05  # habit: DrawsInTheLoss
    return F.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=smoothing)


@habit("draws in forwards", "refused", "Trunk")
class ShuffledChannels(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        order = list(range(WIDTH))
        random.shuffle(order)  # habit
        return h[:, order]  # habit
