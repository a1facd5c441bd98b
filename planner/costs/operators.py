"""What operators cost: work counted from shapes alone, and the time it takes on a profile.

    time = flops / flops_per_s + bf16_flops / bf16_flops_per_s
         + traffic_bytes / bytes_per_s + functions / functions_per_s + operators * node_ns

a roofline whose parts add up instead of hiding behind one another: on one CPU core that is what was
measured, operator by operator (matrix products of inner dimension 64 run at 80 % of the large ones' rate, as
their traffic explains); on a GPU, where parts overlap, it is at most the number of parts too high.

`Work` is counted by a dispatch mode that sees every aten operator of a forward or a backward, on fake
tensors as on real ones, so any model is covered and backward needs no rule of its own. What the shapes
do not show is in three small tables, measured on an EPYC core (AVX2, torch 2.13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hydraplan.plans.language.workload import Profile

FUNCTIONS_PER_ELEMENT = {
    "tanh": 1.0,
    "erf": 0.7,
    "gelu": 0.7,
    "gelu_backward": 1.0,
    "silu": 0.25,
    "silu_backward": 0.3,
    "sigmoid": 0.25,
    "exp": 0.25,
    "log": 0.3,
    "sin": 0.7,
    "cos": 0.7,
    "_softmax": 0.35,
    "_safe_softmax": 1.0,
    "_log_softmax": 0.35,
    "_log_softmax_backward_data": 0.25,
    "bernoulli": 3.0,
    "bernoulli_": 3.0,
    "native_dropout": 3.0,
    "rand": 3.0,
    "rand_like": 3.0,
    "uniform_": 3.0,
    "normal_": 4.0,
}
"""Special functions and random draws per output element, in units of one tanh (3.5 ns there)."""

TRAFFIC_FACTOR = {"sum": 2.0, "mean": 2.0, "cat": 1.5, "slice_backward": 1.6, "_safe_softmax": 2.0}
"""Where an operator moves bytes at a fraction of the rate of a plain sum of two tensors."""

ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu": (2, 1.0),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (5, 1.0),
}
"""The CPU's fused attention, which torch's flop counter leaves out: (matrix products, exponentials per score)."""

ATTENTION_EFFICIENCY = 0.8
EXPONENTIAL = FUNCTIONS_PER_ELEMENT["exp"]

TOUCHES_ROWS = {"embedding", "index", "index_select", "gather", "nll_loss_forward", "nll_loss_backward"}
"""Reads of its first tensor only what it gives back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a piece of a graph asks of a processor; adds up over operators."""

    flops: float = 0.0
    """Of matrix products and convolutions in fp32 (all but bf16), multiply and add counted as two."""
    bf16_flops: float = 0.0
    """The same in bf16."""
    traffic_bytes: float = 0.0
    """Read or written, weighted by `TRAFFIC_FACTOR`."""
    functions: float = 0.0
    """Special functions and random draws, in units of one tanh."""
    operators: int = 0
    """aten operators dispatched, views included."""

    def __add__(self, other: Work) -> Work:
        return Work(
            flops=self.flops + other.flops,
            bf16_flops=self.bf16_flops + other.bf16_flops,
            traffic_bytes=self.traffic_bytes + other.traffic_bytes,
            functions=self.functions + other.functions,
            operators=self.operators + other.operators,
        )


def seconds(work: Work, profile: Profile) -> float:
    """Predicted time of some work on one processor."""
    total = work.flops / profile.flops_per_s + work.traffic_bytes / profile.bytes_per_s
    total += work.bf16_flops / (profile.bf16_flops_per_s or profile.flops_per_s)
    if profile.functions_per_s is not None:
        total += work.functions / profile.functions_per_s
    return total + work.operators * profile.node_ns / 1e9


def duration_us(work: Work, profile: Profile) -> int:
    """The same in whole microseconds, rounded up."""
    return math.ceil(seconds(work, profile) * 1e6)


class CountWork(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the work of every operator dispatched inside, on fake or real tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.work = self.work + operator_work(func, args, kwargs or {}, result)
        return result


def operator_work(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> Work:
    """Work of one dispatched operator."""
    name = func.overloadpacket.__name__
    inputs = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not outputs:  # a question, such as a fake tensor's for its device
        return Work()
    if _only_views(func, inputs, outputs):
        return Work(operators=1)
    read = inputs[1:] if name in TOUCHES_ROWS else inputs
    traffic = sum(map(_bytes, read)) + sum(map(_bytes, outputs))
    if name in TOUCHES_ROWS:
        traffic += sum(map(_bytes, outputs))
    elements = sum(output.numel() for output in outputs[:1])
    functions = FUNCTIONS_PER_ELEMENT.get(name, 0.0) * elements
    flops = 0.0
    if name in ATTENTION:
        products, exponentials = ATTENTION[name]
        scores, width = _scores(inputs, backward=name.endswith("backward"))
        flops = products * 2.0 * scores * width / ATTENTION_EFFICIENCY
        functions = exponentials * EXPONENTIAL * scores
    else:
        formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        if formula is not None:
            flops = float(formula(*args, **kwargs, out_val=result))
    in_bf16 = outputs[0].dtype == torch.bfloat16  # products give what they are given
    return Work(
        flops=0.0 if in_bf16 else flops,
        bf16_flops=flops if in_bf16 else 0.0,
        traffic_bytes=traffic * TRAFFIC_FACTOR.get(name, 1.0),
        functions=functions,
        operators=1,
    )


def _scores(inputs: list[Tensor], *, backward: bool) -> tuple[int, int]:
    """(attention scores, head width) of a fused attention: arguments (gradient,) query, key, value."""
    query, key = inputs[1:3] if backward else inputs[:2]
    return query.numel() // query.shape[-1] * key.shape[-2], query.shape[-1]


def _only_views(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Nothing is computed: every output shares an input's storage and the operator writes nothing."""
    if func._schema.is_mutable:
        return False
    storages = {id(tensor.untyped_storage()) for tensor in inputs}
    return all(id(tensor.untyped_storage()) in storages for tensor in outputs)


def _bytes(tensor: Tensor) -> int:
    """Bytes that a kernel touches: of an expanded tensor, each element once."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else 1
    return distinct * tensor.element_size()
