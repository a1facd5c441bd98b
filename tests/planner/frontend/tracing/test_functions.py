"""Custom autograd functions: one node each, the user's own backward, the same bits under any cuts."""

from __future__ import annotations

import random
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from support.models import batch_for, job_of
from support.replay import Trained, plain_loop, replay_of, same_bits
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from hydraplan.planner.costs.forms import ShardForms
from hydraplan.planner.costs.nodes import node_costs
from hydraplan.planner.frontend.shards.build import build
from hydraplan.planner.frontend.shards.program import BuiltModel
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.shards.slices import slices
from hydraplan.planner.frontend.tracing import functions, normalize, trace
from hydraplan.planner.frontend.tracing.examination import Examined
from hydraplan.planner.frontend.tracing.functions import Applied
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job, Value

LOSS = "support.models:squared_error"
STEPS = 3
WIDTH = 16


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class StraightThrough(Function):
    """Rounds; its gradient passes as if it did not."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, levels: int, limit: float | None) -> Tensor:
        ctx.limit = limit
        ctx.save_for_backward(value)
        return torch.round(value * levels) / levels

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        return (gradient if ctx.limit is None else gradient * (value.abs() <= ctx.limit)), None, None


class Split(Function):
    """Several outputs, an integer one without gradient among them; tensors kept on the context by name."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, names: dict[str, Any]) -> tuple[Tensor, Tensor, None, Tensor]:
        ctx.value, ctx.by_name = value, {"weight": weight}
        ctx.factor = names["factor"]
        place = value.argmax(-1)
        ctx.mark_non_differentiable(place)
        return value * weight, place, None, value.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, product: Tensor, _: Tensor, none: None, summed: Tensor) -> tuple[Tensor, Tensor, None]:
        weight = ctx.by_name["weight"]
        both = product * weight * ctx.factor + summed.unsqueeze(-1)
        return both, (product * ctx.value).sum((0, 1)), None


class Scaled(Function):
    """The setup_context style; a gradient that only some inputs need; keyword arguments."""

    @staticmethod
    def forward(value: Tensor, weight: Tensor, power: int = 2) -> Tensor:
        return value * weight**power

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, weight, ctx.power = inputs
        ctx.save_for_backward(value, weight, output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        _, weight, output = ctx.saved_tensors
        to_value = gradient * weight if ctx.needs_input_grad[0] else None
        to_weight = (gradient * output).sum((0, 1)) + weight if ctx.needs_input_grad[1] else None
        return to_value, to_weight, None


class Mixed(nn.Module):
    """Functions side by side with operators, on parameters, activations, batch values, under no_grad and autocast."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))
        self.frozen = nn.Parameter(torch.linspace(1.5, 0.5, WIDTH), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        for number, layer in enumerate(self.layers):
            value = StraightThrough.apply(layer(value), 8, None if number else 0.5)
            product, place, nothing, summed = Split.apply(value, self.weight, {"factor": 0.5})
            assert nothing is None
            value = value + product + summed.unsqueeze(-1) * 0.1 + place.unsqueeze(-1) * 0.01
            value = value + Scaled.apply(layer(value).tanh(), StraightThrough.apply(self.weight, 4, 1.0), power=number)
            value = value + Scaled.apply(value, self.frozen)
            with torch.no_grad():
                gate = StraightThrough.apply(value, 2, 1.0)
            value = (value * gate.sigmoid()).transpose(1, 2).transpose(1, 2)
            value = torch.tanh(StraightThrough.apply(value.transpose(0, 1), 32, 2.0).transpose(0, 1))
        return value


class Quantised(nn.Module):
    """The function alone decides whether the first layer learns at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(StraightThrough.apply(self.embed(tokens), 8, None))


@torch.library.custom_op("hydraplan_functions::squared", mutates_args=())
def squared(value: Tensor) -> Tensor:
    return value * value


squared.register_fake(lambda value: torch.empty_like(value))
squared.register_autograd(
    lambda ctx, gradient: 2 * gradient * ctx.value,
    setup_context=lambda ctx, inputs, output: setattr(ctx, "value", inputs[0]),
)


class Registered(nn.Module):
    """An operator whose context holds its argument by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        for layer in self.layers:
            value = torch.tanh(layer(value) + torch.ops.hydraplan_functions.squared(value))
        return value


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.reentrant = reentrant

    def forward(self, tokens: Tensor) -> Tensor:
        def run(value: Tensor) -> Tensor:
            return torch.tanh(self.layer(value))

        value = self.embed(tokens)
        return value + checkpoint(run, value, use_reentrant=self.reentrant)


def mine(name: str, **arguments: Value) -> Job:
    return job_of(f"{__name__}:{name}", arguments, name="mine", loss=LOSS)


@cache
def built(name: str) -> tuple[BuiltModel, TracedGraph]:
    return build(mine(name), batch_for(mine(name)))


@cache
def plain(name: str) -> Trained:
    return plain_loop(mine(name), STEPS)


def trained(name: str, seed: int, model: tuple[BuiltModel, TracedGraph] | None = None) -> Trained:
    draw = random.Random(seed)
    model = model or built(name)
    positions = model[1].cut_positions
    chosen = sorted(draw.sample(positions, min(len(positions), draw.randint(2, 9))))
    return replay_of(mine(name), chosen, lambda *_: draw.random() < 0.5, model).train(STEPS)


# -- the same bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_any_cut_gives_the_bits_of_the_plain_loop(seed: int) -> None:
    assert same_bits(trained("Mixed", seed), plain("Mixed"))


def test_cuts_right_before_and_after_each_function() -> None:
    _, traced = built("Mixed")
    numbers = [number for number, node in enumerate(traced.nodes) if isinstance(node.target, Applied)]
    assert len(numbers) == 3 * 7
    around = sorted({near for each in numbers for near in (each, each + 1)} & set(traced.cut_positions))
    assert len(around) > len(numbers)
    for keep in (True, False):
        replay = replay_of(mine("Mixed"), around, lambda *_, keep=keep: keep, built("Mixed"))
        assert same_bits(replay.train(STEPS), plain("Mixed"))


@pytest.mark.parametrize("name", ["Mixed", "Quantised"])
def test_naive_functions_dissolved_by_export_train_other_weights(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(trace, "recorded", nullcontext)
    dissolved = build(mine(name), batch_for(mine(name)))
    monkeypatch.undo()
    assert same_bits(trained(name, 0), plain(name))
    assert not same_bits(trained(name, 0, dissolved), plain(name))


def test_contexts_that_hold_arguments_are_found() -> None:
    splits = [node.target for node in built("Mixed")[1].nodes if "Split" in str(node.target)]
    assert all(isinstance(each, Applied) and each.cloned == {0, 1} for each in splits)
    held = [node.meta["held"] for node in built("Registered")[1].nodes if "squared" in str(node.target)]
    assert [len(each) for each in held] == [1, 1, 1]


@pytest.mark.parametrize("name", ["Mixed", "Registered"])
def test_naive_contexts_that_hold_arguments_of_the_arena(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`ctx.value = value` is seen by no hook: without copies it holds memory that has other owners by the backward."""
    monkeypatch.setattr(functions, "examine", lambda *_, **__: Examined(held=(), ran=""))
    monkeypatch.setattr(normalize, "note_held_arguments", lambda _: None)
    careless = build(mine(name), batch_for(mine(name)))
    monkeypatch.undo()
    cuts = careless[1].cut_positions
    run = lambda model: replay_of(mine(name), cuts, lambda *_: True, model).train(STEPS)  # noqa: E731
    assert same_bits(run(built(name)), plain(name))
    assert not same_bits(run(careless), plain(name))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_of_torch_dissolves(reentrant: bool) -> None:
    job = mine("Checkpointed", reentrant=reentrant)
    model = build(job, batch_for(job))
    assert not any(isinstance(node.target, Applied) for node in model[1].nodes)
    expected = plain_loop(job, STEPS)
    for cuts in ((), model[1].cut_positions):
        assert same_bits(replay_of(job, cuts, lambda *_: False, model).train(STEPS), expected)


# -- what a plan knows of them --------------------------------------------------------------------------


def product(factor: float, steps: int = 1) -> type[Function]:
    class Product(Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
            ctx.save_for_backward(value, weight)
            return value @ weight * factor

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
            value, weight = ctx.saved_tensors
            for _ in range(steps):
                gradient = gradient * factor
            return gradient @ weight.T, value.flatten(0, 1).T @ gradient.flatten(0, 1)

    return Product


class Products(nn.Module):
    """Equal layers around functions that a factory made."""

    def __init__(self, factor: float = 0.5, steps: int = 1, other: float = 0.5) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.weights = nn.ParameterList(torch.eye(WIDTH) + 0.1 * number for number in range(4))
        self.functions = [product(factor, steps), product(other, steps)]

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        for number, weight in enumerate(self.weights):
            value = torch.tanh(self.functions[number // 3].apply(value, weight))
        return value


def graph_of(**arguments: Value) -> TracedGraph:
    return trace.trace(mine("Products", **arguments), batch_for(mine("Products")))


def test_a_graphs_digest_depends_on_the_code_and_on_what_it_closes_over() -> None:
    digest = graph_of().digest
    assert graph_of().digest == digest
    assert len({digest, graph_of(factor=0.25).digest, graph_of(steps=2).digest}) == 3


def test_equal_shards_share_code_and_functions_of_one_text_do_not() -> None:
    traced = graph_of()
    cuts = [number for number, node in enumerate(traced.nodes) if isinstance(node.target, Applied)]
    first, *_, last = (traced.nodes[number].target for number in cuts)
    parts = slices(traced, cuts)[1:]
    assert parts[0].code is parts[1].code
    assert isinstance(first, Applied) and isinstance(last, Applied)
    assert first.digest == last.digest
    assert first != last and repr(first) != repr(last)
    forms = ShardForms(traced, shard(traced, cuts))
    assert forms.form(1) == forms.form(2)


def test_costs_are_those_of_what_runs_inside() -> None:
    traced = graph_of()
    costs = dict(zip(traced.nodes, node_costs(traced), strict=True))
    node, *_ = (each for each in traced.nodes if isinstance(each.target, Applied))
    flops = 2 * 2 * 8 * WIDTH * WIDTH
    assert (costs[node].forward.flops, costs[node].backward.flops) == (flops, 2 * flops)
    assert costs[node].saved == (0, 1)
    assert costs[node].output_bytes == 2 * 8 * WIDTH * 4


# -- what is refused ------------------------------------------------------------------------------------


class Noisy(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value + torch.rand_like(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class InPlace(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.mark_dirty(value)
        return value.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Greedy(Function):
    """Reads a module's weight through the module."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, layer: nn.Linear) -> Tensor:
        return value @ layer.weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Destroys(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.mul_(2)


class Looks(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * gradient.sum().item()


class Refused(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.layer = Refusing(kind)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.embed(tokens))


class Refusing(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.kind = kind
        if kind == "module hook":
            self.register_full_backward_hook(lambda *_: None)
        if kind == "parameter hook":
            self.layer.weight.register_hook(lambda gradient: gradient * 2)

    def forward(self, value: Tensor) -> Tensor:
        value = torch.tanh(value)
        if self.kind == "hook":
            value.register_hook(lambda gradient: gradient * 2)
        if self.kind == "Greedy":
            return Greedy.apply(value, self.layer)
        function = globals().get(self.kind)
        return self.layer(value) if function is None else function.apply(value)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("Noisy", ["the forward of Noisy draws random numbers (aten.rand_like", "pass them as an argument"]),
        ("InPlace", ["the forward of InPlace writes to its arguments", "write to a clone"]),
        ("Greedy", ["the forward of Greedy reads a tensor of shape (16, 16) that is none", "pass it as an argument"]),
        ("Destroys", ["the backward of Destroys writes to what it is given", "write to a clone"]),
        ("Looks", ["the backward of Looks failed", "no .item()"]),
        ("hook", ["a hook on a tensor's gradient", "torch.autograd.Function"]),
        ("module hook", ["backward hooks", "torch.autograd.Function"]),
    ],
)
def test_what_a_shard_could_not_run_exactly_is_refused(kind: str, parts: list[str]) -> None:
    with pytest.raises(TraceError) as caught:
        trace.trace(mine("Refused", kind=kind), batch_for(mine("Refused")))
    message = str(caught.value).replace("'", "")
    for part in ["module layer", "test_functions.py:", *parts]:
        assert part.replace("'", "") in message


def test_hooks_on_parameters_are_refused_by_name() -> None:
    with pytest.raises(TraceError, match=r"module layer\.layer \(.*: parameter 'weight' has a hook on its gr"):
        trace.trace(mine("Refused", kind="parameter hook"), batch_for(mine("Refused")))
