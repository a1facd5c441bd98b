"""What a shard costs, measured on the shard itself: it runs on fake tensors, forward and backward.

    run                       gives
    forward                   work of the forward, its workspace
    forward that keeps        what it keeps, its workspace beyond that
    backward of it            work of the backward, its workspace beyond what was kept
    backward of a dropped     workspace of forward and backward in one
      forward

A shard without a backward runs its forward and keeps nothing: of its figures only the first are not 0.
The counting is the one that tests hold real runs against (`planner.costs.liveness`): everything that an operator
makes, outside of the arguments. Outputs and fresh gradients count, as they are until the runtime has copied them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from hydraplan.planner.costs.liveness import CountLiveBytes
from hydraplan.planner.costs.operators import CountWork, Work
from hydraplan.planner.frontend.shards.program import Bundle, ShardedGraph, TensorLayout
from hydraplan.planner.frontend.tracing.keyed import CellKey

KEY = CellKey(seed=0, step=0, microbatch=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMemory:
    """Live bytes of one shard's cells, as `plans.language.facts.ShardFacts` names them."""

    forward_workspace_bytes: int
    keep_workspace_bytes: int = 0
    kept_bytes: int = 0
    backward_workspace_bytes: int = 0
    recompute_workspace_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCost:
    forward: Work
    backward: Work
    memory: ShardMemory


MakeTensor = Callable[[TensorLayout], Tensor]


def cell_arguments(
    sharded: ShardedGraph, number: int, running: Mapping[int, Iterable[str]], make: MakeTensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a shard's forward, and those that its backward has besides, made tensor by tensor.

    `running`: producer -> values whose gradients have begun before this shard's backward.
    """

    def of(bundle: Bundle, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        chosen = None if names is None else set(names)
        return {tensor.name: make(tensor) for tensor in bundle.tensors if chosen is None or tensor.name in chosen}

    forward = {
        "parameters": {
            entry.name: make(entry) for slab in sharded.slabs if number in slab.readers for entry in slab.entries
        },
        "inputs": {producer: of(sharded.activations[producer]) for producer in sharded.reads[number]},
        "batch": of(sharded.batch[number]),
        "buffers": of(sharded.buffers[number]),
        "key": KEY,
    }
    backward = {
        "output_gradients": of(sharded.activation_gradients[number]),
        "running": {producer: of(sharded.activation_gradients[producer], names) for producer, names in running.items()},
        "loss_seed": 1.0,
    }
    return forward, backward


def measure(sharded: ShardedGraph, number: int, running: Mapping[int, Iterable[str]], threads: int = 1) -> ShardCost:
    """Work and live bytes of one shard, on fake tensors: nothing is computed, nothing allocated."""

    def make(tensor: TensorLayout) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride, dtype=tensor.dtype)

    with FakeTensorMode():
        forward, backward = cell_arguments(sharded, number, running, make)
        with CountWork() as forward_work:
            sharded.programs[number].forward(**forward, keep=False)
        backward_work = Work()
        if sharded.has_backward(number):
            result = sharded.programs[number].forward(**forward, keep=True)
            with CountWork() as counted:
                sharded.programs[number].backward(**forward, **backward, kept=result.kept)
            backward_work = counted.work
            del result
        memory = count_memory(sharded, number, forward, backward, threads)
    return ShardCost(forward=forward_work.work, backward=backward_work, memory=memory)


def count_memory(
    sharded: ShardedGraph, number: int, forward: Mapping[str, Any], backward: Mapping[str, Any], threads: int = 1
) -> ShardMemory:
    """Live bytes of one shard's cells on given arguments, fake or real, with what kernels take at so many threads."""
    program = sharded.programs[number]
    arguments = [leaf for leaf in tree_leaves((dict(forward), dict(backward))) if isinstance(leaf, Tensor)]
    with _without_collection(), CountLiveBytes(arguments, threads) as count:
        program.forward(**forward, keep=False)
        forward_peak = count.peak_bytes
        if not sharded.has_backward(number):
            return ShardMemory(forward_workspace_bytes=forward_peak)
        count.reset_peak()
        result = program.forward(**forward, keep=True)
        keep_peak = count.peak_bytes
        kept = result.kept
        del result
        kept_bytes = count.live_bytes
        count.reset_peak()
        program.backward(**forward, **backward, kept=kept)
        backward_peak = count.peak_bytes
        del kept
        count.reset_peak()
        program.backward(**forward, **backward, kept=None)
        recompute_peak = count.peak_bytes
    return ShardMemory(
        forward_workspace_bytes=forward_peak,
        keep_workspace_bytes=keep_peak - kept_bytes,
        kept_bytes=kept_bytes,
        backward_workspace_bytes=backward_peak - kept_bytes,
        recompute_workspace_bytes=recompute_peak,
    )


@contextmanager
def _without_collection() -> Iterator[None]:
    """What only the cycle collector would free counts as held, so that figures do not depend on when it runs."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
