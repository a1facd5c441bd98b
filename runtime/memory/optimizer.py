"""Optimizer updates of one slab, on the host or on a device: PyTorch's fused kernels on per-parameter views.

Bit-equal to `torch.optim.X(parameters, fused=True).step()`: the kernels get a list of views, not the flat slab, whose
vector tails would fall elsewhere (EXACTNESS.md, rule 11). The step count is the job's training step, so there
is no state but what lies in the slab.

The gradients of a parameter come by use site, in a region for each shard that reads the slab. They add up in
reverse graph order, in place, before the kernel (rule 14); a parameter without any is skipped (rule 15).

bf16 parameters have fp32 masters beside their state, which is what is updated, a piece at a time:

    gradient (bf16) -> fp32 -> kernel on master and state (fp32) -> parameter (bf16)

Gradients travel and add up in bf16, as they do in the `.grad` of a plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from hydraplan.planner.frontend.shards.program import SlabLayout
from hydraplan.plans.analysis.memory import CAST_BYTES
from hydraplan.plans.language.optimizer import State, state_names
from hydraplan.plans.language.workload import Precision, Target
from hydraplan.runtime.memory.regions import Region

CAST_ELEMENTS = CAST_BYTES // 4
PIECE_ELEMENTS = 64

Kernel: TypeAlias = Callable[[list[Tensor], list[Tensor], list[list[Tensor]], int], None]
"""(parameters, gradients, state copies of each, training step from 0): update in place."""


def kernel_of(optimizer: Target, precision: Precision = "fp32") -> Kernel:
    """The fused kernel of an optimizer with its arguments; defaults are torch.optim's."""
    state_names(optimizer)  # refuses what is unknown
    arguments: dict[str, Any] = dict(optimizer.arguments)
    kernel = _sgd(arguments) if optimizer.path == "SGD" else _adam(arguments, decoupled=optimizer.path == "AdamW")
    return on_masters(kernel) if precision == "bf16" else kernel


def _sgd(arguments: dict[str, Any]) -> Kernel:
    momentum = float(arguments.get("momentum", 0))
    options: dict[str, Any] = {
        "weight_decay": float(arguments.get("weight_decay", 0)),
        "momentum": momentum,
        "lr": float(arguments.get("lr", 1e-3)),
        "dampening": float(arguments.get("dampening", 0)),
        "nesterov": bool(arguments.get("nesterov", False)),
        "maximize": bool(arguments.get("maximize", False)),
    }

    def update(parameters: list[Tensor], gradients: list[Tensor], state: list[list[Tensor]], step: int) -> None:
        buffers = state[0] if momentum else []
        torch._fused_sgd_(parameters, gradients, buffers, is_first_step=bool(momentum) and step == 0, **options)

    return update


def _adam(arguments: dict[str, Any], *, decoupled: bool) -> Kernel:
    beta1, beta2 = arguments.get("betas", (0.9, 0.999))
    amsgrad = bool(arguments.get("amsgrad", False))
    options: dict[str, Any] = {
        "lr": float(arguments.get("lr", 1e-3)),
        "beta1": float(beta1),
        "beta2": float(beta2),
        "weight_decay": float(arguments.get("weight_decay", 1e-2 if decoupled else 0)),
        "eps": float(arguments.get("eps", 1e-8)),
        "amsgrad": amsgrad,
        "maximize": bool(arguments.get("maximize", False)),
    }
    kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_

    def update(parameters: list[Tensor], gradients: list[Tensor], state: list[list[Tensor]], step: int) -> None:
        count = torch.full((), step + 1, dtype=torch.float32, device=parameters[0].device)  # a copy would wait
        largest = state[2] if amsgrad else []
        kernel(parameters, gradients, state[0], state[1], largest, [count] * len(parameters), **options)

    return update


def on_masters(kernel: Kernel) -> Kernel:
    """The kernel for bf16 parameters and gradients, whose last state are their fp32 masters."""

    def update(parameters: list[Tensor], gradients: list[Tensor], state: list[list[Tensor]], step: int) -> None:
        *others, masters = state
        flat = [[_flat(tensor) for tensor in each] for each in (parameters, gradients, masters, *others)]
        sizes = [parameter.numel() for parameter in parameters]
        room = min(CAST_ELEMENTS, sum(map(_whole, sizes)))
        wide = torch.empty(room, dtype=torch.float32, device=parameters[0].device)
        for pieces in pieces_of(sizes):
            low, fresh, master, *rest = [[each[number][part] for number, part, _ in pieces] for each in flat]
            cast = [wide[at : at + part.stop - part.start] for _, part, at in pieces]
            torch._foreach_copy_(cast, fresh)
            kernel(master, cast, rest, step)
            torch._foreach_copy_(low, master)

    return update


class Piece(NamedTuple):
    """Consecutive elements of one tensor."""

    tensor: int
    part: slice
    at: int
    """Where its gradient lies among those that are cast with it."""


def pieces_of(sizes: Sequence[int]) -> Iterator[list[Piece]]:
    """All elements of tensors of these sizes, at most CAST_ELEMENTS in a list.

    Kernels work element by element, in vectors and what is left after them: pieces that begin and end at a multiple
    of a cache line, or where the tensor does, leave each element where it was (EXACTNESS.md, rule 11).
    """
    pieces: list[Piece] = []
    used = 0
    for tensor, size in enumerate(sizes):
        begin = 0
        while begin < size:
            if used == CAST_ELEMENTS:
                yield pieces
                pieces, used = [], 0
            end = min(size, begin + CAST_ELEMENTS - used)
            pieces.append(Piece(tensor, slice(begin, end), used))
            used += _whole(end - begin)
            begin = end
    if pieces:
        yield pieces


def _whole(elements: int) -> int:
    """Rounded up to whole cache lines of fp32, and to the alignment of slabs."""
    return -(-elements // PIECE_ELEMENTS) * PIECE_ELEMENTS


def _flat(tensor: Tensor) -> Tensor:
    """A dense tensor's elements in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


@dataclass(frozen=True, slots=True)
class _Trained:
    """One trained parameter with its state and the places of its gradients, in the order in which they add up."""

    parameter: Tensor
    state: tuple[Tensor, ...]
    sites: tuple[tuple[Region, str], ...]


class SlabUpdate:
    """The update of one slab in one place: memory is bound once, `apply` runs every step."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        slab: SlabLayout,
        state: State,
        use_sites: Mapping[str, Sequence[tuple[int, str]]],
        parameters: Region,
        optimizer: Region | None,
        gradients: Mapping[int, Region],
        buffers: Region | None,
    ) -> None:
        """`optimizer`: None where nothing in the slab is trained. `gradients`: reader shard -> the region of its
        accumulated gradients. `buffers`: what the last forward has made of those that it updates."""
        self._kernel = kernel
        self._state = state
        self._trained = [
            _Trained(
                parameters.laid_out(entry.name),
                tuple(optimizer.laid_out(f"{name}/{entry.name}") for name in state.names),
                tuple((gradients[shard], site) for shard, site in use_sites[entry.name] if shard in gradients),
            )
            for entry in slab.entries
            if entry.requires_grad and optimizer is not None
        ]
        self._parameters, self._buffers = parameters, buffers

    def apply(self, step: int) -> None:
        """Update by the gradients that are there; `step` counts the job's training steps from 0."""
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        state: list[list[Tensor]] = [[] for _ in self._state.names]
        for trained in self._trained:
            gradient = _total(trained.sites)
            if gradient is None:
                continue
            parameters.append(trained.parameter)
            gradients.append(gradient)
            for copies, copy in zip(state, trained.state, strict=True):
                copies.append(copy)
        if parameters:
            self._kernel(parameters, gradients, state, step)
        if self._buffers is not None:
            for name, value in self._buffers.tensors.items():
                self._parameters.put(name, value)


def _total(sites: Sequence[tuple[Region, str]]) -> Tensor | None:
    """Add up the use sites' gradients into the first of them."""
    total: Tensor | None = None
    for region, name in sites:
        gradient = region.tensors.get(name)
        if gradient is None:
            continue
        if total is None:
            total = gradient
        else:
            total.add_(gradient)
    return total
