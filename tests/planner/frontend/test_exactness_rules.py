"""Break a rule of EXACTNESS.md by monkeypatch, and see other bits: each rule is needed, and each test can fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from support.models import batch_for, gpt2, job_of, jobs, mixtral
from support.replay import Replay, Trained, plain_loop, replay_of, same_bits
from torch import Tensor
from torch.fx import Node

from hydraplan.planner.frontend.shards import cell, slices
from hydraplan.planner.frontend.shards.build import build
from hydraplan.planner.frontend.shards.program import BackwardResult, BuiltModel
from hydraplan.planner.frontend.tracing import cuts, keyed, modes, normalize, trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.workload import Job

STEPS = 2
DRAWS = 6


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def all_jobs() -> dict[str, Job]:
    return jobs() | {
        "gpt2_dropout": gpt2(dropout=True),
        "noted": job_of("support.models:Noted", {}, loss="support.models:squared_error"),
    }


@cache
def built(name: str) -> tuple[BuiltModel, TracedGraph]:
    job = all_jobs()[name]
    return build(job, batch_for(job))


@cache
def plain(name: str) -> Trained:
    return plain_loop(all_jobs()[name], STEPS)


def trained(
    name: str,
    seed: int,
    *,
    model: tuple[BuiltModel, TracedGraph] | None = None,
    keep: bool | None = None,
    move: Callable[[Tensor], Tensor] | None = None,
) -> Trained:
    """A run under drawn cuts; `keep` None: drawn too."""
    draw = random.Random(seed)
    model = model or built(name)
    positions = model[1].cut_positions
    chosen = sorted(draw.sample(positions, min(len(positions), draw.randint(2, 7))))
    replay = replay_of(all_jobs()[name], chosen, lambda *_: draw.random() < 0.5 if keep is None else keep, model)
    if move is not None:
        replay.move = move
    return replay.train(STEPS)


def survivors(run: Callable[[int], Trained], expected: Trained, draws: int = DRAWS) -> int:
    """How many draws still have the expected bits; a draw that autograd refuses does not."""
    count = 0
    for seed in range(draws):
        try:
            count += same_bits(run(seed), expected)
        except (RuntimeError, AssertionError, KeyError):
            continue
    return count


def test_with_all_rules_every_draw_survives() -> None:
    for name in ("adversarial", "skips", "recurrent", "cast"):
        assert survivors(lambda seed, name=name: trained(name, seed), plain(name)) == DRAWS


def test_rule_2_untied_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Placeholders of one tied weight that are not merged become two weights, trained apart."""
    real = trace.canonical_names
    monkeypatch.setattr(trace, "canonical_names", lambda model: {name: name for name in real(model)})
    monkeypatch.setattr(trace, "shared_memory", lambda tensors, precision: {})  # nor are they known by their storage
    job = job_of("support.models:TiedByTwoNames", {}, loss="support.models:squared_error")
    untied = build(job, batch_for(job))
    monkeypatch.undo()
    tied = build(job, batch_for(job))
    run = lambda model: replay_of(job, (), lambda *_: False, model).train(STEPS)  # noqa: E731
    expected = plain_loop(job, STEPS)
    assert same_bits(run(tied), expected)
    assert not same_bits(run(untied), expected)


def test_rule_2_no_grad_lost_within_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch.export loses it where it makes regions of both."""
    real = modes.Modes.change

    def change(self: modes.Modes, node: Node) -> bool:
        return (node.target is modes.SET_GRAD and self.context.autocast is not None) or real(self, node)

    monkeypatch.setattr(modes.Modes, "change", change)
    job = all_jobs()["cast"]
    assert survivors(lambda seed: trained("cast", seed, model=build(job, batch_for(job))), plain("cast"), draws=2) == 0


def test_rule_3_cuts_within_the_life_of_written_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "_forbidden", lambda *_: set())
    job = all_jobs()["adversarial"]
    careless = build(job, batch_for(job))
    monkeypatch.undo()
    between = sorted(set(careless[1].cut_positions) - set(built("adversarial")[1].cut_positions))
    writes = [each for each in between if "copy_" in careless[1].nodes[each].name]
    assert writes

    def run(seed: int) -> Trained:
        return replay_of(job, [writes[seed % len(writes)]], lambda *_: False, careless).train(STEPS)

    assert survivors(run, plain("adversarial"), draws=len(writes)) == 0


def test_rule_5_other_flags_on_what_enters_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values without gradient that enter as if they had one (here: what was made under no_grad)."""

    def always(argument: Tensor, requires_grad: bool) -> Tensor:
        return argument.data.requires_grad_(argument.is_floating_point())

    assert survivors(lambda seed: trained("noted", seed), plain("noted")) == DRAWS
    monkeypatch.setattr(cell, "_leaf", always)
    assert survivors(lambda seed: trained("noted", seed), plain("noted")) < DRAWS


def test_rule_6_forwards_without_grad_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cell.EagerShard._run

    def forward(self: cell.EagerShard, *args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cell.EagerShard, "_run", _without_grad(real))
            return original(self, *args, **kwargs)

    original = cell.EagerShard.forward
    monkeypatch.setattr(cell.EagerShard, "forward", forward)
    assert survivors(lambda seed: trained("recurrent", seed, keep=False), plain("recurrent")) < DRAWS


def _without_grad(run: Callable[..., Any]) -> Callable[..., Any]:
    def ran(self: cell.EagerShard, arguments: list[Tensor], key: Any) -> Any:
        leaves = [argument.data for argument in arguments]
        with torch.no_grad():
            draws = keyed.Draws(key, self.part.draws)
            return self.part.code.function(draws, leaves[0].device, *leaves), leaves

    return ran


@pytest.mark.parametrize("name", ["skips", "adversarial"])
def test_rule_7_running_sums_added_afterwards(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = cell.EagerShard.backward

    def backward(self: cell.EagerShard, *, running: Any, **others: Any) -> BackwardResult:
        result = real(self, running={}, **others)
        summed = {
            producer: {
                each: running[producer][each] + value if each in running.get(producer, {}) else value
                for each, value in values.items()
            }
            for producer, values in result.activation_gradients.items()
        }
        return BackwardResult(activation_gradients=summed, parameter_gradients=result.parameter_gradients)

    monkeypatch.setattr(cell.EagerShard, "backward", backward)
    assert survivors(lambda seed: trained(name, seed), plain(name)) < DRAWS


def test_rule_8_values_moved_without_their_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = lambda value: value.detach().contiguous().clone()  # noqa: E731
    assert survivors(lambda seed: trained("recurrent", seed, move=dense), plain("recurrent")) < DRAWS


def test_rule_9_recomputed_on_buffers_as_they_are_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward that runs again has to begin with the buffers that it found the first time, and to change none."""
    assert survivors(lambda seed: trained("statistics", seed, keep=False), plain("statistics")) == DRAWS
    real = Replay.arena
    monkeypatch.setattr(Replay, "arena", lambda self, values, batch, number, *_: real(self, values, batch, number))
    assert survivors(lambda seed: trained("statistics", seed, keep=False), plain("statistics")) == 0


def test_what_a_buffer_is_assigned_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.export alone loses `self.buffer = value` in all modules but the outermost."""
    job = all_jobs()["statistics"]
    monkeypatch.setattr(trace, "written_back", lambda module: nullcontext())
    forgetful = build(job, batch_for(job))
    assert survivors(lambda seed: trained("statistics", seed, model=forgetful), plain("statistics"), draws=2) == 0


def test_cuts_between_the_uses_of_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that touches an updated buffer is in one shard."""
    graph = built("statistics")[1]
    calls = [number for number, node in enumerate(graph.nodes) if "twice_running_mean" in str(node.args)]
    assert len(calls) == 2
    assert not [cut for cut in graph.cut_positions if calls[0] < cut <= calls[1]]


def test_rule_10_the_process_wide_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained("gpt2_dropout", 0)
    assert survivors(lambda seed: trained("gpt2_dropout", seed), expected, draws=3) == 3

    def generator(self: keyed.Draws, slot: int, device: torch.device) -> torch.Generator:
        return torch.default_generator

    monkeypatch.setattr(keyed.Draws, "generator", generator)

    def run(seed: int) -> Trained:
        torch.manual_seed(0)
        return trained("gpt2_dropout", seed)

    assert survivors(run, run(0), draws=3) < 3


def test_rule_13_saved_arguments_not_bound_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept without handles, what autograd saved of the arguments is overwritten by their regions' next owners."""

    def hooks(self: cell.Kept) -> AbstractContextManager[None]:
        return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)

    monkeypatch.setattr(cell.Kept, "hooks", hooks)
    assert survivors(lambda seed: trained("skips", seed, keep=True), plain("skips")) == 0


def test_rule_14_one_leaf_for_all_uses_of_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses summed by autograd within a shard: with several microbatches the order of the sum depends on the cuts."""
    job = job_of("support.models:Skips", {}, loss="support.models:squared_error", microbatches=4)
    model = build(job, batch_for(job))
    positions = model[1].cut_positions

    def run(chosen: Sequence[int]) -> Trained:
        return replay_of(job, chosen, lambda *_: False, model).train(STEPS)

    many, one = list(positions[::6]), []
    assert same_bits(run(many), run(one))
    monkeypatch.setattr(slices, "site_name", lambda parameter, reader: f"{parameter}@everywhere")
    assert not same_bits(run(many), run(one))


def test_rule_16_values_with_gradient_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding computed again in every shard: its gradients no longer meet in the order of the uncut graph."""
    monkeypatch.setattr(cuts, "_is_cheap", lambda node, *_: node.target != torch.ops.aten.linear.default)
    monkeypatch.setattr(cuts, "_is_cheap_input", lambda node, *_: node.name.startswith(("p_model_embed", "batch")))
    job = all_jobs()["skips"]
    again = build(job, batch_for(job))
    monkeypatch.undo()
    embedding = next(node for node in again[1].nodes if node.name == "embedding")
    assert embedding.name in again[1].recomputed
    assert embedding.name not in built("skips")[1].recomputed
    assert survivors(lambda seed: trained("skips", seed, model=again), plain("skips")) < DRAWS


def test_in_place_operators_become_functional_where_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3's other half: relu_ of a fresh value is relu, and cuts are allowed around it."""
    names = [node.name for node in built("adversarial")[1].nodes]
    targets = {str(node.target) for node in built("adversarial")[1].nodes}
    assert any(name.startswith("relu_") for name in names)
    assert "aten.relu.default" in targets
    assert "aten.relu_.default" not in targets
    monkeypatch.setattr(normalize, "functionalize", lambda *_: None)
    job = all_jobs()["adversarial"]
    untouched: list[Node] = list(build(job, batch_for(job))[1].nodes)
    assert any(str(node.target) == "aten.relu_.default" for node in untouched)


def test_a_model_that_knows_that_it_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does other arithmetic than in its plain loop: here for grouped heads, and for experts."""
    job = mixtral()
    expected = plain_loop(job, STEPS)

    def run() -> Trained:
        model = build(job, batch_for(job))
        return replay_of(job, model[1].cut_positions[::30], lambda *_: False, model).train(STEPS)

    assert same_bits(run(), expected)
    monkeypatch.setattr(trace, "unnoticed", nullcontext)
    assert not same_bits(run(), expected)
