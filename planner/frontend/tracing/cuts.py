"""Where a traced graph may be cut, and which values are computed again rather than carried over a cut.

A value is computed again by every shard that reads it if it has no gradient (EXACTNESS.md, rule 16) and comes, by
few cheap operators, from batch values and small constants alone: masks, positions. It is then no obstacle:

    position       0        1        2        3
    node       arange   | addmm  | mask   | attention        a cut before `mask` is the same as one before
                                                             `attention`, so only the latter is offered

Cuts are forbidden between the creation and the last write of memory that an in-place operator writes to, between the
first and the last use of a buffer that the forward updates, and between an operator with several results and the
getitems that pick them (rule 3).
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence

import networkx as nx
from torch import Tensor
from torch.fx import Node

from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.buffers import touched
from hydraplan.planner.frontend.tracing.evaluation import Evaluation, mutated_inputs_of, tensors_in
from hydraplan.planner.frontend.tracing.operators import MATRIX_PRODUCTS, base_name
from hydraplan.planner.frontend.tracing.traced import Placeholder

SMALL_BYTES = 64 * 1024
"""A read-only tensor up to this size lies in the slab of every shard that reads it."""

MOST_NODES = 256
"""Most operators that a value computed again may need."""

MOST_TRAFFIC = 16
"""Most bytes that they may make together, per byte of the value (and 1 MiB for free)."""


def recomputed_nodes(
    nodes: Sequence[Node], placeholders: Mapping[str, Placeholder], evaluation: Evaluation
) -> frozenset[str]:
    """Names of the nodes that every shard which reads them computes again."""
    written = _written_storages(nodes, evaluation)
    cheap = nx.DiGraph()
    """What is computed again, with what it is computed from."""
    for node in nodes:
        inputs = node.all_input_nodes
        if not _is_cheap(node, evaluation, written):
            continue
        if not all(each in cheap or _is_cheap_input(each, placeholders, evaluation, written) for each in inputs):
            continue
        cheap.add_node(node)
        cheap.add_edges_from((each, node) for each in inputs if each in cheap)
        chain = {node, *nx.ancestors(cheap, node)}
        made = sum(_bytes(each) for each in chain)
        if len(chain) > MOST_NODES or made > MOST_TRAFFIC * _bytes(node) + (1 << 20):
            cheap.remove_node(node)
    return frozenset(node.name for node in cheap)


def is_small_constant(placeholder: Placeholder, value: Tensor) -> bool:
    """Whether copies of a read-only tensor go into the slab of every shard that reads it."""
    return placeholder.role in ("buffer", "constant") and _tensor_bytes(value) <= SMALL_BYTES


def cut_positions(nodes: Sequence[Node], recomputed: frozenset[str], evaluation: Evaluation) -> tuple[int, ...]:
    """Every allowed position, ascending; none makes an empty shard, no two make the same shards."""
    anchors = [number for number, node in enumerate(nodes) if node.name not in recomputed]
    forbidden = _forbidden(nodes, recomputed, evaluation)
    return tuple(number for number in anchors[1:] if number not in forbidden)


def _forbidden(nodes: Sequence[Node], recomputed: frozenset[str], evaluation: Evaluation) -> set[int]:
    order = {node: number for number, node in enumerate(nodes)}
    forbidden: set[int] = set()
    for number, node in enumerate(nodes):
        if not isinstance(node.meta["val"], Tensor) and node.name not in recomputed:
            picks = [order[user] for user in node.users if user.target is operator.getitem]
            forbidden.update(range(number + 1, max(picks, default=number) + 1))
    uses: dict[int, list[int]] = defaultdict(list)
    """Storage -> the nodes that touch it, ascending: the first makes it, unless it comes from outside."""
    for number, node in enumerate(nodes):
        for storage in touched(node, evaluation):
            uses[storage].append(number)
    outside = {
        storage
        for node in nodes
        for each in node.all_input_nodes
        if each.op == "placeholder"
        for storage in evaluation.storages[each]
    }
    for number, node in enumerate(nodes):
        for target in mutated_inputs_of(node):
            for storage in evaluation.storages[target]:
                last = uses[storage][-1] if storage in outside else number
                forbidden.update(range(uses[storage][0] + 1, last + 1))
    return forbidden


def _written_storages(nodes: Sequence[Node], evaluation: Evaluation) -> set[int]:
    return {storage for node in nodes for target in mutated_inputs_of(node) for storage in evaluation.storages[target]}


def _is_cheap(node: Node, evaluation: Evaluation, written: set[int]) -> bool:
    if node.meta["requires_grad"] or node.target in keyed.KEYED or evaluation.storages[node] & written:
        return False
    return base_name(node) not in MATRIX_PRODUCTS or _is_outer_product(node)


def _is_outer_product(node: Node) -> bool:
    """A product over a dimension of one (rotary positions): no more than a broadcast multiplication."""
    values = [each.meta["val"] for each in node.all_input_nodes]
    return base_name(node) in ("matmul", "bmm") and len(values) == 2 and values[0].shape[-1] == 1


def _is_cheap_input(
    node: Node, placeholders: Mapping[str, Placeholder], evaluation: Evaluation, written: set[int]
) -> bool:
    if node.op != "placeholder" or evaluation.storages[node] & written:
        return False
    placeholder = placeholders[node.name]
    return placeholder.role == "batch" or is_small_constant(placeholder, node.meta["val"])


def _bytes(node: Node) -> int:
    value = node.meta["val"]
    return sum(_tensor_bytes(each) for each in tensors_in(value))


def _tensor_bytes(value: Tensor) -> int:
    return int(value.numel()) * value.dtype.itemsize
