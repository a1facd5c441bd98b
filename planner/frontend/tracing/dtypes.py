"""Operators that refuse floating-point values of mixed types when they run, and would not under fake tensors.

    precision = "bf16"    a buffer stays fp32: weights of bf16 @ (value of bf16 + buffer of fp32)
    autocast              memory made in fp32, written to with values of bf16

In the plain loop these stop at their line; tracing goes on with types that never come to be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from hydraplan.planner.frontend.tracing.operators import argument, base_name
from hydraplan.planner.frontend.tracing.traced import Context

_CAST_BY_AUTOCAST = frozenset(
    {
        "linear", "matmul", "mm", "addmm", "addbmm", "bmm", "baddbmm", "einsum", "conv1d", "conv2d", "conv3d",
        "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cdist", "grid_sampler",
    }
)  # fmt: skip
_OF_ONE_TYPE = _CAST_BY_AUTOCAST | {
    "mv", "addmv", "dot", "convolution", "index_put", "index_put_", "index_add", "index_add_", "index_copy",
    "index_copy_", "embedding_bag", "complex", "polar",
}  # fmt: skip
_LOSSES = {"cross_entropy_loss", "nll_loss", "nll_loss_nd"}
"""The weights of classes have to be of the input's type; targets need not."""
_NORMS = {
    "layer_norm": ("input", "weight", "bias"),
    "group_norm": ("input", "weight", "bias"),
    "batch_norm": ("input", "weight", "bias", "running_mean", "running_var"),
    "instance_norm": ("input", "weight", "bias", "running_mean", "running_var"),
}
"""Their parameters are all of the input's type, or all fp32."""


def mixed_types(node: Node) -> str | None:
    """The types of what an operator gets, in words, where it refuses to take them together."""
    if not isinstance(node.target, OpOverload) or node.target.namespace != "aten":
        return None
    name = base_name(node)
    context: Context = node.meta["context"]
    if name in _NORMS:
        first, *others = (argument(node, each) for each in _NORMS[name])
        parameters = _types(others)
        types = _types([first]) if list(parameters) == [torch.float32] else _types([first, *others])
    elif name in _LOSSES:
        types = _types([argument(node, "self"), argument(node, "weight")])
    elif name in _OF_ONE_TYPE and not (context.autocast is not None and name in _CAST_BY_AUTOCAST):
        types = _types(node.all_input_nodes)
    else:
        return None
    if len(types) < 2:
        return None
    return f"{name} gets values of {' and '.join(str(each).removeprefix('torch.') for each in types)}"


def _types(values: Sequence[object]) -> dict[torch.dtype, None]:
    """The floating-point types of nodes' values, each once, in order."""
    tensors = [each.meta["val"] for each in values if isinstance(each, Node)]
    return {each.dtype: None for each in tensors if isinstance(each, Tensor) and each.is_floating_point()}
