"""The graphs of a job's buckets as one: a plan's cuts, slabs and lists serve all of them, so they have to be alike.

    bucket 64    embedding -> add -> layer_norm -> view(2, 64, 32)  -> ...
    bucket 128   embedding -> add -> layer_norm -> view(2, 128, 32) -> ...      the same but for numbers

What is alike: the nodes in order, with their names, operators, arguments (numbers apart), modes and gradient flags, and
what they read from outside. What is computed again is what the largest bucket's graph says; a cut is allowed where all
graphs allow it. Constants lifted from the model's code may depend on the length: each graph has its own, named so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import zip_longest
from typing import Any

from torch import Tensor
from torch.fx import Node

from hydraplan.planner.frontend.tracing.functions import Applied
from hydraplan.planner.frontend.tracing.refusals import where
from hydraplan.planner.frontend.tracing.traced import Placeholder, TracedGraph
from hydraplan.plans.language.errors import TraceError

MARK = "@"


def constant_name(name: str, bucket: int) -> str:
    """Name of a constant in the graph of one bucket."""
    return f"{name}{MARK}{bucket}"


def name_in_code(constant: str) -> str:
    """The name that tracing gave the constant, in whatever bucket."""
    return constant.partition(MARK)[0]


def as_one(graphs: Sequence[TracedGraph], buckets: Sequence[int]) -> TracedGraph:
    """The largest bucket's graph, which holds the others; `graphs` and `buckets` ascend.

    Raises TraceError where one is unlike the largest, with the first node that differs.
    """
    *shorter, largest = graphs
    if not shorter:
        return largest
    for graph, bucket in zip(shorter, buckets, strict=False):
        _refuse_unlike(graph, largest, bucket, buckets[-1])
    positions = tuple(sorted(set(largest.cut_positions).intersection(*(each.cut_positions for each in shorter))))
    common = [replace(each, recomputed=largest.recomputed, cut_positions=positions) for each in graphs]
    digest = sha256("\n".join(each.digest for each in graphs).encode()).hexdigest()
    return replace(common[-1], digest=digest, shorter=tuple(common[:-1]))


def _refuse_unlike(graph: TracedGraph, largest: TracedGraph, bucket: int, longest: int) -> None:
    here, there = _descriptions(graph), _descriptions(largest)
    for node, other in zip_longest(graph.graph.nodes, largest.graph.nodes):
        place = where((other or node).meta.get("source"))
        if node is None or other is None or _form(node, here) != _form(other, there):
            raise TraceError(
                f"lengths: {place}: bucket {bucket} has {_shown(node)}, bucket {longest} has {_shown(other)}; "
                "one plan serves all buckets only where the model does the same at each: "
                f"leave out bucket {bucket}, or take from the model's code what depends on the length"
            )
        if node.name in largest.recomputed - graph.recomputed:
            raise TraceError(
                f"lengths: {place}: {_shown(other)} is computed again by each reader at bucket {longest} and "
                f"cannot be at bucket {bucket}; leave out bucket {bucket}"
            )


def _descriptions(graph: TracedGraph) -> dict[str, Placeholder]:
    return {
        each.node: replace(each, name=name_in_code(each.name), aliases=()) if each.role == "constant" else each
        for each in graph.placeholders
    }


def _form(node: Node, described: Mapping[str, Placeholder]) -> tuple[object, ...]:
    """What has to be equal of a node in all buckets."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple) else (value,)
    return (
        node.op,
        node.name,
        _operator(node),
        _argument((node.args, node.kwargs)),
        described.get(node.name),
        node.meta.get("context"),
        node.meta.get("requires_grad"),
        tuple((each.dtype, each.dim()) if isinstance(each, Tensor) else None for each in values),
    )


def _operator(node: Node) -> str:
    # what runs inside of a custom function may depend on the length, as within an operator
    return str(node.target.function) if isinstance(node.target, Applied) else str(node.target)


def _argument(value: Any) -> object:
    match value:
        case Node():
            return f"%{value.name}"
        case bool():
            return value
        case int() | float():
            return "a number"
        case list() | tuple():
            return tuple(_argument(each) for each in value)
        case dict():
            return tuple((name, _argument(each)) for name, each in value.items())
        case slice():
            return "slice", _argument((value.start, value.stop, value.step))
        case _:
            return str(value)


def _shown(node: Node | None) -> str:
    return "no more nodes" if node is None else str(node.format_node() or node.name)
