"""The most that each place ever holds, known before anything runs.

A device's peak is its arena (all objects of the list) plus, outside of it, what its one compute engine
holds in list order: the activations that kept forwards still hold, and the running cell's or update's workspace.
Each phase has an arena of its own size; a device takes the next one's when all of its engines are done with the last.
Scratch that kernels allocate inside one operator is not included.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hydraplan.plans.analysis.arena import Arenas
from hydraplan.plans.analysis.flow import Flow, layouts_of
from hydraplan.plans.language.facts import ShardFacts, SlabFacts
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Backward, Forward, Update
from hydraplan.plans.language.workload import HOST, Precision

CAST_BYTES = 4 << 20
"""Most that one update holds of its gradients as fp32."""
BATCHES = 2
"""Batches of a job that the host holds: the one in use and the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    arena_bytes: int
    """Largest of any phase."""
    workspace_bytes: int
    """Largest of any cell or update."""
    kept_bytes: int
    """Most that kept forwards hold at once."""
    peak_bytes: int
    """Most of all three together at any cell of any phase; below their sum where they do not meet."""


def device_memory(plan: Plan, flow: Flow, arenas: Arenas) -> dict[str, DeviceMemory]:
    """Device -> its use of memory, in list order."""
    layouts = layouts_of(plan)
    slabs = {(job, slab.name): slab for job, layout in layouts.items() for slab in layout.slabs}
    precisions = {job.name: job.precision for job in plan.workload.jobs}
    held: dict[str, int] = defaultdict(int)
    kept: dict[tuple[str, str, int, int, int], int] = {}
    most_workspace: dict[str, int] = defaultdict(int)
    most_kept: dict[str, int] = defaultdict(int)
    peaks: dict[str, int] = defaultdict(int)
    for (device, _), size in arenas.phase_sizes.items():
        peaks[device] = max(peaks[device], size)
    for site in flow.sites:
        step = site.step
        if isinstance(step, Update) and step.device != HOST:
            workspace = update_workspace_bytes(slabs[step.job, step.slab], precisions[step.job])
            arena = arenas.phase_sizes.get((step.device, site.phase), 0)
            peaks[step.device] = max(peaks[step.device], arena + held[step.device] + workspace)
            most_workspace[step.device] = max(most_workspace[step.device], workspace)
        if not isinstance(step, Forward | Backward):
            continue
        shard = layouts[step.job].shards[step.shard]
        cell = (step.device, step.job, step.shard, step.step, step.microbatch)
        workspace = _workspace_bytes(step, shard, cell in kept)
        if isinstance(step, Forward) and step.keep:
            kept[cell] = shard.kept_bytes
            held[step.device] += shard.kept_bytes
        arena = arenas.phase_sizes.get((step.device, site.phase), 0)
        peaks[step.device] = max(peaks[step.device], arena + held[step.device] + workspace)
        most_workspace[step.device] = max(most_workspace[step.device], workspace)
        most_kept[step.device] = max(most_kept[step.device], held[step.device])
        if isinstance(step, Backward):
            held[step.device] -= kept.pop(cell, 0)
    return {
        device.name: DeviceMemory(
            arena_bytes=arenas.sizes.get(device.name, 0),
            workspace_bytes=most_workspace[device.name],
            kept_bytes=most_kept[device.name],
            peak_bytes=peaks[device.name],
        )
        for device in plan.workload.cluster.devices
    }


def _workspace_bytes(step: Forward | Backward, shard: ShardFacts, kept: bool) -> int:
    """What a cell needs beside its arena objects and what is kept."""
    if isinstance(step, Forward):
        return shard.keep_workspace_bytes if step.keep else shard.forward_workspace_bytes
    return shard.backward_workspace_bytes if kept else shard.recompute_workspace_bytes


def update_workspace_bytes(slab: SlabFacts, precision: Precision) -> int:
    """What an update needs beside its arena objects: bf16 gradients as fp32, so many at a time."""
    return min(2 * slab.trainable_bytes, CAST_BYTES) if precision == "bf16" else 0


def host_peak_bytes(plan: Plan, arenas: Arenas) -> int:
    """The most that the host ever holds: while it trains, or before, while it loads.

        training     host store of all jobs, host arena, the batches that are read ahead
        loading      job by job: the host store of those before, and the model under construction

    Python itself, the data sets, buffers that no shard reads and the gradients that updates cast (`CAST_BYTES` a worker
    at most) come on top.
    """
    layouts = layouts_of(plan)
    batches = sum(
        BATCHES * shard.batch_bytes * job.microbatches
        for job in plan.workload.jobs
        for shard in layouts[job.name].shards
    )
    facts = {job.job: job for job in plan.facts.jobs}
    construction = {graph.name: graph.construction_bytes for graph in plan.facts.graphs}
    store = loading = 0
    for job in plan.workload.jobs:
        loading = max(loading, store + construction[facts[job.name].graph])
        store += sum(
            slab.parameter_bytes + facts[job.name].state_copies * slab.trainable_bytes
            for slab in layouts[job.name].slabs
        )
    return max(loading, store + batches + arenas.sizes.get(HOST, 0))
