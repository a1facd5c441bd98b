"""What code is told that asks whether it is being traced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from support.whole import whole_job
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from hydraplan.planner.frontend.models.loading import Loaded
from hydraplan.planner.frontend.models.model import Loss
from hydraplan.planner.frontend.tracing import trace as tracing
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.tracing.unnoticed import unnoticed


def is_compiling() -> bool:
    return torch.compiler.is_compiling()


def is_exporting() -> bool:
    return torch.compiler.is_exporting()


def is_compiling_by_its_old_name() -> bool:
    return torch._dynamo.external_utils.is_compiling()


def is_fake() -> bool:
    with FakeTensorMode():
        return isinstance(torch.zeros(2), torch._subclasses.FakeTensor)


@pytest.fixture
def tracing_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "_is_compiling_flag", True)
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)


@pytest.mark.usefixtures("tracing_now")
@pytest.mark.parametrize("ask", [is_compiling, is_exporting, is_compiling_by_its_old_name, is_fake])
def test_all_are_told_no_but_torch(ask: Callable[[], bool]) -> None:
    inside_torch = type(ask)(ask.__code__, globals() | {"__name__": "torch.nn.functional"})
    assert ask()
    with unnoticed():
        assert not ask()
        assert inside_torch()
    assert ask()


def test_what_is_imported_meanwhile_keeps_the_truth() -> None:
    found: dict[str, object] = {"__name__": "user"}
    with unnoticed():
        exec("from torch._subclasses import FakeTensor", found)
        with pytest.raises(AttributeError, match="Nothing"):
            torch._subclasses.Nothing  # noqa: B018
    assert found["FakeTensor"] is torch._subclasses.FakeTensor


class Asks(nn.Module):
    """Another operator where it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, value: Tensor) -> Tensor:
        value = self.linear(value)
        return torch.sin(value) if torch.compiler.is_exporting() else torch.cos(value)


class Reads(Asks):
    """Looks at values that nobody knows before it runs, but not where it is traced."""

    def forward(self, value: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and (self.linear(value) > 0).all():
            return self.linear(value)
        return super().forward(value)


def operators(graph: TracedGraph) -> set[str]:
    return {str(node.target) for node in graph.nodes}


def made(monkeypatch: pytest.MonkeyPatch, model: type[nn.Module]) -> set[str]:
    monkeypatch.setattr(tracing, "make_loss", lambda job: Loss(Loaded(model=model()), mean, "fp32").train())
    return operators(trace(whole_job("support.models:Skips", {}, name="made"), {"value": torch.zeros(2, 4)}))


def mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["value"]).mean()


def test_the_graph_is_that_of_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "aten.cos.default" in made(monkeypatch, Asks)
    monkeypatch.setattr(tracing, "unnoticed", nullcontext)
    assert "aten.sin.default" in made(monkeypatch, Asks)


def test_a_model_that_reads_values_where_it_is_not_traced_is_told_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "aten.sin.default" in made(monkeypatch, Reads)
