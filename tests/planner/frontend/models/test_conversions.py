"""Models that convert themselves while they are made are traced like others, tied names and all."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from support.models import TOKENS, job_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hydraplan.planner.frontend.models.conversions import converting_fake_modules
from hydraplan.planner.frontend.tracing import trace as tracing
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job


class Converting(nn.Module):
    """Made in half precision, then turned to single; two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 16).to(torch.bfloat16)
        self.mix = nn.Linear(16, 16).double()
        self.head = nn.Linear(16, TOKENS, bias=False)
        self.head.weight = self.embed.weight
        self.float().to("cpu")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(tokens)))


def converting() -> Job:
    return job_of(f"{__name__}:Converting", {}, loss=f"{__name__}:mean")


def mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["tokens"]).mean()


BATCH = {"tokens": torch.zeros(2, 4, dtype=torch.long)}


def test_a_converted_model_is_traced() -> None:
    FakeTensorMode.cache_clear()
    graph = trace(converting(), BATCH)
    parameters = {each.node: each for each in graph.placeholders if each.role == "parameter"}
    assert len(parameters) == 3
    for node in graph.graph.nodes:
        if node.name in parameters:
            assert parameters[node.name].trainable
            assert node.meta["val"].dtype == torch.float32


def test_without_help_torch_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, torch has learned it, and `planner.frontend.models.conversions` can go."""
    FakeTensorMode.cache_clear()  # torch remembers a tensor by the first call of an operator with its shapes
    monkeypatch.setattr(tracing, "converting_fake_modules", nullcontext)
    with pytest.raises(TraceError, match="Couldn't swap"):
        trace(converting(), BATCH)


def test_real_modules_are_swapped_as_ever() -> None:
    one, two = torch.ones(2), torch.zeros(2)
    with converting_fake_modules():
        torch.utils.swap_tensors(one, two)
    assert one.tolist() == [0, 0]
