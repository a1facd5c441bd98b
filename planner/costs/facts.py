"""Facts of a traced graph and of its layout under given cuts: sizes, reads and costs of its shards.

Shards of one form are measured once; times follow for every profile from the same counted work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import reduce

from hydraplan.planner.costs.forms import ShardForms
from hydraplan.planner.costs.liveness import value_bytes
from hydraplan.planner.costs.operators import duration_us
from hydraplan.planner.costs.shards import ShardCost, measure
from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.traced import Placeholder, TracedGraph
from hydraplan.plans.language.facts import CellTimes, Graph, Layout, ShardFacts, SlabFacts
from hydraplan.plans.language.workload import Profile


def layout_facts(
    traced: TracedGraph, graph: str, cuts: tuple[int, ...], profiles: Sequence[Profile], *, threads: int
) -> Layout:
    """The graph's shards and slabs under these cuts. Raises TraceError where a cut is not allowed.

    `threads`: the most that a job of this layout gives a cell; some kernels need memory for each.
    """
    sharded = shard(traced, cuts)
    buckets = [
        _bucket_facts(graph, cut, profiles, threads) for graph, cut in zip(traced.buckets, sharded.buckets, strict=True)
    ]
    slabs = tuple(
        SlabFacts(
            name=slab.name,
            readers=slab.readers,
            parameter_bytes=slab.parameter_bytes,
            trainable_bytes=slab.trainable_bytes,
            buffer_bytes=slab.buffer_bytes,
        )
        for slab in sharded.slabs
    )
    shards = tuple(reduce(_larger, each) for each in zip(*buckets, strict=True))
    return Layout(graph=graph, cuts=cuts, shards=shards, slabs=slabs)


def _bucket_facts(
    traced: TracedGraph, sharded: ShardedGraph, profiles: Sequence[Profile], threads: int
) -> list[ShardFacts]:
    forms = ShardForms(traced, sharded)
    costs: dict[str, ShardCost] = {}
    shards = []
    for number in range(len(sharded.programs)):
        form = forms.form(number)
        if form not in costs:
            costs[form] = measure(sharded, number, forms.running(number), threads)
        shards.append(_shard_facts(sharded, number, costs[form], profiles))
    return shards


def _larger(one: ShardFacts, other: ShardFacts) -> ShardFacts:
    """What does for a shard at either of two buckets: the larger of each figure (nearly always the longer's)."""
    names = [each.name for each in fields(ShardFacts) if isinstance(getattr(one, each.name), int)]
    figures = {name: max(getattr(one, name), getattr(other, name)) for name in names}
    times = tuple(
        replace(
            mine,
            forward_us=max(mine.forward_us, others.forward_us),
            backward_us=max(mine.backward_us, others.backward_us),
        )
        for mine, others in zip(one.times, other.times, strict=True)
    )
    return replace(one, **figures, times=times)


def _shard_facts(sharded: ShardedGraph, number: int, cost: ShardCost, profiles: Sequence[Profile]) -> ShardFacts:
    memory = cost.memory
    read = [slab for slab in sharded.slabs if number in slab.readers]
    return ShardFacts(
        slabs=tuple(slab.name for slab in sorted(read, key=lambda slab: len(slab.readers) > 1)),
        reads=sharded.reads[number],
        gradients_to=sharded.gradients_to[number],
        gradient_bytes=tuple((slab, bundle.size_bytes) for slab, bundle in sharded.parameter_gradients[number]),
        activation_bytes=sharded.activations[number].size_bytes,
        activation_gradient_bytes=sharded.activation_gradients[number].size_bytes,
        batch_bytes=sharded.batch[number].size_bytes,
        forward_workspace_bytes=memory.forward_workspace_bytes,
        backward_workspace_bytes=memory.backward_workspace_bytes,
        recompute_workspace_bytes=memory.recompute_workspace_bytes,
        keep_workspace_bytes=memory.keep_workspace_bytes,
        kept_bytes=memory.kept_bytes,
        buffer_bytes=sharded.buffers[number].size_bytes,
        times=tuple(
            CellTimes(
                profile=profile.name,
                forward_us=duration_us(cost.forward, profile),
                backward_us=duration_us(cost.backward, profile),
            )
            for profile in profiles
        ),
    )


def graph_facts(traced: TracedGraph, name: str) -> Graph:
    """Facts of a graph that hold whatever its cuts."""
    sizes: dict[Placeholder, int] = {}
    for graph in traced.buckets:  # they differ in their constants alone
        nodes = {node.name: node for node in graph.graph.nodes}
        sizes |= {each: value_bytes(nodes[each.node]) for each in graph.placeholders if each.role != "batch"}
    return Graph(
        name=name,
        digest=traced.digest,
        nodes=len(traced.nodes),
        cut_positions=traced.cut_positions,
        parameter_bytes=sum(size for each, size in sizes.items() if each.role == "parameter"),
        construction_bytes=traced.construction_bytes,
    )
