"""Bind a program to memory: a region for every instance of the flow, on the device or host place it lies in."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from hydraplan.planner.frontend.shards.program import ShardedGraph, TensorLayout
from hydraplan.plans.analysis.flow import Instance, Key
from hydraplan.plans.language.optimizer import State
from hydraplan.plans.language.workload import HOST
from hydraplan.runtime.memory.regions import Region, View
from hydraplan.runtime.memory.store import HostStore, state_layouts
from hydraplan.runtime.replaying.program import Program

SIZED_BY_BUCKET = ("activations", "activation_gradients", "batch")
"""Kinds whose tensors grow with the length of a job's batches; all others are the same in every bucket."""


class Memory:
    """Regions by instance. Instances at one address with one layout share a region's views, not its contents."""

    def __init__(
        self,
        *,
        program: Program,
        graphs: Mapping[str, ShardedGraph],
        states: Mapping[str, State],
        store: HostStore,
        views: Mapping[str, View],
    ) -> None:
        """`states`: job -> what its updates keep. `views`: place (devices and host) -> views of its arena."""
        self._graphs = graphs
        self._states = states
        self._store = store
        self._views = views
        self._regions: dict[object, Region] = {}
        self._instances, self._addresses = program.flow.instances, program.arenas.addresses
        self._of = [self._bind(instance, self._addresses[instance.id]) for instance in self._instances]

    def of(self, instance: Instance) -> Region:
        return self._of[instance.id]

    def at(self, job: str, graph: ShardedGraph) -> Memory:
        """This memory as a smaller bucket of a job lays it out: its values in regions of their own, which begin where
        those of the largest bucket do; all else is the same."""
        smaller = copy.copy(self)
        smaller._graphs = {job: graph}
        smaller._regions = {}
        smaller._of = [
            smaller._bind(instance, self._addresses[instance.id])
            if instance.key.job == job and instance.key.kind in SIZED_BY_BUCKET
            else self._of[instance.id]
            for instance in self._instances
        ]
        return smaller

    def _bind(self, instance: Instance, address: int) -> Region:
        key = instance.key
        if not instance.in_arena:
            slab = self._store.slab(key.job, key.slab)
            return slab.parameters if key.kind == "parameters" else slab.optimizer
        # what one engine's copies of an iteration share must be one object: a key's region is found by place
        # and address, and a region's contents follow the list's order as its bytes do
        identity = (instance.place, address, key.kind, key.job, key.slab, key.shard)
        region = self._regions.get(identity)
        if region is None:
            layouts = self._layouts(key)
            # of a job with lengths, the bytes of the bucket in use, not those that the plan has room for
            size = sum(each.size_bytes for each in layouts) if key.kind in SIZED_BY_BUCKET else instance.bytes
            region = Region(self._views[instance.place], address, size, layouts)
            self._regions[identity] = region
            if key.kind in ("parameters", "optimizer", "batch", "buffers"):
                region.fill()
        return region

    def _layouts(self, key: Key) -> tuple[TensorLayout, ...]:
        graph = self._graphs[key.job]
        match key.kind:
            case "parameters":
                return next(slab for slab in graph.slabs if slab.name == key.slab).entries
            case "optimizer":
                slab = next(slab for slab in graph.slabs if slab.name == key.slab)
                return state_layouts(slab, self._states[key.job])
            case "activations":
                return graph.activations[key.shard].tensors
            case "activation_gradients":
                return graph.activation_gradients[key.shard].tensors
            case "buffers":
                return graph.buffers[key.shard].tensors
            case "batch":
                return graph.batch[key.shard].tensors
            case "gradients":
                return dict(graph.parameter_gradients[key.shard])[key.slab].tensors


def places(program: Program) -> set[str]:
    """Every place that holds something in an arena, the host included."""
    return {instance.place for instance in program.flow.instances if instance.in_arena} | {HOST}
