"""A traced graph under one choice of cuts: where everything lies, and programs that run it.

Slabs: one private slab a shard, "3", and one for each set of parameters read by the same several shards,
"0+7". Small read-only tensors (inverse frequencies, lifted constants) lie in the private slab of each shard
that reads them: nobody updates them, so copies agree, and no shard has to load a slab for a few bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from torch import Tensor

from hydraplan.planner.frontend.shards.cell import LOSS, EagerShard, extent_bytes
from hydraplan.planner.frontend.shards.gradients import GradientFlow, gradient_flow
from hydraplan.planner.frontend.shards.program import Bundle, ShardedGraph, SlabLayout, TensorLayout
from hydraplan.planner.frontend.shards.slices import Slice, slices
from hydraplan.planner.frontend.tracing.cuts import is_small_constant
from hydraplan.planner.frontend.tracing.traced import Placeholder, TracedGraph, value_of
from hydraplan.plans.language.errors import TraceError

ALIGNMENT = 256


def shard(traced: TracedGraph, cuts: Sequence[int]) -> ShardedGraph:
    """The graph cut at the given positions; TraceError where a position is not allowed.

    Of a job with lengths the largest bucket's, which holds the others; TraceError where other gradients flow in one.
    """
    check_cuts(traced, cuts)
    cut = [slices(graph, cuts) for graph in traced.buckets]
    flows = [gradient_flow(parts, graph.loss) for graph, parts in zip(traced.buckets, cut, strict=True)]
    if any(flow.flows != flows[-1].flows for flow in flows):
        raise TraceError(
            "lengths: the gradients that cross the cuts are not the same at each bucket; "
            "cut elsewhere, or declare the largest bucket alone"
        )
    slabs = _slabs(traced, cut, flows[-1])
    *shorter, largest = [
        _shard(graph, cuts, parts, flow, slabs) for graph, parts, flow in zip(traced.buckets, cut, flows, strict=True)
    ]
    return replace(largest, shorter=tuple(shorter))


def _shard(
    traced: TracedGraph,
    cuts: Sequence[int],
    parts: Sequence[Slice],
    gradients: GradientFlow,
    slabs: tuple[SlabLayout, ...],
) -> ShardedGraph:
    slab_of = {entry.name: slab.name for slab in slabs for entry in slab.entries if entry.requires_grad}
    values = {node.name: value_of(node) for part in parts for node in part.nodes if node.name in part.outputs}
    made_by = {name: part.number for part in parts for name in part.outputs}
    return ShardedGraph(
        cuts=tuple(cuts),
        slabs=slabs,
        activations=tuple(_bundle((_name(traced, name), values[name], ()) for name in part.outputs) for part in parts),
        activation_gradients=tuple(
            _bundle((name, values[name], gradients.strides[name]) for name in part.outputs if name in gradients.strides)
            for part in parts
        ),
        batch=tuple(
            _bundle((each.name, each.value, ()) for each in part.arguments if each.kind == "batch") for part in parts
        ),
        buffers=tuple(
            _bundle((each.name, each.value, ()) for each in part.arguments if each.kind == "buffer") for part in parts
        ),
        reads=tuple(
            tuple(sorted({each.producer for each in part.arguments if each.kind == "input"})) for part in parts
        ),
        gradients_to=tuple(tuple(sorted({made_by[name] for name in flow.inputs})) for flow in gradients.flows),
        parameter_gradients=tuple(
            _parameter_gradients(part, set(flow.sites), slabs)
            for part, flow in zip(parts, gradients.flows, strict=True)
        ),
        use_sites=_use_sites(parts, gradients),
        programs=tuple(EagerShard(part, flow, slab_of) for part, flow in zip(parts, gradients.flows, strict=True)),
    )


def check_cuts(traced: TracedGraph, cuts: Sequence[int]) -> None:
    """TraceError where cuts do not ascend, or one is no allowed position; names the nearest allowed one."""
    if list(cuts) != sorted(set(cuts)):
        raise TraceError(f"cuts {list(cuts)} have to ascend")
    allowed = set(traced.cut_positions)
    for cut in cuts:
        if cut not in allowed:
            near = min(traced.cut_positions, key=lambda each: (abs(each - cut), each), default=None)
            raise TraceError(f"the graph cannot be cut at {cut}; the nearest allowed position is {near}")


# -- slabs --------------------------------------------------------------------------------------------


def _slabs(traced: TracedGraph, cut: Sequence[Sequence[Slice]], gradients: GradientFlow) -> tuple[SlabLayout, ...]:
    """The slabs of all buckets: their graphs read the same tensors, but for constants, of which each has its own.

    `cut`: each bucket's slices, the largest bucket's last, which `gradients` is of.
    """
    parts = cut[-1]
    readers: dict[str, set[int]] = defaultdict(set)
    for part in chain(*cut):
        for name in part.tensors:
            readers[name].add(part.number)
    trained = {
        site.parameter
        for part, flow in zip(parts, gradients.flows, strict=True)
        for site in part.sites
        if site.name in set(flow.sites)
    }
    values: dict[str, Tensor] = {}
    placeholders: dict[str, Placeholder] = {}
    for graph in traced.buckets:
        nodes = {node.name: node for node in graph.graph.nodes if node.op == "placeholder"}
        placeholders |= {each.name: each for each in graph.placeholders if each.role != "batch"}
        values |= {each.name: value_of(nodes[each.node]) for each in graph.placeholders}
    sharers: dict[str, list[str]] = defaultdict(list)
    for each in placeholders.values():
        if each.memory:
            sharers[each.memory].append(each.name)
    for names in sharers.values():  # one memory has one place
        together = set[int]().union(*(readers[name] for name in names))
        readers.update((name, together) for name in names)
    shares = {name: names[0] for names in sharers.values() for name in names[1:]}
    members: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for placeholder in placeholders.values():
        shards = tuple(sorted(readers[placeholder.name]))
        if not placeholder.memory and is_small_constant(placeholder, values[placeholder.name]):
            for number in shards:
                members[(number,)].append(placeholder.name)
        else:
            members[shards].append(placeholder.name)
    updated = {each.name for each in traced.placeholders if each.updated}
    return tuple(
        _slab(shards, names, values, trained, updated, shares)
        for shards, names in sorted(members.items(), key=lambda item: (len(item[0]) > 1, item[0]))
    )


def _slab(
    shards: tuple[int, ...],
    names: Sequence[str],
    values: Mapping[str, Tensor],
    trained: set[str],
    updated: set[str],
    shares: Mapping[str, str],
) -> SlabLayout:
    entries: list[TensorLayout] = []
    offset = trainable = buffers = 0
    for name in sorted(names, key=lambda name: (name not in trained, name not in updated)):
        entry = replace(_layout(name, values[name], (), offset, name in trained), shares=shares.get(name))
        entries.append(entry)
        offset += entry.size_bytes
        trainable += entry.size_bytes if name in trained else 0
        buffers += entry.size_bytes if name in updated else 0
    return SlabLayout(
        name="+".join(map(str, shards)),
        readers=shards,
        entries=tuple(entries),
        parameter_bytes=offset,
        trainable_bytes=trainable,
        buffer_bytes=buffers,
    )


# -- bundles ------------------------------------------------------------------------------------------


def _layout(
    name: str, value: Tensor, strides: Sequence[tuple[int, ...]], offset: int, requires_grad: bool
) -> TensorLayout:
    """Room for the value, dense or with its strides or any of `strides`, whichever is largest."""
    shape = tuple(value.shape)
    itemsize = value.dtype.itemsize
    sizes = [extent_bytes(shape, each, itemsize) for each in (tuple(value.stride()), *strides)]
    size = max(*sizes, value.numel() * itemsize)
    return TensorLayout(
        name=name,
        shape=shape,
        stride=strides[-1] if strides else tuple(value.stride()),
        dtype=value.dtype,
        offset_bytes=offset,
        size_bytes=-(-size // ALIGNMENT) * ALIGNMENT,
        requires_grad=requires_grad,
    )


def _bundle(tensors: Iterable[tuple[str, Tensor, Sequence[tuple[int, ...]]]]) -> Bundle:
    entries: list[TensorLayout] = []
    offset = 0
    for name, value, strides in tensors:
        entries.append(_layout(name, value, strides, offset, False))
        offset += entries[-1].size_bytes
    return Bundle(tensors=tuple(entries), size_bytes=offset)


def _name(traced: TracedGraph, node: str) -> str:
    return LOSS if node == traced.loss else node


def _parameter_gradients(part: Slice, flowing: set[str], slabs: Sequence[SlabLayout]) -> tuple[tuple[str, Bundle], ...]:
    sites: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)
    values = {each.name: each.value for each in part.arguments if each.kind == "site"}
    for site in reversed(part.sites):
        if site.name in flowing:
            sites[site.parameter].append((site.name, values[site.name]))
    found = []
    for slab in slabs:
        tensors = [(*each, ()) for entry in slab.entries for each in sites.get(entry.name, ())]
        if tensors:
            found.append((slab.name, _bundle(tensors)))
    return tuple(found)


def _use_sites(parts: Sequence[Slice], gradients: GradientFlow) -> dict[str, tuple[tuple[int, str], ...]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for part, flow in reversed(list(zip(parts, gradients.flows, strict=True))):
        flowing = set(flow.sites)
        for site in reversed(part.sites):
            if site.name in flowing:
                found[site.parameter].append((part.number, site.name))
    return {name: tuple(sites) for name, sites in found.items()}
