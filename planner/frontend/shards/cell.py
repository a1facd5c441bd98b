"""A shard that runs: eager autograd over a slice of the graph (EXACTNESS.md, rules 5 to 8, 13 and 14).

    forward             arguments -> leaves -> code -> activations, and the new values of buffers that it updates
    kept forward        ... and what autograd saved: copies of what lies outside of the arguments, handles
                        of what lies inside, to be found again in the arguments of the backward
    backward            autograd.grad(outputs and passed-through values <- incoming gradients, leaves)

A passed-through value, one that later shards read too, already has a gradient when its shard's backward begins. It
goes in as the first summand of the value's leaf, so that the sum is formed in the order of the uncut graph.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from hydraplan.planner.frontend.shards.program import BackwardResult, ForwardResult
from hydraplan.planner.frontend.shards.slices import Slice
from hydraplan.planner.frontend.tracing.keyed import CellKey, Draws

LOSS = "loss"
"""Name of the last shard's one activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Where gradients flow in a slice; found by `planner.frontend.shards.gradients`."""

    outputs: tuple[str, ...]
    """Outputs that receive a gradient."""
    inputs: tuple[str, ...]
    """Inputs to whose gradient the slice adds."""
    sites: tuple[str, ...]
    """Use sites that receive a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handle:
    """A saved tensor that lies in an argument: found again in the argument that the backward is given."""

    argument: int
    offset_bytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class _Held:
    """A saved tensor that lies outside of the arguments."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Kept:
    """What a keeping forward leaves for its backward."""

    def __init__(self, arguments: list[Tensor]) -> None:
        self.outputs: list[GradientEdge | None] = []
        self.leaves: list[GradientEdge | None] = []
        self._arguments = list(arguments)
        self._places: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for number, argument in enumerate(arguments):
            start = int(argument.storage_offset()) * argument.itemsize
            extent = extent_bytes(tuple(argument.shape), argument.stride(), argument.itemsize)
            self._places[argument.untyped_storage()._cdata].append((start, start + extent, number))
        self._held: list[weakref.ref[_Held]] = []

    @property
    def bytes(self) -> int:
        """Bytes of the distinct storages that it holds outside of the arguments."""
        storages = {}
        for reference in self._held:
            held = reference()
            if held is not None:
                storage = held.tensor.untyped_storage()
                storages[storage._cdata] = storage.nbytes()
        return sum(storages.values())

    def hooks(self) -> AbstractContextManager[None]:
        """In force while the forward runs."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def release_arguments(self) -> None:
        """Forget the forward's arguments: their memory may serve others until the backward."""
        self._arguments.clear()

    def bind(self, arguments: list[Tensor]) -> None:
        """Say where the arguments lie now."""
        self._arguments = list(arguments)

    def _pack(self, tensor: Tensor) -> _Handle | _Held:
        start = int(tensor.storage_offset()) * tensor.itemsize
        for low, high, number in self._places.get(tensor.untyped_storage()._cdata, ()):
            if low <= start < high:
                return _Handle(
                    argument=number,
                    offset_bytes=start - low,
                    shape=tuple(tensor.shape),
                    stride=tensor.stride(),
                    dtype=tensor.dtype,
                )
        held = _Held(tensor)
        self._held.append(weakref.ref(held))
        return held

    def _unpack(self, packed: _Handle | _Held) -> Tensor:
        if isinstance(packed, _Held):
            return packed.tensor
        base = self._arguments[packed.argument]
        start = int(base.storage_offset()) * base.itemsize + packed.offset_bytes
        offset = start // packed.dtype.itemsize
        if base.dtype == packed.dtype:
            return base.as_strided(packed.shape, packed.stride, offset)
        other = torch.empty(0, dtype=packed.dtype, device=base.device)
        return other.set_(base.untyped_storage(), offset, packed.shape, packed.stride)


def _drop(tensor: Tensor) -> None:
    return None


def _refuse(packed: None) -> Tensor:
    raise AssertionError("a forward that kept nothing has no backward")


class EagerShard:
    """A `ShardProgram` over a slice's code."""

    def __init__(self, part: Slice, flow: Flow, slab_of: Mapping[str, str]) -> None:
        self.part = part
        self.flow = flow
        self._slab_of = slab_of
        self._is_loss = {name for name in part.outputs if any(user.op == "output" for user in _users(part, name))}
        self._output_names = tuple(LOSS if name in self._is_loss else name for name in part.outputs)
        self._gradient_leaves = [
            number
            for number, each in enumerate(part.arguments)
            if (each.kind == "input" and each.name in flow.inputs) or (each.kind == "site" and each.name in flow.sites)
        ]

    def forward(
        self,
        *,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        key: CellKey,
        keep: bool,
    ) -> ForwardResult:
        arguments = self._arguments(parameters, inputs, batch, buffers)
        kept = Kept(arguments) if keep else None
        # In grad mode even where nothing is kept: under no_grad attention picks another kernel (rule 6).
        with kept.hooks() if kept is not None else saved_tensors_hooks(_drop, _refuse):
            results, leaves = self._run(arguments, key)
        outputs, updated = results[: len(self.part.outputs)], results[len(self.part.outputs) :]
        if kept is not None:
            kept.outputs = [_edge(output) for output in outputs]
            kept.leaves = [_edge(leaf) for leaf in leaves]
            kept.release_arguments()
        storages = {argument.untyped_storage()._cdata for argument in arguments}
        activations = {
            name: _apart(output.detach(), storages) for name, output in zip(self._output_names, outputs, strict=True)
        }
        made = {name: value.detach() for name, value in zip(self.part.buffers, updated, strict=True)}
        return ForwardResult(activations=activations, buffers=made, kept=kept)

    def backward(
        self,
        *,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        key: CellKey,
        kept: Kept | None,
        output_gradients: Mapping[str, Tensor],
        running: Mapping[int, Mapping[str, Tensor]],
        loss_seed: float,
    ) -> BackwardResult:
        arguments = self._arguments(parameters, inputs, batch, buffers)
        if kept is None:
            results, leaves = self._run(arguments, key)
            ends = [_edge(output) for output in results[: len(self.part.outputs)]]
            starts = [_edge(leaf) for leaf in leaves]
            del results, leaves
        else:
            kept.bind(arguments)
            ends, starts = kept.outputs, kept.leaves
        edges, incoming = self._incoming(ends, starts, output_gradients, running, loss_seed, arguments)
        wanted = [starts[number] for number in self._gradient_leaves]
        gradients: tuple[Tensor | None, ...] = ()
        if edges and wanted:
            gradients = torch.autograd.grad(edges, wanted, incoming, allow_unused=True)  # type: ignore[arg-type]
        return self._sorted(gradients)

    # -- parts --------------------------------------------------------------------------------------

    def _arguments(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
    ) -> list[Tensor]:
        found = []
        for each in self.part.arguments:
            if each.kind == "input":
                found.append(inputs[each.producer][each.name])
            elif each.kind == "batch":
                found.append(batch[each.name])
            elif each.kind == "buffer":
                found.append(buffers[each.name])
            else:
                found.append(parameters[each.entry])
        return found

    def _run(self, arguments: list[Tensor], key: CellKey) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        leaves = [
            _leaf(argument, each.requires_grad) for argument, each in zip(arguments, self.part.arguments, strict=True)
        ]
        device = arguments[0].device if arguments else torch.device("cpu")
        with torch.enable_grad():
            outputs = self.part.code.function(Draws(key, self.part.draws), device, *leaves)
        return outputs, leaves

    def _incoming(
        self,
        ends: list[GradientEdge | None],
        starts: list[GradientEdge | None],
        output_gradients: Mapping[str, Tensor],
        running: Mapping[int, Mapping[str, Tensor]],
        loss_seed: float,
        arguments: list[Tensor],
    ) -> tuple[list[GradientEdge], list[Tensor]]:
        edges: list[GradientEdge] = []
        incoming: list[Tensor] = []
        for name, end in zip(self.part.outputs, ends, strict=True):
            gradient = output_gradients.get(name)
            if name in self._is_loss:
                value = self.part_value(name)
                gradient = torch.full(value.shape, loss_seed, dtype=value.dtype, device=arguments[0].device)
            if gradient is not None and end is not None:
                edges.append(end)
                incoming.append(gradient)
        for number in self._gradient_leaves:
            each = self.part.arguments[number]
            gradient = running.get(each.producer, {}).get(each.name) if each.kind == "input" else None
            start = starts[number]
            if gradient is not None and start is not None:
                edges.append(start)
                incoming.append(gradient)
        return edges, incoming

    def makes_loss(self, output: str) -> bool:
        """Whether the output is the job's loss."""
        return output in self._is_loss

    def part_value(self, name: str) -> Tensor:
        """The fake value of one of the slice's nodes."""
        value = next(node for node in self.part.nodes if node.name == name).meta["val"]
        assert isinstance(value, Tensor)
        return value

    def _sorted(self, gradients: tuple[Tensor | None, ...]) -> BackwardResult:
        to_inputs: dict[int, dict[str, Tensor]] = defaultdict(dict)
        to_sites: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for number, gradient in zip(self._gradient_leaves, gradients, strict=bool(gradients)):
            each = self.part.arguments[number]
            if gradient is None:
                continue
            if each.kind == "input":
                to_inputs[each.producer][each.name] = gradient
            else:
                to_sites[self._slab_of[each.entry]][each.name] = gradient
        return BackwardResult(activation_gradients=dict(to_inputs), parameter_gradients=dict(to_sites))


def _users(part: Slice, name: str) -> list[Any]:
    return list(next(node for node in part.nodes if node.name == name).users)


def _leaf(argument: Tensor, requires_grad: bool) -> Tensor:
    """The argument's memory as a leaf with the flag of the uncut graph (rule 5).

    `data`, not `detach`: other regions of the same arena are written to while a cell runs, and a detached view
    would share their version counter.
    """
    return argument.data.requires_grad_(requires_grad)


def takes_gradient(tensor: Tensor) -> bool:
    """Whether a gradient can flow into a tensor. A view of a parameter made under no_grad says that it requires grad,
    and has no place for one."""
    return tensor.requires_grad and not (tensor.grad_fn is None and tensor._is_view())


def _edge(tensor: Tensor) -> GradientEdge | None:
    """Where a tensor's gradient goes; None: nowhere."""
    return get_gradient_edge(tensor) if takes_gradient(tensor) else None


def _apart(output: Tensor, storages: set[int]) -> Tensor:
    """The output, copied with its strides where it shares memory with an argument."""
    if output.untyped_storage()._cdata not in storages:
        return output
    extent = extent_bytes(tuple(output.shape), output.stride(), output.itemsize) // output.itemsize
    flat = output.as_strided((extent,), (1,), output.storage_offset()).clone()
    return flat.as_strided(output.shape, output.stride(), 0)


def extent_bytes(shape: tuple[int, ...], stride: tuple[int, ...], itemsize: int) -> int:
    """Bytes from a strided tensor's first element to the end of its last."""
    if 0 in shape:
        return 0
    return (1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))) * itemsize
