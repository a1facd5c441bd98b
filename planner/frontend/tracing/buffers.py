"""Buffers that a forward updates: running statistics, counters, moving averages.

The graph writes to them in place, as the model does; a shard's code does so on a copy of what it is given, and
gives back what the copy is then (`planner.frontend.shards.slices`). All that touches such a buffer is in one shard.

    self.mean.mul_(0.9).add_(...)     a write in place, where it stands
    self.mean = 0.9 * self.mean + x   torch.export forgets it, except on the outermost module. So while it traces,
                                      assignments are noted, and written to the buffer at the forward's end
                                      (`written_back`); that copy is then moved up to where the new value is there
                                      and the old one is not read any more (`settle_assignments`)
    self.count += 1                   written in place, and assigned to itself
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn.modules.module import register_module_buffer_registration_hook

from hydraplan.planner.frontend.tracing.evaluation import Evaluation, evaluate
from hydraplan.planner.frontend.tracing.operators import mutated_inputs
from hydraplan.planner.frontend.tracing.refusals import UntraceableError
from hydraplan.planner.frontend.tracing.traced import Placeholder


@contextmanager
def written_back(module: nn.Module) -> Iterator[None]:
    """While torch.export traces a module: what its forward assigns to buffers is copied into them at its end."""
    names = {id(each._buffers): path for path, each in module.named_modules()}
    kept = [(each, dict(each._buffers)) for each in module.modules()]
    found: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    """(module, buffer) -> (as the forward found it, as it was assigned last)."""

    def note(owner: nn.Module, name: str, value: Any) -> None:
        path = names.get(id(owner._buffers))
        before = owner._buffers.get(name)
        if path is None or before is None or before is value:
            return
        key = (path, name)
        first = found[key][0] if key in found else before
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (first.shape, first.dtype):
            form = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UntraceableError(
                f"the forward assigns {form} to buffer {name!r}, which is {first.dtype} {tuple(first.shape)}",
                "assign a tensor of the buffer's type and shape",
            )
        found[key] = (first, value)

    def write_back(*_: object) -> None:
        for before, value in found.values():
            before.copy_(value)
        found.clear()

    noting = register_module_buffer_registration_hook(note)
    writing = module.register_forward_hook(write_back)
    try:
        yield
    finally:
        noting.remove()
        writing.remove()
        for each, buffers in kept:  # not those that the forward has put in their places
            each._buffers.update(buffers)


def settle_assignments(graph: Graph, placeholders: Mapping[str, Placeholder]) -> None:
    """Move what assigns a buffer anew up to where it can stand; without this a shard would reach to the graph's end."""
    copies = [node for node in graph.nodes if _assigns(node)]
    if not copies:
        return
    evaluation = evaluate(graph, placeholders)
    for node in copies:
        buffer, value = node.args[:2]
        assert isinstance(buffer, Node)
        if isinstance(value, Node) and _origin(value, evaluation) is buffer:
            graph.erase_node(node)
        else:
            _last_before(node, graph, evaluation).append(node)


def writes_to_outside(node: Node, evaluation: Evaluation, sharers: Mapping[int, list[Node]]) -> bool:
    """Whether a node writes to memory that the graph reads from outside."""
    return any(
        sharer.op == "placeholder"
        for target in mutated_inputs(node)
        for storage in evaluation.storages[target]
        for sharer in sharers[storage]
    )


def _assigns(node: Node) -> bool:
    target = node.args[0] if node.args else None
    return node.target is torch.ops.aten.copy_.default and isinstance(target, Node) and target.op == "placeholder"


def _origin(node: Node, evaluation: Evaluation) -> Node:
    """The value that a node returns as it is, or itself."""
    while node in evaluation.same:
        node = evaluation.same[node]
    return node


def _last_before(node: Node, graph: Graph, evaluation: Evaluation) -> Node:
    """The last node above a copy that touches its buffer, or makes or writes to its value."""
    buffer, value = node.args[:2]
    assert isinstance(buffer, Node)
    own = evaluation.storages[buffer]
    source = evaluation.storages[value] if isinstance(value, Node) else frozenset()
    last = buffer
    for each in graph.nodes:
        if each is node:
            break
        if (
            each.op == "placeholder"
            or touched(each, evaluation) & own
            or each is value
            or any(evaluation.storages[target] & source for target in mutated_inputs(each))
        ):
            last = each
    return last


def touched(node: Node, evaluation: Evaluation) -> frozenset[int]:
    """Storages that a node reads, writes or makes."""
    return evaluation.storages.get(node, frozenset()).union(
        *(evaluation.storages[each] for each in node.all_input_nodes)
    )


__all__ = ["settle_assignments", "touched", "writes_to_outside", "written_back"]
