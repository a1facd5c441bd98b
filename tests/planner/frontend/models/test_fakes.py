"""Constructors that look at values, under fake tensors."""

from __future__ import annotations

import pytest
import torch
from support.whole import whole_job
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from hydraplan.planner.frontend.models.fakes import making_fakes, without_values
from hydraplan.planner.frontend.models.loading import Loaded
from hydraplan.planner.frontend.models.model import Loss
from hydraplan.planner.frontend.tracing import trace as tracing
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.errors import TraceError


class Rates(nn.Module):
    """As vision models are made: rates of a ramp, and truncated normal weights."""

    def __init__(self) -> None:
        super().__init__()
        rates = [each.item() for each in torch.linspace(0, 0.5, 3)]
        assert rates == [0.0, 0.25, 0.5]
        assert [each.tolist() for each in torch.linspace(0, 0.5, 3).split([1, 2])] == [[0.0], [0.25, 0.5]]
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in rates)
        for layer, rate in zip(self.layers, rates, strict=True):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            layer.scale = 1 - rate
        self.register_buffer("ramp", torch.linspace(0, 1, 16))

    def forward(self, value: Tensor) -> Tensor:
        value = value + self.ramp
        for layer in self.layers:
            value = value + layer.scale * layer(value)
        return value


def made(monkeypatch: pytest.MonkeyPatch, model: type[nn.Module]) -> TracedGraph:
    """The traced graph of a model whose loss is the mean of what it returns."""
    monkeypatch.setattr(tracing, "make_loss", lambda job: Loss(Loaded(model=model()), mean, "fp32").train())
    return trace(whole_job("support.models:Skips", {}, name="made"), {"value": torch.zeros(2, 16)})


def mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["value"]).mean()


def test_values_that_a_constructor_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = made(monkeypatch, Rates)
    assert {each.name for each in graph.placeholders} >= {"layers.0.weight", "layers.2.bias", "ramp"}


def test_without_them_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "making_fakes", lambda: FakeTensorMode(allow_non_fake_inputs=True))
    with pytest.raises(TraceError, match="making model"):
        made(monkeypatch, Rates)


def test_values_are_forgotten() -> None:
    with making_fakes():
        model = Rates()
    assert model.ramp.constant is not None
    without_values(model.ramp)
    assert model.ramp.constant is None
    without_values(torch.zeros(1))  # a real one keeps them


def test_initialisers_are_as_before_afterwards() -> None:
    before = nn.init._no_grad_trunc_normal_
    with making_fakes():
        assert nn.init._no_grad_trunc_normal_ is not before
    assert nn.init._no_grad_trunc_normal_ is before
