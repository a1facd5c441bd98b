"""Where gradients flow over the cuts of a graph, and with which strides: found by running backwards on fake tensors.

From the last shard to the first, each slice runs forward and backward as it will on real tensors, by the same
code (`planner.frontend.shards.cell`), with the gradients that the later shards were found to make. Equal slices
under equal circumstances are run once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from hydraplan.planner.frontend.shards.cell import EagerShard, Flow
from hydraplan.planner.frontend.shards.slices import Argument, Slice
from hydraplan.planner.frontend.tracing.keyed import CellKey

Stride = tuple[int, ...]
_KEY = CellKey(seed=0, step=0, microbatch=0)


class _Circumstances(NamedTuple):
    signature: str
    incoming: tuple[tuple[int, Stride], ...]
    """Output's number -> strides of the gradient that it receives."""
    running: tuple[tuple[int, Stride], ...]
    """Argument's number -> strides of the gradient that later shards made."""


class _Found(NamedTuple):
    inputs: tuple[tuple[int, Stride], ...]
    """Argument's number -> strides of its new running gradient."""
    sites: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientFlow:
    flows: tuple[Flow, ...]
    """Per shard."""
    strides: Mapping[str, tuple[Stride, ...]]
    """Value -> strides of its gradient, after each shard that adds to it; values without gradient are left out."""


class _Memory:
    """What was found, the most recent circumstances only."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found: OrderedDict[_Circumstances, _Found] = OrderedDict()
        self._lock = Lock()

    def get(self, key: _Circumstances) -> _Found | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: _Circumstances, value: _Found) -> None:
        with self._lock:
            self._found[key] = value
            if len(self._found) > self._size:
                self._found.popitem(last=False)


_MEMORY = _Memory(4096)


def gradient_flow(parts: Sequence[Slice], loss: str) -> GradientFlow:
    """How gradients flow through the slices of one graph."""
    strides: dict[str, list[Stride]] = {}
    flows: list[Flow] = []
    for part in reversed(parts):
        incoming = tuple(
            (number, () if name == loss else strides[name][-1])
            for number, name in enumerate(part.outputs)
            if name == loss or name in strides
        )
        running = tuple(
            (number, strides[each.name][-1])
            for number, each in enumerate(part.arguments)
            if each.kind == "input" and each.name in strides
        )
        key = _Circumstances(part.code.signature, incoming, running)
        found = _MEMORY.get(key)
        if found is None:
            found = _run(part, key)
            _MEMORY.put(key, found)
        for number, stride in found.inputs:
            strides.setdefault(part.arguments[number].name, []).append(stride)
        flows.append(
            Flow(
                outputs=tuple(part.outputs[number] for number, _ in incoming),
                inputs=tuple(part.arguments[number].name for number, _ in found.inputs),
                sites=tuple(part.arguments[number].name for number in found.sites),
            )
        )
    return GradientFlow(flows=tuple(reversed(flows)), strides={name: tuple(each) for name, each in strides.items()})


def _run(part: Slice, circumstances: _Circumstances) -> _Found:
    everything = Flow(
        outputs=part.outputs,
        inputs=tuple(each.name for each in part.arguments if each.kind == "input" and each.requires_grad),
        sites=tuple(each.name for each in part.sites),
    )
    inputs, sites = _backward(part, everything, circumstances._replace(running=()))
    if circumstances.running:
        inputs, sites = _backward(part, Flow(outputs=part.outputs, inputs=tuple(inputs), sites=sites), circumstances)
    numbers = {(each.kind, each.name): number for number, each in enumerate(part.arguments)}
    return _Found(
        inputs=tuple((numbers["input", name], stride) for name, stride in inputs.items()),
        sites=tuple(numbers["site", name] for name in sites),
    )


def _backward(part: Slice, flow: Flow, circumstances: _Circumstances) -> tuple[dict[str, Stride], tuple[str, ...]]:
    """Names of the inputs that receive a gradient, with its strides, and of the use sites that do."""
    shard = EagerShard(part, flow, {each.parameter: "" for each in part.sites})
    arguments: dict[str, dict[str, Tensor]] = {"parameter": {}, "batch": {}, "buffer": {}}
    inputs: dict[int, dict[str, Tensor]] = {}
    running: dict[int, dict[str, Tensor]] = {}
    values = [each.value for each in part.arguments]
    mode = getattr(values[0], "fake_mode", None) if values else None
    if mode is None:
        return {}, ()
    with mode:
        for each in part.arguments:
            if each.kind == "input":
                inputs.setdefault(each.producer, {})[each.name] = _like(each)
            else:
                arguments["parameter" if each.kind == "site" else each.kind][each.entry] = _like(each)
        for number, stride in circumstances.running:
            each = part.arguments[number]
            running.setdefault(each.producer, {})[each.name] = _like(each, stride)
        incoming = {
            part.outputs[number]: _strided(shard.part_value(part.outputs[number]), stride)
            for number, stride in circumstances.incoming
            if not shard.makes_loss(part.outputs[number])
        }
        result = shard.backward(
            parameters=arguments["parameter"],
            inputs=inputs,
            batch=arguments["batch"],
            buffers=arguments["buffer"],
            key=_KEY,
            kept=None,
            output_gradients=incoming,
            running=running,
            loss_seed=1.0,
        )
    made = {
        name: tuple(gradient.stride())
        for by_name in result.activation_gradients.values()
        for name, gradient in by_name.items()
    }
    sites = tuple(name for by_name in result.parameter_gradients.values() for name in by_name)
    return made, sites


def _like(argument: Argument, stride: Stride | None = None) -> Tensor:
    return _strided(argument.value, argument.value.stride() if stride is None else stride)


def _strided(value: Tensor, stride: Stride) -> Tensor:
    return torch.empty_strided(value.shape, stride, dtype=value.dtype, device=value.device)
