"""What the front end has to know of single operators: what they mutate, draw, and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

_SWITCHES = {
    "scaled_dot_product_attention": ("dropout_p", None),
    "lstm": ("dropout", "train"),
    "gru": ("dropout", "train"),
    "rnn_tanh": ("dropout", "train"),
    "rnn_relu": ("dropout", "train"),
    "dropout": ("p", "train"),
    "dropout_": ("p", "train"),
    "alpha_dropout": ("p", "train"),
    "alpha_dropout_": ("p", "train"),
    "feature_dropout": ("p", "train"),
    "feature_dropout_": ("p", "train"),
    "feature_alpha_dropout": ("p", "train"),
    "feature_alpha_dropout_": ("p", "train"),
    "native_dropout": ("p", "train"),
    "rrelu": (None, "training"),
    "rrelu_": (None, "training"),
    "rrelu_with_noise": (None, "training"),
    "rrelu_with_noise_": (None, "training"),
}
"""What makes an operator draw: the names of its probability and of its training flag, each where it has one."""

RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
"""Recurrent layers over dense sequences."""


BUILT_IN = ("aten", "prim", "prims", "profiler")
"""Namespaces of PyTorch's own operators."""


def base_name(node: Node) -> str:
    """Name of a node's operator without namespace and overload: `add` for aten.add.Tensor."""
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.split("::")[-1]
    return getattr(node.target, "__name__", str(node.target))


def argument(node: Node, name: str) -> Any:
    """An operator node's argument by its schema name, its default where it is not given."""
    assert isinstance(node.target, OpOverload)
    return given(node.target, node.args, node.kwargs, name)


def given(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    """Among an operator's arguments the one of a schema name, its default where it is not given."""
    if name in kwargs:
        return kwargs[name]
    for position, declared in enumerate(target._schema.arguments):
        if declared.name == name:
            return args[position] if position < len(args) else declared.default_value
    raise KeyError(name)


def has_argument(target: object, name: str) -> bool:
    """Whether an operator takes an argument of that name."""
    return isinstance(target, OpOverload) and any(each.name == name for each in target._schema.arguments)


def is_registered(target: object) -> bool:
    """Whether it is an operator that is not PyTorch's own, and returns new values."""
    return isinstance(target, OpOverload) and target.namespace not in BUILT_IN and not target._schema.is_mutable


def mutated_inputs(node: Node) -> Iterator[Node]:
    """The nodes whose value the node writes to."""
    target = node.target
    if target in _RUNNING_STATISTICS:
        mean, variance, training = _RUNNING_STATISTICS[target]
        if node.args[training]:
            yield from (each for each in (node.args[mean], node.args[variance]) if isinstance(each, Node))
    if isinstance(target, OpOverload):
        yield from (each for each in written_arguments(target, node.args, node.kwargs) if isinstance(each, Node))


def written_arguments(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Among an operator's arguments those that its schema says it writes to."""
    if not target._schema.is_mutable:
        return
    for position, declared in enumerate(target._schema.arguments):
        if declared.alias_info is None or not declared.alias_info.is_write:
            continue
        value = kwargs.get(declared.name, args[position] if position < len(args) else None)
        yield from (each for each in (value if isinstance(value, list | tuple) else (value,)) if each is not None)


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
    wanted = _signature(target)
    for overload in _overloads(packet):
        candidate: OpOverload = getattr(packet, overload)
        if candidate._schema.is_mutable or len(candidate._schema.returns) != 1:
            continue
        if _signature(candidate) == wanted:
            return candidate
    return None


def _signature(target: OpOverload) -> list[tuple[str, str]]:
    """Names and types of an operator's arguments; the first one's name says nothing (`self` of dropout_)."""
    return [(each.name if number else "", str(each.type)) for number, each in enumerate(target._schema.arguments)]


def _overloads(packet: OpOverloadPacket) -> list[str]:
    return list(packet.overloads())  # type: ignore[no-untyped-call]


def draws_random_numbers(node: Node) -> bool:
    """Whether what the node makes is random (a dropout of probability 0 is not)."""
    return isinstance(node.target, OpOverload) and is_random(node.target, node.args, node.kwargs)


def is_random(target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator draws random numbers with these arguments."""
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    probability, training = _SWITCHES.get(target._schema.name.split("::")[-1], (None, None))
    if training is not None and given(target, args, kwargs, training) is False:
        return False  # (None, native_dropout's default, means to draw)
    return probability is None or float(given(target, args, kwargs, probability)) > 0


def generator_form(target: OpOverload) -> OpOverload | None:
    """The same operator, or its overload, that takes a generator; None: there is none."""
    if has_argument(target, "generator"):
        return target
    packet = target._overloadpacket
    wanted = _types(target)
    for overload in _overloads(packet):
        candidate: OpOverload = getattr(packet, overload)
        if has_argument(candidate, "generator") and _types(candidate) == wanted:
            return candidate
    return None


def _types(target: OpOverload) -> dict[str, str]:
    """An operator's arguments but for its generator: name -> type."""
    return {each.name: str(each.type) for each in target._schema.arguments if each.name != "generator"}
