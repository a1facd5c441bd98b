"""Estimates for every segment [a, b) of a traced graph, from sums over its nodes: what the partition chooses by.

    node      embedding   addmm   gelu   addmm   add
    saved         -         x       x      -      -        what its backward needs, were the shard run again
    crossing  0          1       2      2       2      1   bytes over the boundary left of each node

Recomputed values cross nothing (EXACTNESS.md, rule 16). A parameter that a segment reads twice lies in it once, one
that two segments read (tied weights) in both; its gradients take a region for each use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from hydraplan.planner.costs.liveness import value_bytes
from hydraplan.planner.costs.nodes import NodeCost, node_costs, tensor_arguments
from hydraplan.planner.costs.operators import seconds
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.workload import Profile

Bytes = NDArray[np.int64]
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """All arrays have an entry for each possible end b, from a + 1 to the number of nodes."""

    forward_s: Seconds
    backward_s: Seconds
    """Of a kept forward."""
    parameter_bytes: Bytes
    gradient_bytes: Bytes
    workspace_bytes: Bytes
    """Of forward and backward in one, fresh gradients included; an upper estimate."""
    has_backward: NDArray[np.bool_]
    """Whether any value in it needs a gradient."""
    out_bytes: Bytes
    """Values that cross the segment's end."""


class GraphSums:
    """Prefix sums of one graph on one profile; `from_node(a)` gives the estimates of all segments that begin at a."""

    def __init__(self, traced: TracedGraph, profile: Profile) -> None:
        costs = node_costs(traced)
        self.nodes = traced.nodes
        self._number = {node: number for number, node in enumerate(traced.nodes)}
        self._recomputed = traced.recomputed
        self._forward = _prefix([seconds(cost.forward, profile) for cost in costs], np.float64)
        self._backward = _prefix([seconds(cost.backward, profile) for cost in costs], np.float64)
        self._with_gradient = _prefix([int(traced.requires_grad[node.name]) for node in traced.nodes], np.int64)
        self._saved = _prefix(self._saved_bytes(costs), np.int64)
        self.crossing = self._crossing_bytes()
        """Boundary 0 .. number of nodes -> bytes of the values that cross it."""
        self._read_parameters(traced)
        own = np.diff(self._saved) + np.diff(self._gradients)
        alone = np.array([cost.peak_bytes for cost in costs], dtype=np.int64) - own
        passing = np.array([self._passing_bytes(node) for node in traced.nodes], dtype=np.int64)
        self._passing = np.maximum(passing, alone)
        """What a node holds while it runs, besides what it saves and its parameters' gradients."""

    def from_node(self, begin: int) -> Segments:
        ends = slice(begin + 1, None)
        new = np.where(self._previous_use < begin, self._use_bytes, 0)[self._first_use[begin] :]
        parameters = np.concatenate([[0], np.cumsum(new)])
        gradients = self._gradients[ends] - self._gradients[begin]
        # While node i's backward runs, what nodes up to i saved is held, and the gradients from i on are made.
        held = self._saved[begin + 1 :] - self._gradients[begin:-1] + self._passing[begin:]
        peak = np.maximum.accumulate(held) - self._saved[begin] + self._gradients[ends]
        return Segments(
            forward_s=self._forward[ends] - self._forward[begin],
            backward_s=self._backward[ends] - self._backward[begin],
            parameter_bytes=parameters[self._first_use[ends] - self._first_use[begin]],
            gradient_bytes=gradients,
            workspace_bytes=peak,
            has_backward=self._with_gradient[ends] > self._with_gradient[begin],
            out_bytes=self.crossing[ends],
        )

    def largest_tensor(self, begin: int, end: int) -> tuple[str, int]:
        """Name and bytes of the largest tensor that a segment's nodes read from outside the graph, or make."""
        uses = range(self._first_use[begin], self._first_use[end])
        candidates = [(int(self._use_bytes[use]), self._use_names[use]) for use in uses]
        candidates += [(value_bytes(node), node.name) for node in self.nodes[begin:end]]
        size, name = max(candidates, key=lambda each: each[0])
        return name, size

    # -- values ---------------------------------------------------------------------------------------

    def _saved_bytes(self, costs: tuple[NodeCost, ...]) -> list[int]:
        """Per node: storage that it makes and that some backward needs."""
        roots: dict[Node, Node] = {}
        saved: set[Node] = set()
        for node, cost in zip(self.nodes, costs, strict=True):
            arguments = tensor_arguments(node)
            source = node if cost.view_of is None else arguments[cost.view_of]
            roots[node] = roots.get(source, source)
            saved.update(roots.get(arguments[number], arguments[number]) for number in cost.saved)
            if cost.saves_output:
                saved.add(roots[node])
        return [
            cost.internal_bytes + (cost.output_bytes if node in saved else 0)
            for node, cost in zip(self.nodes, costs, strict=True)
        ]

    def _passing_bytes(self, node: Node) -> int:
        """The gradients of a node's result and of the values that it reads."""
        return value_bytes(node) + sum(value_bytes(each) for each in node.all_input_nodes if each in self._number)

    def _crossing_bytes(self) -> Bytes:
        change = np.zeros(len(self.nodes) + 1, dtype=np.int64)
        for number, node in enumerate(self.nodes):
            if node.name in self._recomputed:
                continue
            readers = [self._number[user] for user in node.users if user in self._number]
            if readers:
                change[number + 1] += value_bytes(node)
                change[max(readers) + 1] -= value_bytes(node)
        return np.cumsum(change)

    # -- parameters -----------------------------------------------------------------------------------

    def _read_parameters(self, traced: TracedGraph) -> None:
        outside = {each.node: each for each in traced.placeholders if each.role != "batch"}
        last_use: dict[str, int] = {}
        names, sizes, previous, first_use = [], [], [], [0]
        gradients = []
        for number, node in enumerate(self.nodes):
            gradient = 0
            for each in node.all_input_nodes:
                if each.name in outside:
                    names.append(outside[each.name].name)
                    sizes.append(value_bytes(each))
                    previous.append(last_use.get(each.name, -1))
                    last_use[each.name] = number
                    if traced.requires_grad[each.name] and traced.requires_grad[node.name]:
                        gradient += sizes[-1]
            first_use.append(len(names))
            gradients.append(gradient)
        self._use_names = names
        self._use_bytes = np.array(sizes, dtype=np.int64)
        self._previous_use = np.array(previous, dtype=np.int64)
        self._first_use = np.array(first_use, dtype=np.int64)
        self._gradients = _prefix(gradients, np.int64)


def _prefix(values: list[int] | list[float], kind: type[np.int64] | type[np.float64]) -> NDArray[Any]:
    return np.concatenate([np.zeros(1, dtype=kind), np.cumsum(np.array(values, dtype=kind))])
