"""Torch's activation checkpointing around what keeps state: statistics as the plain loop has them."""

from __future__ import annotations

import torch
from habits.harness import WIDTH, Trunk, habit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())


class Blocks(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(block(), block())

    def middle(self, h: Tensor) -> Tensor:
        return self.blocks(h)


@habit("checkpointed batch norm", "equal", microbatches=2)
class NonReentrant(Blocks):
    def middle(self, h: Tensor) -> Tensor:
        for each in self.blocks:
            h = checkpoint(each, h, use_reentrant=False)
        return h


@habit("checkpointed batch norm", "equal")
class Reentrant(Blocks):
    def middle(self, h: Tensor) -> Tensor:
        for each in self.blocks:
            h = checkpoint(each, h, use_reentrant=True)
        return h


@habit("checkpointed batch norm", "equal", budget_bytes=40_000)
class Sequential(Blocks):
    def middle(self, h: Tensor) -> Tensor:
        return checkpoint_sequential(self.blocks, 2, h, use_reentrant=False)


@habit("checkpointed batch norm", "equal")
class DenseLayer(Blocks):
    """torchvision's DenseNet: a closure over the block, without the state of generators."""

    def middle(self, h: Tensor) -> Tensor:
        def closure(*inputs: Tensor) -> Tensor:
            return self.blocks[1](torch.cat(inputs, 1)[:, :WIDTH]) + self.blocks[0](inputs[1])

        return checkpoint(closure, h, torch.tanh(h), use_reentrant=False, preserve_rng_state=False)


@habit("checkpointed batch norm", "equal")
class Nested(Blocks):
    """A checkpoint within a checkpoint: its forward runs three times."""

    def inner(self, h: Tensor) -> Tensor:
        return checkpoint(self.blocks[1], h, use_reentrant=False)

    def middle(self, h: Tensor) -> Tensor:
        return checkpoint(lambda value: self.inner(self.blocks[0](value)), h, use_reentrant=False)


@habit("checkpointed batch norm", "equal")
class CumulativeAverage(Trunk):
    """momentum=None: the factor comes from the number of batches tracked."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH, momentum=None)

    def middle(self, h: Tensor) -> Tensor:
        return checkpoint(self.norm, h, use_reentrant=False)


@habit("checkpointed batch norm", "equal")
class StatisticsOfItsOwn(Trunk):
    """A buffer that is updated by hand, in a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def normalised(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(h.mean(0), 0.1)
        return torch.tanh(self.hidden(h - self.mean))

    def middle(self, h: Tensor) -> Tensor:
        return checkpoint(self.normalised, h, use_reentrant=False)
