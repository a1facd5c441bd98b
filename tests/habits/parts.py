"""Parts in eval mode: each stays as its constructor left it; a root in eval mode is set to train as a whole."""

from __future__ import annotations

from typing import Any

import torch
from habits.harness import WIDTH, Trunk, habit
from torch import Tensor, nn


def backbone() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Dropout(0.5))


@habit("eval parts", "equal", microbatches=2)
class FrozenBackbone(Trunk):
    """Transfer learning: frozen and in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone().eval().requires_grad_(False)
        self.backbone[1].running_mean.uniform_(-1, 1)

    def middle(self, h: Tensor) -> Tensor:
        return self.backbone(h)


@habit("eval parts", "equal")
class FrozenStatistics(Trunk):
    """Detection: batch norms alone in eval mode, their weights are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
        for each in self.modules():
            if isinstance(each, nn.BatchNorm1d):
                each.eval()

    def middle(self, h: Tensor) -> Tensor:
        return self.block(h)


@habit("eval parts", "equal")
class NoDropoutInOneOfTwo(Trunk):
    """`training` set by hand, deep inside; the batch norm beside it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"still": backbone(), "live": nn.BatchNorm1d(WIDTH)})
        self.parts["still"][3].training = False

    def middle(self, h: Tensor) -> Tensor:
        return self.parts["live"](self.parts["still"](h))


@habit("eval parts", "equal")
class StaysInEval(Trunk):
    """A backbone whose `train` does nothing: torchvision's and mmdetection's `norm_eval`."""

    class Backbone(nn.Sequential):
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.Backbone(*backbone())
        self.backbone.train()

    def middle(self, h: Tensor) -> Tensor:
        return self.backbone(h)


@habit("eval parts", "equal")
class AsksForItsMode(Trunk):
    """A part that computes something else in eval mode."""

    class Part(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h * 2 if self.training else h.flip(-1)

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([self.Part(), self.Part().eval()])

    def middle(self, h: Tensor) -> Tensor:
        return self.parts[1](self.parts[0](h))


@habit("eval parts", "equal")
class TrainOfTheRootIsItsOwn(Trunk):
    """The root's `train` puts the backbone to eval each time (the idiom of lightning and detectron)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.train()

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.backbone.eval()
        return self

    def middle(self, h: Tensor) -> Tensor:
        return self.backbone(h)


@habit("eval roots", "equal", microbatches=2)
class RootInEval(Trunk):
    """As `from_pretrained` leaves a model: the whole is set to train."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.eval()

    def middle(self, h: Tensor) -> Tensor:
        return self.norm(h)


@habit("eval roots", "equal")
def loaded() -> nn.Module:
    """A factory that loads and sets to eval, out of habit."""
    model = RootInEval().eval()
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    return model


@habit("eval roots", "equal")
class RootInEvalPartTrains(Trunk):
    """A root in eval mode with one part in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH)])
        self.eval()
        self.norms[0].train()

    def middle(self, h: Tensor) -> Tensor:
        return self.norms[1](torch.tanh(self.norms[0](h)))


@habit("eval roots", "equal")
class RootInEvalWithItsOwnTrain(Trunk):
    """A root in eval mode whose `train` leaves the backbone in eval: set to train as its user would, by calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.eval()

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.backbone.eval()
        return self

    def middle(self, h: Tensor) -> Tensor:
        return self.backbone(h)
