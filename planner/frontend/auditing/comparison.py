"""Where two sides of an audit differ first, in the order in which training makes things: loss, gradients, tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.fx import Node

from hydraplan.planner.frontend.auditing.sides import Cut, Ran
from hydraplan.planner.frontend.tracing.refusals import where
from hydraplan.planner.frontend.tracing.traced import TracedGraph

Part: TypeAlias = Literal["start", "loss", "gradient", "tensor", "draws", "outside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing that is not the same on both sides."""

    step: int
    microbatch: int
    part: Part
    text: str


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether shape, dtype and every bit are equal (NaN too; 0.0 and -0.0 are not)."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    one, other = one.detach(), other.detach()
    if one.dtype in _BITS:
        return torch.equal(one.contiguous().view(_BITS[one.dtype]), other.contiguous().view(_BITS[one.dtype]))
    return torch.equal(one, other)


_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


def shown(value: Tensor) -> str:
    """A number with all its digits."""
    return repr(value.item()) if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"


def loss_difference(eager: Ran, cut: Ran) -> str | None:
    if same_bits(eager.loss, cut.loss):
        return None
    return f"the loss is {shown(eager.loss)} in the plain loop and {shown(cut.loss)} in the graph"


def gradient_difference(eager: Ran, cut: Ran, sides: Cut, graph: TracedGraph) -> str | None:
    """Of the parameter whose gradient a backward makes first."""
    readers = last_readers(graph)
    order = {node: number for number, node in enumerate(graph.nodes)}
    names = {*eager.gradients, *cut.gradients}
    wrong = [name for name in sorted(names) if not _same_gradient(name, eager, cut, sides)]
    if not wrong:
        return None
    first = max(wrong, key=lambda name: order.get(readers.get(sides.name_of.get(name, name)), -1))  # type: ignore[arg-type]
    reader = readers.get(sides.name_of.get(first, first))
    mine, other = eager.gradients.get(first), cut.gradients.get(sides.name_of.get(first, first))
    what = f"the gradient of {first}"
    if other is None:
        what += " is made in the plain loop alone"
    elif mine is None:
        what += " is made in the graph alone"
    else:
        what += f" differs by up to {_most(mine, other)}"
    what += f" (in a backward the first of {len(wrong)} that differ)" if len(wrong) > 1 else ""
    if reader is None:
        return what
    return f"{what}; it is read last by {reader.name} in {where(reader.meta['source'])}"


def _same_gradient(name: str, eager: Ran, cut: Ran, sides: Cut) -> bool:
    mine, other = eager.gradients.get(name), cut.gradients.get(sides.name_of.get(name, name))
    if name not in eager.gradients and name in cut.gradients:  # under its name in the graph
        aliases = [alias for alias, first in sides.name_of.items() if first == name]
        mine = next((eager.gradients[alias] for alias in aliases if alias in eager.gradients), None)
    if mine is None or other is None:
        return mine is None and other is None
    # The sign of a zero says in how many parts it came, and moves no weight.
    return same_bits(mine, other) or (mine.dtype == other.dtype and torch.equal(mine, other))


def _most(one: Tensor, other: Tensor) -> str:
    if one.shape != other.shape:
        return f"shape, {tuple(one.shape)} and {tuple(other.shape)}"
    return f"{float((one.double() - other.double()).abs().max()):.3g}"


def tensor_difference(
    eager: Mapping[str, Tensor], cut: Mapping[str, Tensor], start: Mapping[str, Tensor], graph: TracedGraph
) -> str | None:
    """Of the model's parameters and buffers as they are now. `start`: those of the model that the graph has not, as
    they were when it was made."""
    readers = last_readers(graph)
    for name, what in _tensor_differences(eager, cut, start):
        reader = readers.get(name)
        at = "" if reader is None else f"; it is read last by {reader.name} in {where(reader.meta['source'])}"
        return f"{name} {what}{at}"
    return None


def _tensor_differences(
    eager: Mapping[str, Tensor], cut: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    for name, value in eager.items():
        if name in cut:
            if not same_bits(value, cut[name]):
                yield name, f"differs by up to {_most(value, cut[name])}"
        elif name not in start:
            yield name, "is made by the forward"
        elif not same_bits(value, start[name]):
            yield name, "is changed by the forward, and the graph has it not"
    for name in cut:
        if name not in eager:
            yield name, "is taken out by the forward"


def last_readers(graph: TracedGraph) -> dict[str, Node]:
    """Tensor of the model -> the last node that reads it, under all its names."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    nodes = {node.name: node for node in graph.graph.nodes if node.op == "placeholder"}
    found: dict[str, Node] = {}
    for each in graph.placeholders:
        users = [user for user in nodes[each.node].users if user in order]
        if users and each.role != "batch":
            last = max(users, key=lambda user: order[user])
            found |= dict.fromkeys(each.aliases, last)
    return found
