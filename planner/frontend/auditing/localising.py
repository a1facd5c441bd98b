"""The first value of a graph that the plain loop does not have: what a difference comes from, and its line.

    eager     addmm  tanh  mul  ...         digests of all that its operators make, as a set
    graph     linear  tanh  div  ...        run node by node from the same tensors: is each value among them?

A node stands for one or more of eager's operators; its value is the last one's. Order and form do not count, so that
what was swept from the graph, and views, are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.keyed import CellKey, Draws
from hydraplan.planner.frontend.tracing.modes import entered
from hydraplan.planner.frontend.tracing.refusals import where
from hydraplan.planner.frontend.tracing.traced import TracedGraph


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the value of everything that operators make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[bytes] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **dict(kwargs or {}))
        self.note(result)
        return result

    def note(self, values: object) -> None:
        self.seen |= {digest(each) for each in tree_leaves(values) if isinstance(each, Tensor)}


def digest(value: Tensor) -> bytes:
    """Of a tensor's elements, whatever its shape and strides."""
    flat = value.detach().contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    memory = flat.view(torch.uint8).numpy().data if flat.numel() else b""
    return blake2b(memory, digest_size=16, person=str(value.dtype).encode()[-16:]).digest()


def first_unknown(
    graph: TracedGraph, tensors: Mapping[str, Tensor], batch: Mapping[str, Tensor], key: CellKey, seen: set[bytes]
) -> str | None:
    """The first node whose value is not among those seen, and its line; None: all are."""
    placeholders = {each.node: each for each in graph.placeholders}
    known = set(seen)
    values: dict[Node, Any] = {}
    with torch.enable_grad():
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                each = placeholders[node.name]
                given = (batch if each.role == "batch" else tensors)[each.name].detach().clone()
                values[node] = given.requires_grad_(each.trainable)
                known.add(digest(given))
            elif node.op == "call_function":
                values[node] = _ran(node, values, key)
                made = [each for each in tree_leaves(values[node]) if isinstance(each, Tensor)]
                if any(digest(each) not in known for each in made):
                    return f"the first value that the plain loop has not is {node.name}'s, in {_place(node)}"
    return None


def _ran(node: Node, values: Mapping[Node, Any], key: CellKey) -> Any:
    given: Any = map_arg((node.args, dict(node.kwargs)), lambda each: values[each])
    args, kwargs = given
    if node.target in keyed.KEYED:
        args = (Draws(key, (node.meta["draw"],)), 0, *args)
    assert callable(node.target)
    with entered(node.meta["context"], "cpu"):
        return node.target(*args, **kwargs)


def _place(node: Node) -> str:
    return where(node.meta["source"])
