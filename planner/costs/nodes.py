"""What each node of a traced graph costs alone: its work, and what autograd saves for its backward.

Each distinct node (operator, arguments, shapes) runs once, forward and backward, on fake tensors; the equal
blocks of a model share the result. Sums over nodes are what the partition is chosen by, in no time; the
facts of the chosen shards are then measured on the shards themselves (`planner.costs.facts`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only

from hydraplan.planner.costs.liveness import CountLiveBytes
from hydraplan.planner.costs.operators import CountWork, Work
from hydraplan.planner.frontend.models.model import TRACED_ON
from hydraplan.planner.frontend.shards.cell import takes_gradient
from hydraplan.planner.frontend.tracing.keyed import KEYED, CellKey, Draws, call
from hydraplan.planner.frontend.tracing.modes import PLAIN, entered
from hydraplan.planner.frontend.tracing.refusals import because, where
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.usercode import RAISED
from hydraplan.plans.language.errors import TraceError

KEY = CellKey(seed=0, step=0, microbatch=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCost:
    forward: Work
    backward: Work
    output_bytes: int
    """New storage that holds what the node makes; 0: a view."""
    view_of: int | None
    """The argument (among the node's tensor arguments) whose storage the node gives back."""
    saved: tuple[int, ...]
    """Tensor arguments whose storage autograd saves for the backward."""
    saves_output: bool
    internal_bytes: int
    """Saved storage that is neither argument nor output, such as the statistics of a normalisation."""
    peak_bytes: int
    """Most that its forward, then its backward hold besides its arguments: what they save, make and need on the way."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """A tensor argument: what stands for it in a node's signature."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    shared: int = 0
    """Number of the distinct graph value, in order of appearance: x * x is not x * y."""


NOTHING = NodeCost(
    forward=Work(),
    backward=Work(),
    output_bytes=0,
    view_of=0,
    saved=(),
    saves_output=False,
    internal_bytes=0,
    peak_bytes=0,
)


def node_costs(traced: TracedGraph) -> tuple[NodeCost, ...]:
    """Cost of every compute node, in graph order. Raises TraceError for a node that cannot run backward."""
    known: dict[str, NodeCost] = {}
    return tuple(_cost(node, traced, known) for node in traced.nodes)


def tensor_arguments(node: Node) -> list[Node]:
    """The nodes that a node reads, in the order that `NodeCost` counts them by."""
    return list(node.all_input_nodes)


def _cost(node: Node, traced: TracedGraph, known: dict[str, NodeCost]) -> NodeCost:
    if node.target is operator.getitem:
        return NOTHING
    numbers = {each: number for number, each in enumerate(tensor_arguments(node))}

    def operand(each: Node) -> _Operand:
        value = each.meta["val"]
        return _Operand(
            tuple(value.shape), tuple(value.stride()), value.dtype, traced.requires_grad[each.name], numbers[each]
        )

    args, kwargs = map_arg((node.args, node.kwargs), operand)  # type: ignore[arg-type]
    signature = repr((node.target, args, kwargs, node.meta.get("context", PLAIN)))
    if signature not in known:
        with FakeTensorMode():
            try:
                known[signature] = _measure(node, args, kwargs)
            except RAISED as error:  # any operator, the user's own too: one without a backward, say
                raise TraceError(f"{where(node.meta['source'])}: {because(error)}") from error
    return known[signature]


def _measure(node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> NodeCost:
    operands: dict[int, Tensor] = {}

    def tensor(operand: _Operand) -> Tensor:
        if operand.shared not in operands:
            leaf = torch.empty_strided(operand.shape, operand.stride, dtype=operand.dtype)
            leaf.requires_grad_(operand.requires_grad)
            operands[operand.shared] = leaf.clone() if operand.requires_grad and _mutates(node) else leaf
        return operands[operand.shared]

    args, kwargs = tree_map_only(_Operand, tensor, (tuple(args), kwargs))
    if node.target in KEYED:
        args = (Draws(KEY, (0,)), 0, *args)
    storages = {id(value.untyped_storage()): number for number, value in operands.items()}
    saved: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        saved[id(value.untyped_storage())] = value
        return value

    assert callable(node.target)
    context = node.meta.get("context", PLAIN)
    with CountLiveBytes(operands.values()) as live:
        with entered(context, TRACED_ON), saved_tensors_hooks(pack, lambda value: value), CountWork() as forward:
            result = node.target(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        backward = _backward(outputs, list(operands.values()))
    made = {id(output.untyped_storage()): output for output in outputs}
    return NodeCost(
        forward=forward.work,
        backward=backward,
        output_bytes=sum(_storage_bytes(output) for key, output in made.items() if key not in storages),
        view_of=next((storages[key] for key in made if key in storages), None),
        saved=tuple(sorted({storages[key] for key in saved if key in storages})),
        saves_output=any(key in made for key in saved),
        internal_bytes=sum(
            _storage_bytes(value) for key, value in saved.items() if key not in storages and key not in made
        ),
        peak_bytes=live.peak_bytes,
    )


def _backward(outputs: list[Tensor], operands: list[Tensor]) -> Work:
    roots = [output for output in outputs if takes_gradient(output)]
    leaves = [operand for operand in operands if operand.requires_grad]
    if not roots or not leaves:
        return Work()
    gradients = [torch.empty_like(root) for root in roots]
    with CountWork() as backward:
        torch.autograd.grad(roots, leaves, gradients, allow_unused=True)
    work: Work = backward.work
    return work


def _mutates(node: Node) -> bool:
    target = node.args[0] if node.target is call else node.target
    return isinstance(target, OpOverload) and target._schema.is_mutable


def _storage_bytes(value: Tensor) -> int:
    return value.untyped_storage().nbytes()
