"""Cut, moved, recomputed or kept: the bits are those of the plain loop (EXACTNESS.md)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from support.models import batch_for, gpt2, job_of, jobs
from support.replay import Replay, Trained, plain_loop, replay_of, same_bits

from hydraplan.planner.frontend.shards.build import build
from hydraplan.planner.frontend.shards.cell import extent_bytes
from hydraplan.planner.frontend.shards.program import BuiltModel, Bundle, ShardedGraph, TensorLayout
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job

STEPS = 2
DRAWS = 4

LLAMA_GROUPED = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 48,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def built(name: str) -> tuple[BuiltModel, TracedGraph]:
    job = every_job()[name]
    return build(job, batch_for(job))


@cache
def plain(name: str) -> Trained:
    return plain_loop(jobs()[name], STEPS)


def every_job() -> dict[str, Job]:
    dropout: dict[str, Job] = {
        "gpt2_dropout": gpt2(dropout=True, microbatches=4),
        "gpt2_eager_dropout": gpt2(dropout=True, microbatches=4, attn_implementation="eager"),
        "llama_grouped": job_of(
            "transformers:LlamaForCausalLM", {**LLAMA_GROUPED, "attention_dropout": 0.1}, microbatches=3
        ),
    }
    return jobs() | dropout


def drawn_cuts(traced: TracedGraph, draw: random.Random) -> list[int]:
    return sorted(draw.sample(traced.cut_positions, draw.randint(1, 7)))


def drawn_replay(name: str, seed: int) -> Replay:
    draw = random.Random(seed)
    return replay_of(
        every_job()[name],
        drawn_cuts(built(name)[1], draw),
        lambda step, microbatch, number: draw.random() < 0.5,
        built(name),
    )


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("name", sorted(jobs()))
def test_any_cut_gives_the_bits_of_the_plain_loop(name: str, seed: int) -> None:
    replay = drawn_replay(name, seed)
    assert same_bits(replay.train(STEPS), plain(name)), replay.sharded.cuts


@pytest.mark.parametrize("name", ["gpt2_dropout", "gpt2_eager_dropout", "llama_grouped"])
def test_any_cut_gives_the_same_bits_with_dropout_and_microbatches(name: str) -> None:
    first, *others = (drawn_replay(name, seed) for seed in range(3))
    expected = first.train(STEPS)
    assert not torch.equal(expected.losses[0], expected.losses[1])
    for other in others:
        assert same_bits(other.train(STEPS), expected), (first.sharded.cuts, other.sharded.cuts)


def test_dropout_draws_differ_by_seed_step_microbatch_and_node() -> None:
    replay = drawn_replay("gpt2_dropout", 0)
    replay.microbatch(0, 0)
    job = replay.job
    program = replay.sharded.programs[0]
    arguments = replay.arena({}, batch_for(job), 0).views

    def run(seed: int, step: int, microbatch: int) -> torch.Tensor:
        key = CellKey(seed=seed, step=step, microbatch=microbatch)
        result = program.forward(**arguments, key=key, keep=False)
        return next(iter(result.activations.values()))

    same = run(1, 2, 3)
    assert torch.equal(same, run(1, 2, 3))
    assert not any(torch.equal(same, run(*other)) for other in [(9, 2, 3), (1, 9, 3), (1, 2, 9)])


def test_process_wide_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(gpt2(dropout=True), batch_for(gpt2()))
    drawn_replay("gpt2_dropout", 1).microbatch(0, 0)
    assert torch.equal(torch.rand(3), expected)


# -- layout -------------------------------------------------------------------------------------------


def bundles(graph: ShardedGraph) -> list[Bundle]:
    parameter_gradients = [bundle for each in graph.parameter_gradients for _, bundle in each]
    return [*graph.activations, *graph.activation_gradients, *graph.batch, *parameter_gradients]


@pytest.mark.parametrize("name", sorted(jobs()))
def test_layouts_reserve_room_without_overlap(name: str) -> None:
    _, traced = built(name)
    graph = shard(traced, drawn_cuts(traced, random.Random(3)))
    entries = [each.tensors for each in bundles(graph)] + [each.entries for each in graph.slabs]
    for tensors in entries:
        end = 0
        for tensor in tensors:
            assert tensor.offset_bytes == end
            assert tensor.offset_bytes % 256 == 0 == tensor.size_bytes % 256
            assert tensor.size_bytes >= extent_bytes(tensor.shape, tensor.stride, tensor.dtype.itemsize)
            end = tensor.offset_bytes + tensor.size_bytes
    for bundle in bundles(graph):
        assert bundle.size_bytes == sum(each.size_bytes for each in bundle.tensors)
    for slab in graph.slabs:
        assert [each.requires_grad for each in slab.entries] == sorted(
            (each.requires_grad for each in slab.entries), reverse=True
        )
        assert slab.trainable_bytes == sum(each.size_bytes for each in slab.entries if each.requires_grad)
        assert slab.parameter_bytes == sum(each.size_bytes for each in slab.entries)
        assert slab.name == "+".join(map(str, slab.readers))
    for number, (to, reads) in enumerate(zip(graph.gradients_to, graph.reads, strict=True)):
        assert set(to) <= set(reads)
        assert all(producer < number for producer in reads)


def test_tied_weights_lie_in_one_shared_slab() -> None:
    model, traced = built("gpt2")
    graph = shard(traced, [traced.cut_positions[len(traced.cut_positions) // 2]])
    (shared,) = (slab for slab in graph.slabs if len(slab.readers) > 1)
    assert [entry.name for entry in shared.entries] == ["transformer.wte.weight"]
    assert [number for number, _ in graph.use_sites["transformer.wte.weight"]] == [1, 0]
    assert model.saved_names["lm_head.weight"] == "transformer.wte.weight"
    (tied,) = (each for each in traced.placeholders if len(each.aliases) > 1)
    assert tied.aliases == ("lm_head.weight", "transformer.wte.weight")


def test_every_use_of_a_parameter_has_a_gradient_of_its_own() -> None:
    _, traced = built("skips")
    graph = shard(traced, traced.cut_positions[10:30:10])
    assert len(graph.use_sites["shared.weight"]) == 5
    shards = [number for number, _ in graph.use_sites["shared.weight"]]
    assert shards == sorted(shards, reverse=True)
    assert len(set(shards)) > 1


def test_only_what_gets_a_gradient_is_trained() -> None:
    model, traced = built("skips")
    assert {"unused.weight", "unused.bias"} == set(traced.unread) == set(model.unread)
    _, adversarial = built("adversarial")
    entries = {each.name: each for slab in shard(adversarial, ()).slabs for each in slab.entries}
    assert entries["scale"].requires_grad
    assert not entries["frozen"].requires_grad
    assert not entries["table"].requires_grad


def test_masks_and_positions_are_computed_again() -> None:
    _, traced = built("llama")
    graph = shard(traced, traced.cut_positions[20::40])
    for bundle in graph.activations:
        assert not {each.name for each in bundle.tensors} & traced.recomputed
    inverse = [slab.name for slab in graph.slabs for entry in slab.entries if entry.name.endswith("inv_freq")]
    assert inverse  # a copy in the slab of each shard that rotates
    assert all("+" not in name for name in inverse)


def test_a_position_that_is_not_allowed_is_refused_with_the_nearest() -> None:
    _, traced = built("gpt2")
    wrong = next(each for each in range(1, len(traced.nodes)) if each not in traced.cut_positions)
    with pytest.raises(TraceError, match=f"cannot be cut at {wrong}; the nearest allowed position is "):
        shard(traced, [wrong])
    with pytest.raises(TraceError, match="have to ascend"):
        shard(traced, [traced.cut_positions[3], traced.cut_positions[1]])


# -- fake and real ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(jobs()))
def test_planning_and_building_find_the_same_graph(name: str) -> None:
    job = jobs()[name]
    planned, real = trace(job, batch_for(job)), built(name)[1]
    assert planned.digest == real.digest
    assert planned.cut_positions == real.cut_positions
    assert {each.name for each in planned.placeholders if each.role != "batch"} == set(built(name)[0].tensors)


def test_another_batch_shape_is_another_graph() -> None:
    job = gpt2()
    batch = {name: value[:1] for name, value in batch_for(job).items()}
    assert trace(job, batch).digest != built("gpt2")[1].digest


def test_a_keeping_forward_holds_less_than_all_and_says_how_much() -> None:
    _, traced = built("gpt2")
    replay = replay_of(jobs()["gpt2"], traced.cut_positions[30:60:15], lambda *cell: True, built("gpt2"))
    replay.microbatch(0, 0)
    assert all(count > 0 for count in replay.kept_bytes)
    # The first layer's weight matrices are saved for the backward, but lie in the arguments.
    assert replay.kept_bytes[0] < 200_000


@pytest.mark.parametrize("name", sorted(set(jobs()) - {"recurrent"}))
def test_programs_on_fake_tensors_keep_as_many_bytes_as_on_real_ones(name: str) -> None:
    """The planner counts live storages this way. (An LSTM's CPU kernel keeps scratch that no fake tensor shows.)"""
    _, traced = built(name)
    graph = shard(traced, traced.cut_positions[10:90:40])
    replay = Replay(job=jobs()[name], sharded=graph, built=built(name)[0], keep=lambda *cell: True)
    replay.microbatch(0, 0)
    mode = next(node for node in traced.graph.nodes if node.op == "placeholder").meta["val"].fake_mode

    def fakes(tensors: Sequence[TensorLayout]) -> dict[str, torch.Tensor]:
        return {each.name: torch.empty_strided(each.shape, each.stride, dtype=each.dtype) for each in tensors}

    kept_bytes = []
    with mode:
        for number, program in enumerate(graph.programs):
            arguments = {
                "parameters": fakes([each for slab in graph.slabs if number in slab.readers for each in slab.entries]),
                "inputs": {producer: fakes(graph.activations[producer].tensors) for producer in graph.reads[number]},
                "batch": fakes(graph.batch[number].tensors),
                "buffers": fakes(graph.buffers[number].tensors),
                "key": CellKey(seed=0, step=0, microbatch=0),
            }
            for keep in (False, True):
                result = program.forward(**arguments, keep=keep)
                assert {each: value.stride() for each, value in result.activations.items()} == {
                    each.name: each.stride for each in graph.activations[number].tensors
                }
                if result.kept is not None:
                    kept_bytes.append(result.kept.bytes)
                program.backward(
                    **arguments,
                    kept=result.kept,
                    output_gradients=fakes(graph.activation_gradients[number].tensors),
                    running={},
                    loss_seed=1.0,
                )
    assert kept_bytes == replay.kept_bytes
