"""Every model that is refused is refused at `plan`, with module, line and remedy.

One row for each kind of refusal; `planner/frontend/` has tests of the details. What is no model at all, or no data, is
the workload's mistake: tests/planner/workloads/test_file.py, tests/planner/frontend/users.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.varied import varied_job
from support.whole import cluster, whole_job
from torch import Tensor, nn
from torch.autograd import Function

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.frontend.tracing import trace
from hydraplan.plans.language.errors import HydraplanError, InfeasibleError, TraceError
from hydraplan.plans.language.workload import Job, Precision, Target, Workload

WIDTH = 16


# -- what forwards do that no plan can ------------------------------------------------------------------


def branches(inner: Inner, value: Tensor) -> Tensor:
    return value * 2 if value.sum() > 0 else value


def reads_a_number(inner: Inner, value: Tensor) -> Tensor:
    return value * value.sum().item()


def shapes_by_value(inner: Inner, value: Tensor) -> Tensor:
    return value + inner.layer(value)[value > 0].mean()


def shapes_by_place(inner: Inner, value: Tensor) -> Tensor:
    return value + value[(value > 0).nonzero()[:, 0]].mean()


def packs(inner: Inner, value: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(value, torch.tensor([8, 4, 4, 2]), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0]


def leaves_torch(inner: Inner, value: Tensor) -> Tensor:
    return value + torch.from_numpy(value.detach().numpy())


def chooses_a_graph(inner: Inner, value: Tensor) -> Tensor:
    return torch.cond(value.sum() > 0, lambda each: each * 2, lambda each: each * 3, (value,))


def maps(inner: Inner, value: Tensor) -> Tensor:
    return torch.func.vmap(inner.layer)(value)


def multiplies_sparse(inner: Inner, value: Tensor) -> Tensor:
    return value + torch.sparse.mm(torch.eye(WIDTH).to_sparse(), value[0].T).T


def draws_by_itself(inner: Inner, value: Tensor) -> Tensor:
    return value + torch.rand(WIDTH, generator=torch.Generator())


def seeds(inner: Inner, value: Tensor) -> Tensor:
    torch.manual_seed(0)
    return value + torch.rand(WIDTH)


def draws_in_a_kernel(inner: Inner, value: Tensor) -> Tensor:
    query = value.unsqueeze(1)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, query, query, 0.5)[0].squeeze(1)


def hooks_a_gradient(inner: Inner, value: Tensor) -> Tensor:
    value = value * 2
    value.register_hook(torch.neg)
    return value


def derives(inner: Inner, value: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(value.square().sum(), value, create_graph=True)
    return slope


def updates_a_parameter(inner: Inner, value: Tensor) -> Tensor:
    with torch.no_grad():
        inner.scale.mul_(0.9)
    return value * inner.scale


def reshapes_a_buffer(inner: Inner, value: Tensor) -> Tensor:
    inner.mean = value.detach()
    return value


def trains_a_buffer(inner: Inner, value: Tensor) -> Tensor:
    inner.get_buffer("mean").add_(value.mean((0, 1)))
    return value * inner.get_buffer("mean")


def mixes_types(inner: Inner, value: Tensor) -> Tensor:
    return inner.layer(value + inner.get_buffer("mean"))


class Noisy(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value + torch.rand_like(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def draws_in_a_function(inner: Inner, value: Tensor) -> Tensor:
    return Noisy.apply(value)


@torch.library.custom_op("hydraplan_refused::forward_only", mutates_args=())
def forward_only(value: Tensor) -> Tensor:
    return value * 2


@torch.library.custom_op("hydraplan_refused::unknown", mutates_args=())
def unknown(value: Tensor) -> Tensor:
    return value * 2


@torch.library.custom_op("hydraplan_refused::exits_backward", mutates_args=())
def exits_backward(value: Tensor) -> Tensor:
    return value * 2


forward_only.register_fake(lambda value: torch.empty_like(value))


exits_backward.register_fake(lambda value: torch.empty_like(value))
exits_backward.register_autograd(lambda ctx, gradient: sys.exit(3))


def exits_in_a_backward(inner: Inner, value: Tensor) -> Tensor:
    return exits_backward(value)


def has_no_backward(inner: Inner, value: Tensor) -> Tensor:
    return forward_only(value)


def has_no_form(inner: Inner, value: Tensor) -> Tensor:
    return unknown(value)


def fails(inner: Inner, value: Tensor) -> Tensor:
    return value @ inner.layer.weight[:3]


# -- what else is refused -------------------------------------------------------------------------------


def hooked(inner: Inner, value: Tensor) -> Tensor:
    return value


def turned(gradient: Tensor) -> Tensor:
    return -gradient


def does_not_fit(inner: Inner, value: Tensor) -> Tensor:
    raise AssertionError("its constructor fails")


def unreduced(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.mse_loss(model(batch["tokens"]), batch["target"], reduction="none").flatten()


class Inner(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("mean", torch.zeros(WIDTH))
        if kind == "does_not_fit":
            raise ValueError("no such size")
        if kind == "module hook":
            self.register_full_backward_hook(lambda *_: None)
        if kind == "parameter hook":
            self.scale.register_hook(turned)

    def forward(self, value: Tensor) -> Tensor:
        function = globals().get(self.kind, hooked)
        made: Tensor = function(self, torch.tanh(value))
        return made


class Outer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.inner = Inner(kind)
        if kind == "frozen":
            self.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        made: Tensor = self.inner(self.embed(tokens))
        return made


class ByLength(nn.Module):
    """Does something else where a batch is short."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)

    def forward(self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor) -> Any:
        value = self.embed(input_ids)
        value = value.relu() if input_ids.shape[1] > 6 else value
        return type("Output", (), {"loss": value.square().mean()})()


@dataclass(frozen=True, kw_only=True)
class Case:
    says: str
    remedy: str
    module: str = "inner"
    at: Callable[..., Any] | type | None = None
    """Where the line has to be; None: in the function of the case's name, or where the module's forward calls it (of an
    operator, torch notes the line of its module's forward)."""
    precision: Precision = "fp32"
    loss: str = "support.models:squared_error"


VALUES = "use torch.where or masks, or move it into the data set"
SEED = "leave it out: what a forward draws follows from the job's seed"
FUNCTION = "use a torch.autograd.Function"

CASES = {
    "branches": Case(says="data-dependent", remedy=VALUES),
    "reads_a_number": Case(says="numbers depend on values of tensors (by aten.item.default)", remedy=VALUES),
    "shapes_by_value": Case(says="sizes or numbers depend on values", remedy=VALUES),
    "shapes_by_place": Case(says="sizes or numbers depend on values", remedy=VALUES),
    "packs": Case(says="data-dependent", remedy=VALUES),
    "leaves_torch": Case(says=".numpy() is not supported", remedy="the forward has to run under torch.export"),
    "chooses_a_graph": Case(says="the operator cond holds a graph", remedy="torch.where for torch.cond"),
    "maps": Case(says="the forward uses torch.func (vmap", remedy="write it with operators over whole batches"),
    "multiplies_sparse": Case(says="makes a sparse tensor", remedy="use dense tensors"),
    "draws_by_itself": Case(says="rand draws from a generator of the model's own", remedy=SEED),
    "seeds": Case(says="the forward seeds the process-wide generator (0)", remedy=SEED),
    "draws_in_a_kernel": Case(says="takes no generator", remedy="use dropout, or draw the numbers in the data set"),
    "hooks_a_gradient": Case(says="a hook on a tensor's gradient", remedy=FUNCTION),
    "updates_a_parameter": Case(says="updates parameter 'inner.scale'", remedy="register it as a buffer, or write"),
    "reshapes_a_buffer": Case(says="to buffer 'mean'", remedy="assign a tensor of the buffer's type and shape"),
    "trains_a_buffer": Case(says="keeps its gradient", remedy="update it under torch.no_grad()"),
    "mixes_types": Case(
        says="linear gets values of float32 and bfloat16",
        remedy="convert one of them there",
        module="inner.layer",
        precision="bf16",
    ),
    "draws_in_a_function": Case(says="the forward of Noisy draws", remedy="draw them outside, and pass them as an"),
    "derives": Case(says="the forward calls torch.autograd.grad", remedy=FUNCTION),
    "exits_in_a_backward": Case(says="it called sys.exit(3)", remedy="let it raise an error that says why"),
    "has_no_backward": Case(says="no autograd formula", remedy="torch.library.register_autograd"),
    "has_no_form": Case(says="no fake impl", remedy="torch.library.register_fake"),
    "fails": Case(says="RuntimeError", remedy="the forward has to run under torch.export"),
    "module hook": Case(says="the module has backward hooks", remedy=FUNCTION, at=Outer),
    "parameter hook": Case(says="parameter 'scale' has a hook", remedy=FUNCTION, at=turned),
    "does_not_fit": Case(says="ValueError: no such size", remedy="check the arguments in", module="Inner", at=Inner),
    "frozen": Case(says="one number with a gradient", remedy="train at least one parameter", module=""),
    "vector": Case(says="has shape (512,)", remedy="return a mean or a sum", module="", loss="unreduced"),
}


def job_of(kind: str) -> Job:
    case = CASES[kind]
    job = whole_job(f"{__name__}:Outer", {"kind": kind}, name="a", precision=case.precision)
    data = Target(path="support.whole:rows", arguments=(("length", 8), ("target", True)))
    return replace(job, data=data, loss=Target(path=case.loss if ":" in case.loss else f"{__name__}:{case.loss}"))


def refusal(job: Job, budget_bytes: int = 1 << 30) -> HydraplanError:
    with pytest.raises(HydraplanError) as caught:
        plan(Workload(cluster=cluster(1, budget_bytes=budget_bytes), jobs=(job,)), solver=SolverOptions(effort=1000))
    return caught.value


@pytest.mark.parametrize("kind", CASES)
def test_a_refusal_says_where_and_what_to_do(kind: str) -> None:
    case = CASES[kind]
    error = refusal(job_of(kind))
    message = str(error)
    assert isinstance(error, TraceError)
    assert "\n" not in message
    assert message.startswith("job a: ")
    assert case.says in message
    assert case.remedy in message
    if case.module:
        assert f"module {case.module} " in message.replace("'", "")
    found = re.findall(r"([\w.]+\.py):(\d+)", message)
    assert found
    where = case.at or globals().get(kind)
    if where is None or case.module == "inner.layer":  # a line of torch's or of hydraplan's own
        return
    places = [inspect.getsourcelines(each) for each in ((case.at,) if case.at else (where, Inner.forward))]
    lines = {first + number for text, first in places for number in range(len(text))}
    assert any(file == "test_refusals.py" and int(line) in lines for file, line in found), message


def test_what_is_no_tensor_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not reached by a generator, which is refused before; by whatever torch.export lifts out of a model one day."""
    monkeypatch.setattr(trace, "generators_refused", pytest.MonkeyPatch.context)
    message = str(refusal(job_of("draws_by_itself")))
    assert re.search(r"job a: module inner \(.*test_refusals\.py:\d+\): the forward uses .*custom_obj", message)
    assert "make a tensor of it, a buffer or a value of the batch" in message


def test_buckets_that_a_model_treats_differently_are_refused() -> None:
    message = str(refusal(varied_job(f"{__name__}:ByLength", {}, name="a")))
    assert re.search(r"job a: lengths: the model \(.*test_refusals\.py:\d+\): bucket 6 has", message)
    assert "leave out bucket 6, or take from the model's code what depends on the length" in message


def test_a_layer_too_large_for_any_device_is_refused_by_its_largest_tensor() -> None:
    error = refusal(whole_job("support.models:Skips", {"width": 16}, name="a"), budget_bytes=2000)
    assert isinstance(error, InfeasibleError)
    assert re.search(r"a fits no device: .*whose largest tensor is \S+ \(\d.*\), needs about", str(error))
    assert error.missing_bytes > 0
    assert "raise the budget, or use more microbatches" in str(error)
