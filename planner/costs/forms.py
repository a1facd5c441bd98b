"""The form of a shard: equal for shards that are the same computation on other weights.

Nodes get numbers in place of names, what comes from outside is described by shape, kind and order of use. The equal
blocks of a model have one form, so that one of them is measured for all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.planner.frontend.tracing.traced import TracedGraph


@dataclass(frozen=True, slots=True)
class _Reference:
    """A node in a form: inside of the shard, or among what it reads."""

    inside: bool
    number: int


class ShardForms:
    """Forms of the shards of one graph under one choice of cuts, and which gradients run through them."""

    def __init__(self, traced: TracedGraph, sharded: ShardedGraph) -> None:
        self.traced = traced
        self.sharded = sharded
        self._roles = {each.node: (each.role, each.trainable, each.updated) for each in traced.placeholders}
        self._position = {node: number for number, node in enumerate(traced.nodes)}

    @cached_property
    def _last_reader(self) -> Mapping[str, int]:
        """Value -> the last shard that reads it."""
        return {
            node.name: max((self._shard(user) for user in node.users if user in self._position), default=-1)
            for node in self.traced.nodes
        }

    def running(self, number: int) -> dict[int, tuple[str, ...]]:
        """Producer -> names of the values read here whose gradients later shards have begun already."""
        sharded = self.sharded
        return {
            producer: tuple(
                tensor.name
                for tensor in sharded.activation_gradients[producer].tensors
                if self._last_reader[tensor.name] > number
            )
            for producer in sharded.gradients_to[number]
        }

    def form(self, number: int) -> str:
        """A text that is equal for equal shards."""
        nodes = self._nodes(number)
        inside = {node: index for index, node in enumerate(nodes)}
        outside: dict[Node, int] = {}

        def reference(node: Node) -> _Reference:
            if node in inside:
                return _Reference(True, inside[node])
            return _Reference(False, outside.setdefault(node, len(outside)))

        lines = []
        for node in nodes:
            arguments = map_arg((node.args, node.kwargs), reference)  # type: ignore[arg-type]
            lines.append(f"{node.target} {arguments} {self._value(node)} {node.meta.get('context')}")
        begun = {name for names in self.running(number).values() for name in names}
        lines += [f"{self._roles.get(node.name)} {self._value(node)} {node.name in begun}" for node in outside]
        names = {node.name: index for node, index in inside.items()}
        for bundle in (self.sharded.activations[number], self.sharded.activation_gradients[number]):
            lines.append(" ".join(str(names.get(tensor.name, tensor.name)) for tensor in bundle.tensors))
        return "\n".join(lines)

    def _shard(self, node: Node) -> int:
        return bisect_right(self.sharded.cuts, self._position[node])

    def _nodes(self, number: int) -> list[Node]:
        """What the shard runs: its own nodes, and the recomputed ones that they need, in graph order."""
        cuts = (0, *self.sharded.cuts, len(self.traced.nodes))
        recomputed = self.traced.recomputed
        chosen = {node for node in self.traced.nodes[cuts[number] : cuts[number + 1]] if node.name not in recomputed}
        todo = list(chosen)
        while todo:
            for each in todo.pop().all_input_nodes:
                if each.name in recomputed and each not in chosen:
                    chosen.add(each)
                    todo.append(each)
        return sorted(chosen, key=self._position.__getitem__)

    def _value(self, node: Node) -> str:
        value: Any = node.meta["val"]
        values = value if isinstance(value, (tuple, list)) else (value,)
        tensors = [each for each in values if isinstance(each, Tensor)]
        parts = [f"{tuple(each.shape)} {tuple(each.stride())} {each.dtype}" for each in tensors]
        return f"{parts} {self.traced.requires_grad[node.name]}"
