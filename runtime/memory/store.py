"""The host store: every job's parameters and optimizer state, the authoritative copy, as flat slabs.

    slab "3" of job a    parameters | w (256-aligned) | b | mask buffer |
                         optimizer  | exp_avg of w, b | exp_avg_sq of w, b |      copy k at k * trainable_bytes

Where the parameters are bf16 there is a third tensor of state, their fp32 masters, and each is fp32: twice the bytes at
twice the offsets.

and next to it the host arena, where what cells save passes by (`plans.analysis.arena` has the addresses).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hydraplan.planner.frontend.models.freed import Freed
from hydraplan.planner.frontend.models.saved import Form
from hydraplan.planner.frontend.shards.program import BuiltModel, ShardedGraph, SlabLayout, TensorLayout
from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.optimizer import MASTER, State
from hydraplan.runtime.devices.device import view_of
from hydraplan.runtime.memory.regions import Region, View

Allocate = Callable[[int], Tensor]
"""Bytes -> that much zeroed host memory."""


def view_on(memory: Tensor) -> View:
    """Views of a flat memory by address."""
    return lambda address, shape, stride, dtype: view_of(memory, address, shape, stride, dtype)


def state_layouts(slab: SlabLayout, state: State) -> tuple[TensorLayout, ...]:
    """Where the optimizer state of each trained parameter lies: tensors `exp_avg/parameter`, and so on."""
    return tuple(
        replace(
            entry,
            name=f"{name}/{entry.name}",
            offset_bytes=state.width * (number * slab.trainable_bytes + entry.offset_bytes),
            size_bytes=state.width * entry.size_bytes,
            dtype=entry.dtype if state.width == 1 else torch.float32,
            shares=None,
        )
        for number, name in enumerate(state.names)
        for entry in slab.entries
        if entry.requires_grad
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSlab:
    parameters: Region
    optimizer: Region


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensors:
    """How a job's state is named when it is saved; tied names share a source."""

    names: Mapping[str, str]
    """state_dict name -> name of the graph's tensor, or of one in `unread`."""
    unread: Mapping[str, Tensor]
    model: nn.Module | None
    form: Form
    trained: frozenset[str]
    """Of the names' sources those that training changes: what is updated, and buffers that forwards update."""


class HostStore:
    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._slabs: dict[tuple[str, str], HostSlab] = {}
        self._saved: dict[str, SavedTensors] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def add(self, job: str, graph: ShardedGraph, state: State, model: BuiltModel) -> None:
        """Lay out a job's slabs and move the model's tensors there one by one, each freed when it is there; then make
        room for the optimizer's state, so that the two never need memory together.

        Raises RunError where the model has not the tensors that the graph reads.
        """
        tensors: dict[str, Tensor] = {}
        regions, freed = {}, Freed()
        for slab in graph.slabs:
            parameters = Region(view_on(self._allocate(slab.parameter_bytes)), 0, slab.parameter_bytes, slab.entries)
            parameters.fill()
            for name, target in parameters.tensors.items():
                _check(job, name, target, model.tensors.get(name))
                model.move(name, target)
                freed.note(target.nbytes)
            tensors |= parameters.tensors
            regions[slab.name] = parameters
        freed.give_back()
        for slab in graph.slabs:
            state_size = state.copies * slab.trainable_bytes
            optimizer = Region(view_on(self._allocate(state_size)), 0, state_size, state_layouts(slab, state))
            optimizer.fill()
            for entry in slab.entries if MASTER in state.names else ():
                if entry.requires_grad:
                    target = optimizer.tensors[f"{MASTER}/{entry.name}"]
                    _check(job, entry.name, target, model.masters.get(entry.name))
                    model.move_master(entry.name, target)
                    freed.note(target.nbytes)
            self._slabs[job, slab.name] = HostSlab(parameters=regions[slab.name], optimizer=optimizer)
        freed.give_back()
        self._tensors[job] = tensors
        extra = {name: tensor.detach() for name, tensor in model.tensors.items() if name not in tensors}
        # persistent tensors that no shard reads as the graph is cut
        self._saved[job] = SavedTensors(
            names=dict(model.saved_names),
            unread={**model.unread, **extra},
            model=model.model,
            form=model.form,
            trained=frozenset(
                entry.name
                for slab in graph.slabs
                for entry in slab.entries
                if entry.offset_bytes < slab.trainable_bytes + slab.buffer_bytes
            ),
        )

    def slab(self, job: str, slab: str) -> HostSlab:
        return self._slabs[job, slab]

    def model(self, job: str) -> nn.Module | None:
        """The job's model, where it takes part in its saving; its tensors lie in the store."""
        return self._saved[job].model

    def form(self, job: str) -> Form:
        return self._saved[job].form

    def trained(self, job: str) -> frozenset[str]:
        """The names in `state` of what training has changed."""
        saved = self._saved[job]
        return frozenset(name for name, source in saved.names.items() if source in saved.trained)

    def state(self, job: str) -> dict[str, Tensor]:
        """The job's state under the names of its model's state_dict, not copied: tied names have one tensor.

        Each seems to have memory of its own, as what writes files wants it: views of one slab would look tied.
        """
        saved, tensors = self._saved[job], self._tensors[job]
        apart = {
            source: alone(tensors[source] if source in tensors else saved.unread[source])
            for source in dict.fromkeys(saved.names.values())
        }
        return {name: apart[source] for name, source in saved.names.items()}

    def state_dict(self, job: str) -> dict[str, Tensor]:
        """A copy of the same; tied names get a copy each."""
        return {name: value.clone(memory_format=torch.contiguous_format) for name, value in self.state(job).items()}

    def masters(self, job: str) -> dict[str, Tensor]:
        """The fp32 masters of bf16 parameters, if the job has any, not copied, each once, under its first name in the
        state_dict."""
        first: dict[str, str] = {}
        for name, source in self._saved[job].names.items():
            first.setdefault(source, name)
        masters = {}
        for (owner, _), slab in self._slabs.items():
            for name, tensor in slab.optimizer.tensors.items() if owner == job else ():
                kind, _, source = name.partition("/")
                if kind == MASTER:
                    masters[first[source]] = alone(tensor)
        return masters


def alone(tensor: Tensor) -> Tensor:
    """The same memory as a storage of its own; a copy where it is not dense in order."""
    if not tensor.numel():  # numpy's stride of nothing is 0, which no view by bytes may have
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return torch.from_numpy(flat).view(tensor.dtype).view(tensor.shape)


def _check(job: str, name: str, target: Tensor, value: Tensor | None) -> None:
    if value is None:
        raise RunError(f"job {job}: its model has no tensor {name}, which the plan's graph reads; plan again")
    if value.shape != target.shape or value.dtype != target.dtype:
        raise RunError(
            f"job {job}: {name} is {value.dtype} {tuple(value.shape)} in the model, "
            f"{target.dtype} {tuple(target.shape)} in the plan's graph; plan again"
        )
