"""Cuts: allowed, fitting, cheap, and the best there are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from support.models import batch_for, gpt2, job_of

from hydraplan.planner.costs.catalogue import profiles
from hydraplan.planner.costs.facts import layout_facts
from hydraplan.planner.costs.nodes import node_costs
from hydraplan.planner.cutting.partition import MARGIN, ROOMS, Problem, partition
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.workload import Cluster, Device, Link

KIB = 1024


@pytest.fixture(scope="module")
def traced() -> TracedGraph:
    job = gpt2(dropout=True, n_layer=3, n_embd=64, vocab_size=512)
    return trace(job, batch_for(job))


def cluster(*budgets: int, rate: int = 10**9) -> Cluster:
    return Cluster(
        devices=tuple(
            Device(name=f"d{number}", backing="cpu", budget_bytes=budget, link="l", profile="server-cpu")
            for number, budget in enumerate(budgets)
        ),
        links=(Link(name="l", load_bytes_per_s=rate, spill_bytes_per_s=rate),),
        profiles=(profiles()["server-cpu"],),
        host_memory_bytes=2**34,
        host_profile="server-cpu",
        update_workers=1,
    )


def cut(traced: TracedGraph, *budgets: int, microbatches: int = 2) -> tuple[int, ...]:
    return partition(traced, cluster(*budgets), microbatches=microbatches, state_copies=2)


def problem(traced: TracedGraph, budget: int) -> Problem:
    where = cluster(budget)
    return Problem(traced, where, where.devices[0], 2, 2)


def test_smaller_budgets_make_more_shards(traced: TracedGraph) -> None:
    counts = [len(cut(traced, budget * KIB)) for budget in (1 << 20, 8 * KIB, 4 * KIB, 2 * KIB)]
    assert counts[0] == 0, "a device with room for everything many times over needs no cut"
    assert counts == sorted(counts) and counts[-1] >= 3
    assert cut(traced, 1 << 30, 2 * KIB * KIB) == cut(traced, 2 * KIB * KIB), "the smallest device decides"


def test_cuts_are_allowed_and_quiet(traced: TracedGraph) -> None:
    cuts = cut(traced, 4 * KIB * KIB)
    assert set(cuts) <= set(traced.cut_positions)
    crossing = problem(traced, KIB).sums.crossing
    residual = int(crossing[cuts[0]])
    assert all(crossing[position] <= 2 * residual for position in cuts)
    assert crossing.max() > 4 * residual


def test_shards_fit_as_measured(traced: TracedGraph) -> None:
    """The estimates that the partition goes by hold against the facts of the shards."""
    budget = 4 * KIB * KIB
    layout = layout_facts(traced, "g", cut(traced, budget), (profiles()["server-cpu"],), threads=1)
    for shard in layout.shards:
        slabs = sum(layout.slab(name).parameter_bytes for name in shard.slabs)
        gradients = sum(size for _, size in shard.gradient_bytes)
        assert slabs + gradients + shard.recompute_workspace_bytes < budget / 2


def test_estimates_of_segments_agree_with_measured_shards(traced: TracedGraph) -> None:
    cuts = cut(traced, 4 * KIB * KIB)
    profile = profiles()["server-cpu"]
    layout = layout_facts(traced, "g", cuts, (profile,), threads=1)
    sums = problem(traced, KIB).sums
    for begin, end, shard in zip((0, *cuts), (*cuts, len(traced.nodes)), layout.shards, strict=True):
        segments = sums.from_node(begin)
        index = end - begin - 1
        slabs = sum(layout.slab(name).parameter_bytes for name in shard.slabs)
        assert segments.parameter_bytes[index] == slabs
        assert segments.gradient_bytes[index] == sum(size for _, size in shard.gradient_bytes)
        assert shard.recompute_workspace_bytes <= 1.1 * segments.workspace_bytes[index]
        assert segments.forward_s[index] * 1e6 == pytest.approx(shard.times[0].forward_us, rel=0.4)
        assert segments.backward_s[index] * 1e6 == pytest.approx(shard.times[0].backward_us, rel=0.4)


def test_no_chain_of_cuts_is_cheaper(traced: TracedGraph) -> None:
    """Dynamic programming against all subsets of a few boundaries."""
    tight = problem(traced, 4 * KIB * KIB)
    boundaries = (0, *traced.cut_positions[5::16], len(traced.nodes))
    assert 6 <= len(boundaries) <= 14

    def cost(cuts: tuple[int, ...]) -> float:
        total = 0.0
        for begin, end in zip((0, *cuts), (*cuts, len(traced.nodes)), strict=True):
            segments, index = tight.sums.from_node(begin), end - begin - 1
            if tight.size(begin, segments, ROOMS[0])[index] > MARGIN * tight.device.budget_bytes:
                return np.inf
            total += float(tight.time(begin, segments)[index] * tight.penalty(segments)[index])
        return total

    inner = boundaries[1:-1]
    best = min(cost(cuts) for count in range(len(inner) + 1) for cuts in combinations(inner, count))
    found = tight.solve(boundaries, ROOMS[0])
    assert found is not None
    assert cost(found) == pytest.approx(best)


def test_says_what_does_not_fit(traced: TracedGraph) -> None:
    message = r"holds 'transformer.*', whose largest tensor is transformer.wte.weight \(128.0 KiB\), needs about .+ KiB"
    with pytest.raises(InfeasibleError, match=message) as raised:
        cut(traced, 100 * KIB)
    error = raised.value
    assert error.device == "d0" and error.missing_bytes > 0
    assert cut(traced, 100 * KIB + error.missing_bytes), "the budget that it asks for does"
    with pytest.raises(InfeasibleError):
        cut(traced, 99 * KIB + error.missing_bytes)


def test_tied_weights_count_in_both_of_their_shards(traced: TracedGraph) -> None:
    sums = problem(traced, KIB).sums
    embedding = 512 * 64 * 4
    whole = sums.from_node(0).parameter_bytes[-1]
    middle = traced.cut_positions[len(traced.cut_positions) // 2]
    first = sums.from_node(0).parameter_bytes[middle - 1]
    second = sums.from_node(middle).parameter_bytes[-1]
    assert first + second == whole + embedding
    assert sums.from_node(0).gradient_bytes[-1] >= whole + embedding - 2048, "a region of gradients for each use"


def test_every_node_has_a_cost(traced: TracedGraph) -> None:
    costs = node_costs(traced)
    assert len(costs) == len(traced.nodes)
    products = [
        cost for node, cost in zip(traced.nodes, costs, strict=True) if str(node.target) == "aten.addmm.default"
    ]
    assert products and all(cost.backward.flops == 2 * cost.forward.flops > 0 for cost in products)
    assert any(cost.internal_bytes for cost in costs), "dropout keeps a mask"


def test_what_nothing_upstream_trains_has_no_backward_in_the_estimates() -> None:
    """A Llama whose second layer alone has adapters, against the one that is trained whole."""
    path = "support.adapters:lora_llama"
    frozen, free = (trace(job, batch_for(gpt2())) for job in (job_of(path, {}), job_of(path, {"trained": "all"})))
    ends = frozen.cut_positions
    adapted, whole = (problem(each, 1 << 30).sums.from_node(0) for each in (frozen, free))
    first = next(end for end in ends if adapted.has_backward[end - 1])
    early = [end - 1 for end in ends if end < first]
    assert early and whole.has_backward[early].all()
    assert not adapted.backward_s[early].any()
    assert (adapted.workspace_bytes[early] <= whole.workspace_bytes[early]).all()
    assert adapted.backward_s[-1] < whole.backward_s[-1]
    assert problem(frozen, 1 << 30).time(0, adapted)[-1] < problem(free, 1 << 30).time(0, whole)[-1]
