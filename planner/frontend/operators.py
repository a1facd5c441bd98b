"""What the front end has to know of single operators: what they mutate, draw, and cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Node

aten = torch.ops.aten

MATRIX_PRODUCTS = frozenset(
    {
        "mm", "bmm", "baddbmm", "addmm", "addbmm", "matmul", "linear", "einsum", "dot", "mv", "addmv", "tensordot",
        "bilinear", "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
        "conv_transpose3d", "scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu", "_grouped_mm",
    }
)  # fmt: skip
"""Operators that are worth carrying the result of, not computing it again (by base name)."""

_RUNNING_STATISTICS = {
    aten.batch_norm.default: (3, 4, 5),
    aten.instance_norm.default: (3, 4, 5),
    aten.native_batch_norm.default: (3, 4, 5),
}
"""Operators that update running statistics without saying so: (mean, variance, whether training)."""

_RECURRENT_DROPOUT = {"lstm": ("dropout", "train"), "gru": ("dropout", "train"), "rnn_tanh": ("dropout", "train"),
                      "rnn_relu": ("dropout", "train")}  # fmt: skip


def base_name(node: Node) -> str:
    """Name of a node's operator without namespace and overload: `add` for aten.add.Tensor."""
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.split("::")[-1]
    return getattr(node.target, "__name__", str(node.target))


def argument(node: Node, name: str) -> Any:
    """An operator node's argument by its schema name, its default where it is not given."""
    assert isinstance(node.target, OpOverload)
    if name in node.kwargs:
        return node.kwargs[name]
    for position, declared in enumerate(node.target._schema.arguments):
        if declared.name == name:
            return node.args[position] if position < len(node.args) else declared.default_value
    raise KeyError(name)


def has_argument(target: object, name: str) -> bool:
    """Whether an operator takes an argument of that name."""
    return isinstance(target, OpOverload) and any(each.name == name for each in target._schema.arguments)


def mutated_inputs(node: Node) -> Iterator[Node]:
    """The nodes whose value the node writes to."""
    target = node.target
    if target in _RUNNING_STATISTICS:
        mean, variance, training = _RUNNING_STATISTICS[target]
        if node.args[training]:
            yield from (each for each in (node.args[mean], node.args[variance]) if isinstance(each, Node))
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return
    for position, declared in enumerate(target._schema.arguments):
        if declared.alias_info is None or not declared.alias_info.is_write:
            continue
        given = node.kwargs.get(declared.name, node.args[position] if position < len(node.args) else None)
        for each in given if isinstance(given, list | tuple) else (given,):
            if isinstance(each, Node):
                yield each


def functional_form(target: object) -> OpOverload | None:
    """The operator that makes anew what an in-place one writes: relu for relu_; None: there is none."""
    if not isinstance(target, OpOverload):
        return None
    name = target._schema.name.split("::")[-1]
    if not name.endswith("_") or name.startswith("_"):
        return None
    packet: OpOverloadPacket | None = getattr(getattr(torch.ops, target.namespace), name[:-1], None)
    if packet is None:
        return None
    wanted = [(each.name, str(each.type)) for each in target._schema.arguments]
    for overload in _overloads(packet):
        candidate: OpOverload = getattr(packet, overload)
        if candidate._schema.is_mutable or len(candidate._schema.returns) != 1:
            continue
        if [(each.name, str(each.type)) for each in candidate._schema.arguments] == wanted:
            return candidate
    return None


def _overloads(packet: OpOverloadPacket) -> list[str]:
    return list(packet.overloads())  # type: ignore[no-untyped-call]


def draws_random_numbers(node: Node) -> bool:
    """Whether what the node makes is random (a dropout of probability 0 is not)."""
    target = node.target
    if not isinstance(target, OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    name = base_name(node)
    if name == "scaled_dot_product_attention":
        return float(argument(node, "dropout_p")) > 0
    if name in _RECURRENT_DROPOUT:
        probability, training = _RECURRENT_DROPOUT[name]
        return bool(argument(node, training)) and float(argument(node, probability)) > 0
    if name in ("dropout", "dropout_", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"):
        return bool(argument(node, "train")) and float(argument(node, "p")) > 0
    return True


def generator_form(target: OpOverload) -> OpOverload | None:
    """The same operator, or its overload, that takes a generator; None: there is none."""
    if has_argument(target, "generator"):
        return target
    packet = target._overloadpacket
    wanted = {each.name for each in target._schema.arguments} | {"generator"}
    for overload in _overloads(packet):
        candidate: OpOverload = getattr(packet, overload)
        if {each.name for each in candidate._schema.arguments} == wanted:
            return candidate
    return None
