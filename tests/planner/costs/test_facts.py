"""Facts of layouts, derived from the traced graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.models import batch_for, gpt2, jobs

from hydraplan.planner.costs import facts
from hydraplan.planner.costs.catalogue import profiles
from hydraplan.planner.costs.facts import graph_facts, layout_facts
from hydraplan.planner.costs.forms import ShardForms
from hydraplan.planner.costs.liveness import CountLiveBytes
from hydraplan.planner.costs.shards import ShardCost, measure
from hydraplan.planner.frontend.models.model import make_loss
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.workload import Precision

PROFILES = (profiles()["server-cpu"], profiles()["t4"])


def block_cuts(traced: TracedGraph) -> tuple[int, ...]:
    """One cut before each transformer block, and one behind the last."""
    modules = [node.meta["source"].module for node in traced.nodes]
    numbers = [name.split(".")[2] if name.startswith("transformer.h.") else "" for name in modules]
    changes = [index for index in range(1, len(numbers)) if numbers[index] != numbers[index - 1]]
    return tuple(sorted({min(each for each in traced.cut_positions if each >= change) for change in changes}))


@pytest.fixture(scope="module")
def traced() -> TracedGraph:
    job = gpt2(dropout=True, n_layer=4)
    return trace(job, batch_for(job))


def test_equal_blocks_are_measured_once(traced: TracedGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def counting(sharded: object, number: int, running: object, threads: int) -> ShardCost:
        measured.append(number)
        return measure(sharded, number, running, threads)  # type: ignore[arg-type]

    monkeypatch.setattr(facts, "measure", counting)
    layout = layout_facts(traced, "g", block_cuts(traced), PROFILES, threads=1)
    assert len(layout.shards) == 6
    assert measured == [0, 1, 5]
    assert layout.shards[1].kept_bytes == layout.shards[4].kept_bytes > 0


def test_forms_tell_apart_what_differs(traced: TracedGraph) -> None:
    cuts = block_cuts(traced)
    forms = ShardForms(traced, shard(traced, cuts))
    assert len({forms.form(number) for number in range(6)}) == 3
    moved = ShardForms(traced, shard(traced, (cuts[0], *[cut + 1 for cut in cuts[1:4]], cuts[4])))
    shared = {moved.form(number) for number in range(6)} & {forms.form(number) for number in range(6)}
    assert shared == {forms.form(0), forms.form(5)}, "only those whose cuts did not move"


def test_layout_says_what_shards_read_and_make(traced: TracedGraph) -> None:
    layout = layout_facts(traced, "g", block_cuts(traced), PROFILES, threads=1)
    assert layout.slab("0+5").readers == (0, 5)
    first, middle, last = layout.shards[0], layout.shards[2], layout.shards[5]
    assert first.slabs == ("0", "0+5") and last.slabs == ("5", "0+5")
    assert middle.reads == middle.gradients_to == (1,)
    assert dict(first.gradient_bytes)["0+5"] == layout.slab("0+5").trainable_bytes
    assert 0 < last.activation_bytes <= 256 and last.activation_gradient_bytes == 0
    assert first.batch_bytes > 0 and last.batch_bytes > 0 and middle.batch_bytes == 0
    for shard_facts in layout.shards:
        assert [times.profile for times in shard_facts.times] == ["server-cpu", "t4"]
        for times in shard_facts.times:
            assert times.forward_us > 0 and times.backward_us > 0
    assert all(times.backward_us > times.forward_us for times in last.times), "two products for each one forward"


def test_graph_counts_a_tied_tensor_twice_while_it_is_built(traced: TracedGraph) -> None:
    graph = graph_facts(traced, "g")
    embedding = 48 * 32 * 4
    assert graph.construction_bytes >= graph.parameter_bytes + embedding
    assert graph.nodes == len(traced.nodes) and graph.cut_positions == traced.cut_positions
    assert graph.digest == traced.digest


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_construction_is_no_more_than_was_planned(precision: Precision) -> None:
    """A model in bf16 is made in fp32, and its masters are there until they lie in the store."""
    job = replace(gpt2(n_layer=4), precision=precision)
    graph = graph_facts(trace(job, batch_for(job)), "g")
    with CountLiveBytes() as counted:
        module = make_loss(job)
    assert bool(module.masters) == (precision == "bf16")
    assert 0.9 * graph.construction_bytes < counted.peak_bytes <= graph.construction_bytes


def test_a_value_that_skips_over_shards_collects_its_gradient() -> None:
    job = jobs()["skips"]
    traced = trace(job, batch_for(job))
    cuts = traced.cut_positions[4::8]
    sharded = shard(traced, cuts)
    forms = ShardForms(traced, sharded)
    last = len(cuts)
    assert not any(forms.running(last).values()), "nothing has begun before the last shard"
    readers = [number for number in range(last) if 0 in forms.running(number) and forms.running(number)[0]]
    assert readers, "the early value's gradient is running through the shards between"
