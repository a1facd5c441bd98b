"""What makes any model hard, case by case: a whole run has the right bits, and a naive hydraplan has not.

Each row below is a tiny model, cut into up to eight shards, under drawn lists; where it has one microbatch and draws
nothing the plain loop is the measure, else a run of the graph in one piece. Other hard cases have files of their own:

    dropout of every kind, under recompute, in attention     planner/frontend/test_random_operators.py
    custom autograd functions                                planner/frontend/test_functions.py
    buffers over microbatches and devices                    acceptance/test_buffers.py
    the rules of EXACTNESS.md one by one                     planner/frontend/test_exactness_rules.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.drawn import Coverage, draw_phase
from support.whole import Result, cluster, facts_of, plain_loop, plan_of, read_result, whole_job
from torch import Tensor, nn
from torch.fx import Node

from planner import SolverOptions, plan
from planner.frontend import cell, cuts, gradients, keyed, operators, slices, trace
from planner.frontend.build import Known, build
from planner.frontend.data import open_data
from planner.frontend.program import BackwardResult, BuiltModel, ForwardResult
from planner.frontend.traced import TracedGraph
from plans.errors import InfeasibleError
from plans.workload import Job, Target, Workload
from runtime import execute, prepare

WIDTH = 8
ROWS = 16


# -- models ---------------------------------------------------------------------------------------------


class Samples:
    """Rows of every kind of value that the models below read."""

    def __init__(self, names: Sequence[str]) -> None:
        draw = torch.Generator().manual_seed(3)
        every = {
            "image": torch.randn(ROWS, 2, 8, 8, generator=draw),
            "left": torch.randn(ROWS, WIDTH, generator=draw),
            "right": torch.randn(ROWS, WIDTH, generator=draw),
            "tokens": torch.randint(0, 12, (ROWS, 6), generator=draw),
            "weight": torch.rand(ROWS, generator=draw, dtype=torch.float64),
            "seen": torch.rand(ROWS, 6, generator=draw) > 0.4,
        }
        self.values = {name: every[name] for name in names}

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.values.items()}


def samples(names: Sequence[str]) -> Samples:
    return Samples(names)


def scored(value: Tensor) -> SimpleNamespace:
    """What transformers' models return: something with a loss."""
    return SimpleNamespace(loss=value.square().mean())


class UNet(nn.Module):
    """Skips over all that lies between the way down and the way up; convolutions, batch norm, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(8)])
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 4, 2, 2), nn.ConvTranspose2d(8, 2, 2, 2)])

    def forward(self, image: Tensor) -> SimpleNamespace:
        value, skips = image, []
        for layer, norm in zip(self.down, self.norms, strict=True):
            value = F.max_pool2d(F.relu(norm(layer(value)), inplace=True), 2)
            skips.append(value)
        value = torch.tanh(self.middle(value))
        for layer in self.up:
            value = layer(torch.cat([value, skips.pop()], 1))
        return scored(value - image)


class Outputs(nn.Module):
    """Several outputs, several losses: one is made early and added at the end; an operator with two results."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 12) for _ in range(3))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        value, logits = self.embed(tokens), []
        for layer, head in zip(self.body, self.heads, strict=True):
            value = torch.tanh(layer(value)) + value
            logits.append(head(value))
        top, place = value.max(-1)
        return {"early": logits[0], "late": logits[-1], "between": logits[1], "top": top, "place": place}


def of_all_outputs(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    made = model(batch["tokens"])
    losses = [F.cross_entropy(made[name].flatten(0, 1), batch["tokens"].flatten()) for name in ("early", "between")]
    return losses[0] * 0.3 + losses[1] * 0.2 + made["late"].square().mean() + (made["top"] * made["place"]).mean()


class Kinds(nn.Module):
    """Integers, booleans, doubles, transposed and expanded values, all made of weights, all read much later."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        first = self.embed(tokens)
        chosen, positive = first.argmax(-1), first > 0
        turned, wide, exact = first.transpose(0, 2), self.scale.expand_as(first), first.double().cumsum(1)
        value = first
        for layer in self.body:
            value = torch.tanh(layer(value))
        value = torch.where(positive, value * wide, value.gather(-1, chosen.unsqueeze(-1)))
        return scored(value + turned.sum(1).T.unsqueeze(1) + (exact * value).float())


class Writes(nn.Module):
    """In-place operators on memory that views made before read after."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            canvas = value * 0
            row = canvas[:, 1:4]
            canvas[:, 2:] = layer(value)[:, 2:]
            row.mul_(2).add_(value[:, 1:4])
            canvas[..., ::2] *= 0.5
            value = torch.tanh(canvas) + row.sum(1, keepdim=True)
        return scored(value)


class Still(nn.Module):
    """Parameters that get no gradient though they could: read under no_grad, detached, or multiplied away."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH)
        self.teacher = nn.Linear(WIDTH, WIDTH)
        self.offset = nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        with torch.no_grad():
            aim = self.teacher(value)
        return scored(torch.tanh(self.body(value)) - aim + self.offset.detach())


class Mixture(nn.Module):
    """Each token goes to two of four experts; gates and places are read by every expert."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.router = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 6), nn.GELU(), nn.Linear(6, WIDTH)) for _ in "1234")

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens).flatten(0, 1)
        gates, places = self.router(value).softmax(-1).topk(2)
        result = torch.zeros_like(value)
        for number, expert in enumerate(self.experts):
            gate = (gates * (places == number)).sum(-1, keepdim=True)
            result = result + expert(value) * gate
        spread = F.one_hot(places, 4).float().mean((0, 1)) * gates.mean()
        return SimpleNamespace(loss=(result - value).square().mean() + spread.square().sum())


class Inputs(nn.Module):
    """Several inputs of several types, each read somewhere else, two of one form."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens: Tensor, seen: Tensor, right: Tensor, left: Tensor, weight: Tensor) -> SimpleNamespace:
        value = torch.tanh(self.body[0](right))
        value = torch.tanh(self.body[1](value - left * right))
        words = self.body[2](self.embed(tokens)).masked_fill(~seen.unsqueeze(-1), 0.0).sum(1)
        each = (value * words + left).square().mean(-1)
        return SimpleNamespace(loss=(each.double() * weight).mean().float())


class Constants(nn.Module):
    """A buffer that no state_dict holds, a plain attribute, a literal in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("frequency", torch.linspace(1, 2, WIDTH), persistent=False)
        self.shift = torch.linspace(-1, 1, WIDTH)

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens) * torch.sin(self.get_buffer("frequency"))
        return scored(self.body(value + self.shift) * torch.tensor([1.0, 2.0]).repeat(WIDTH // 2))


class Recurrent(nn.Module):
    """Two LSTMs; states and outputs both go on."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.first = nn.LSTM(WIDTH, WIDTH, batch_first=True, num_layers=2)
        self.second = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value, (state, _) = self.first(self.embed(tokens))
        value = self.second(torch.tanh(value) + value)[0]
        return scored(value + state[-1].unsqueeze(1))


class Tied(nn.Module):
    """One weight is the first and the last, and a layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.twice = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 12, bias=False)
        self.last.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = torch.tanh(self.twice(self.embed(tokens)))
        logits = self.last(torch.tanh(self.twice(value)))
        return SimpleNamespace(loss=F.cross_entropy(logits.flatten(0, 1), tokens.flatten()))


class Dropped(nn.Module):
    """Dropout, in attention too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = F.dropout(self.embed(tokens), 0.2)
        for layer in self.body:
            query, key, mixed = layer(value).chunk(3, -1)
            value = value + F.scaled_dot_product_attention(query, key, mixed, dropout_p=0.3)
        return scored(value)


@torch.library.custom_op("hydraplan_tests::bent", mutates_args=())
def bent(value: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    positive = value > 0
    return torch.where(positive, value, value * slope), positive


@bent.register_fake
def _(value: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(value), torch.empty_like(value, dtype=torch.bool)


def _remember(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.slope = inputs[1]
    ctx.save_for_backward(inputs[0])
    ctx.mark_non_differentiable(output[1])


def _unbend(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
    (value,) = ctx.saved_tensors
    return torch.where(value > 0, gradient, gradient * ctx.slope), None


bent.register_autograd(_unbend, setup_context=_remember)


@torch.library.custom_op("hydraplan_tests::accumulate", mutates_args=("total",))
def accumulate(total: Tensor, value: Tensor) -> None:
    total.add_(value)


@accumulate.register_fake
def _(total: Tensor, value: Tensor) -> None:
    return None


class Registered(nn.Module):
    """Operators of the user's own: one with a backward and two results, one that writes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, WIDTH)
        self.body = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("total", torch.zeros(WIDTH))

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        value = self.embed(tokens)
        for layer in self.body:
            value, positive = torch.ops.hydraplan_tests.bent(layer(value), 0.1)
            value = value + positive * 0.1
            torch.ops.hydraplan_tests.accumulate(self.get_buffer("total"), value.detach().mean((0, 1)))
        return scored(value)


class Wide(nn.Module):
    """One module that is nearly all of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 64)
        self.wide = nn.Sequential(*(nn.Linear(64, 64) for _ in range(12)))

    def forward(self, left: Tensor) -> SimpleNamespace:
        return scored(self.wide(self.first(left)))


# -- naive versions -------------------------------------------------------------------------------------

Patch = pytest.MonkeyPatch


def last_gradient_wins(patch: Patch) -> None:
    """A skip's gradient is what the shard next to its producer makes: what came from far ahead is overwritten."""
    real = cell.EagerShard.backward
    patch.setattr(cell.EagerShard, "backward", lambda self, **given: real(self, **given | {"running": {}}))


def one_output_at_a_time(patch: Patch) -> None:
    """A backward for each output, the gradients added up afterwards."""
    real = torch.autograd.grad

    def grad(ends: Sequence[Any], wanted: Any, incoming: Sequence[Tensor], **options: Any) -> tuple[Tensor | None, ...]:
        total: list[Tensor | None] = [None] * len(wanted)
        for end, gradient in zip(ends, incoming, strict=True):
            for number, made in enumerate(real([end], wanted, [gradient], retain_graph=True, **options)):
                before = total[number]
                total[number] = made if before is None or made is None else before + made
        return tuple(total)

    patch.setattr(torch.autograd, "grad", grad)


def all_values_alike(patch: Patch) -> None:
    """Whatever enters a shard takes part in autograd."""
    patch.setattr(cell, "_leaf", lambda argument, requires_grad: argument.data.requires_grad_(True))


def dense_values(patch: Patch) -> None:
    """What crosses a cut is made contiguous."""
    real = cell.EagerShard.forward

    def forward(self: cell.EagerShard, **given: Any) -> ForwardResult:
        result = real(self, **given)
        return replace(result, activations={name: each.contiguous() for name, each in result.activations.items()})

    patch.setattr(cell.EagerShard, "forward", forward)


def cuts_anywhere(patch: Patch) -> None:
    patch.setattr(cuts, "_forbidden", lambda *_: set())


def zero_gradients(patch: Patch) -> None:
    """A parameter that no gradient reached is given zeros: its weights decay."""
    real = cell.EagerShard._sorted

    def sort(self: cell.EagerShard, found: tuple[Tensor | None, ...]) -> BackwardResult:
        values = [self.part.arguments[number].value for number in self._gradient_leaves]
        made = (torch.zeros(each.shape) if one is None else one for one, each in zip(found, values, strict=True))
        return real(self, tuple(made) if found else ())

    patch.setattr(cell.EagerShard, "_sorted", sort)


def gates_computed_again(patch: Patch) -> None:
    """What is cheap is computed again, whether it has a gradient or not."""
    real = cuts._is_cheap
    named = ("softmax", "topk", "getitem")
    patch.setattr(cuts, "_is_cheap", lambda node, *rest: node.name.startswith(named) or real(node, *rest))
    cheap = cuts._is_cheap_input
    patch.setattr(cuts, "_is_cheap_input", lambda node, *rest: node.name.startswith("linear") or cheap(node, *rest))


def inputs_by_position(patch: Patch) -> None:
    """A batch is a list: the first value that a shard reads is the first of the batch."""
    real = cell.EagerShard._arguments

    def arguments(self: cell.EagerShard, parameters: Any, inputs: Any, batch: Mapping[str, Tensor], *rest: Any) -> Any:
        names = [each.name for each in self.part.arguments if each.kind == "batch"]
        values = (batch[name] for name in sorted(names))
        return real(self, parameters, inputs, dict(zip(names, values, strict=True)), *rest)

    patch.setattr(cell.EagerShard, "_arguments", arguments)


def only_the_state_dict(patch: Patch) -> None:
    """Weights come from the model's state_dict; what it does not hold is empty."""
    real = prepare.build

    def bare(job: Job, batch: Mapping[str, Tensor], *, known: Known | None) -> tuple[BuiltModel, TracedGraph]:
        model, graph = real(job, batch, known=known)
        saved = set(model.saved_names.values())
        tensors = {name: value if name in saved else torch.zeros_like(value) for name, value in model.tensors.items()}
        return replace(model, tensors=tensors), graph

    patch.setattr(prepare, "build", bare)


def forwards_without_grad_mode(patch: Patch) -> None:
    """A forward whose activations nobody keeps runs as in inference."""
    real = cell.EagerShard.forward

    def quiet(self: cell.EagerShard, arguments: list[Tensor], key: Any) -> Any:
        leaves = [argument.data for argument in arguments]
        with torch.no_grad():
            return self.part.code.function(keyed.Draws(key, self.part.draws), leaves[0].device, *leaves), leaves

    def forward(self: cell.EagerShard, *, keep: bool, **given: Any) -> ForwardResult:
        with pytest.MonkeyPatch.context() as inner:
            if not keep:
                inner.setattr(cell.EagerShard, "_run", quiet)
            return real(self, keep=keep, **given)

    patch.setattr(cell.EagerShard, "forward", forward)


def buffers_that_stay(patch: Patch) -> None:
    """Buffers are constants."""
    real = cell.EagerShard.forward

    def forward(self: cell.EagerShard, *, buffers: Mapping[str, Tensor], **given: Any) -> ForwardResult:
        result = real(self, buffers=buffers, **given)
        return replace(result, buffers={name: buffers[name].clone() for name in result.buffers})

    patch.setattr(cell.EagerShard, "forward", forward)


def one_leaf_for_all_uses(patch: Patch) -> None:
    """autograd adds up the uses of a parameter within a shard: with microbatches, in another order for other cuts."""
    patch.setattr(slices, "site_name", lambda parameter, reader: f"{parameter}@everywhere")


def one_generator_for_all(patch: Patch) -> None:
    patch.setattr(keyed.Draws, "generator", lambda *_: torch.default_generator)


def operators_only_make_values(patch: Patch) -> None:
    """An operator that nobody reads from is left out, though it writes."""
    patch.setattr(operators, "written_arguments", lambda *_: ())


def cuts_between_modules(patch: Patch) -> None:
    """A layer is the smallest thing that can be moved."""
    real = cuts.cut_positions

    def positions(nodes: Sequence[Node], *rest: Any) -> tuple[int, ...]:
        layers = [node.meta["source"].module.split(".")[0] for node in nodes]
        return tuple(each for each in real(nodes, *rest) if layers[each] != layers[each - 1])

    patch.setattr(trace, "cut_positions", positions)


# -- the table ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    model: type[nn.Module]
    inputs: tuple[str, ...] = ("tokens",)
    naive: Callable[[Patch], None]
    traces: bool = False
    """Whether the naive version makes another graph."""
    cuts: int = 7
    microbatches: int = 1
    loss: Callable[..., Tensor] | None = None
    draws: bool = False

    @property
    def job(self) -> Job:
        job = whole_job(f"{__name__}:{self.model.__name__}", {}, name="hard", microbatches=self.microbatches)
        loss = None if self.loss is None else Target(path=f"{__name__}:{self.loss.__name__}")
        data = Target(path=f"{__name__}:samples", arguments=(("names", self.inputs),))
        return replace(job, data=data, loss=loss, steps=2)


CASES = {
    "skips of a U-Net": Case(model=UNet, inputs=("image",), naive=last_gradient_wins),
    "convolutions with batch norm": Case(model=UNet, inputs=("image",), naive=buffers_that_stay, cuts=3),
    "several outputs and losses": Case(model=Outputs, naive=one_output_at_a_time, loss=of_all_outputs),
    "integers and booleans": Case(model=Kinds, naive=all_values_alike, cuts=3),
    "strided values": Case(model=Kinds, naive=dense_values),
    "in-place operators and views": Case(model=Writes, naive=cuts_anywhere, traces=True),
    "parameters without gradient": Case(model=Still, naive=zero_gradients, cuts=1),
    "mixture of experts": Case(model=Mixture, naive=gates_computed_again, traces=True),
    "inputs of several tensors": Case(
        model=Inputs, inputs=("left", "right", "seen", "tokens", "weight"), naive=inputs_by_position, cuts=2
    ),
    "non-persistent buffers and constants": Case(model=Constants, naive=only_the_state_dict, cuts=3),
    "recurrent": Case(model=Recurrent, naive=forwards_without_grad_mode),
    "registered operators": Case(model=Registered, naive=operators_only_make_values, traces=True, cuts=4),
    "tied weights and a layer called twice": Case(model=Tied, naive=one_leaf_for_all_uses, microbatches=4, cuts=3),
    "dropout under recompute": Case(model=Dropped, naive=one_generator_for_all, draws=True, cuts=3),
}

Built = tuple[BuiltModel, TracedGraph]


def built(job: Job) -> Built:
    return build(job, open_data(job).microbatch(0, 0))


def trained(job: Job, made: Built, count: int, directory: Path) -> Result | None:
    """A run of the job's graph under drawn lists, cut at so many positions, evenly spread; None: it failed."""
    positions = made[1].cut_positions
    chosen = sorted({positions[(number + 1) * len(positions) // (count + 1)] for number in range(count)})
    facts = facts_of(job, made[1], tuple(chosen))
    phase = draw_phase(
        job.name,
        facts.layouts[0],
        microbatches=job.microbatches,
        devices=[each.name for each in cluster().devices],
        steps=job.steps,
        random=Random(1),
        coverage=Coverage(),
    )
    failed = execute(plan_of(job, facts, [phase], cluster()), directory).failed
    return None if failed else read_result(directory, job.name)


@pytest.mark.parametrize("name", CASES)
def test_bits_are_right_and_those_of_a_naive_version_are_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    job, made = case.job, built(case.job)
    by_loop = case.microbatches == 1 and not case.draws
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "build", partial(again, Known.of(*made)))  # traced once
        expected = plain_loop(job) if by_loop else trained(job, made, 0, tmp_path / "whole")
        found = trained(job, made, case.cuts, tmp_path / "cut")
    assert found is not None and expected is not None
    assert found.same_bits(expected)

    monkeypatch.setattr(gradients, "_MEMORY", gradients._Memory(64))  # what a naive version finds is forgotten
    if not case.traces:
        monkeypatch.setattr(prepare, "build", partial(again, Known.of(*made)))
    case.naive(monkeypatch)
    try:
        if case.traces:
            made = built(job)
            monkeypatch.setattr(prepare, "build", partial(again, Known.of(*made)))
        if not by_loop:
            expected = trained(job, made, 0, tmp_path / "naive whole")
        naive = trained(job, made, case.cuts, tmp_path / "naive")
    except (RuntimeError, KeyError, AssertionError):  # stopped already while planning
        return
    assert naive is None or expected is None or not naive.same_bits(expected)


def again(shared: Known, job: Job, batch: Mapping[str, Tensor], *, known: Known | None) -> Built:
    """`build` without tracing the job's model anew."""
    return build(job, batch, known=shared)


def test_a_layer_larger_than_the_device_is_cut_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Case(model=Wide, inputs=("left",), naive=cuts_between_modules).job
    layer_bytes = sum(each.numel() * 4 for each in Wide().wide.parameters())

    def planned(budget_bytes: int) -> int:
        workload = Workload(cluster=cluster(1, budget_bytes=budget_bytes), jobs=(job,))
        return plan(workload, solver=SolverOptions(effort=1000)).predictions.devices[0].peak_bytes

    budget = layer_bytes - 1
    assert planned(budget) <= budget
    cuts_between_modules(monkeypatch)
    with pytest.raises(InfeasibleError, match="fits no device"):
        planned(budget)
