"""A lower bound on the makespan of every plan that `check` accepts, whatever its decisions and lists.

It holds for the simulator's own model of time (`prediction.durations`, `prediction.simulate`), for the workload given
and for all cuts of which the facts hold a layout: per job, each quantity is the least over those layouts.
(A cut that the facts do not know must be costed before it can be checked; the bound is then made again.)

The terms; the bound is the largest. Every one counts work that no plan can avoid:

    compute   Each cell's forward and backward runs once, on some device: at least its time on the fastest
              profile, without recompute. All of it, over the number of devices.
    work      The same plus every update, on its fastest place, over all compute engines and update workers.
    loads     Every slab is loaded at least once. A job whose slabs exceed all device memory together by x
              loads x in every forward sweep and, where all of them are read there, x in every backward sweep:
              at the sweep's first line at most the budgets are on devices, and every slab is there at some line
              of the sweep. The sweeps of one microbatch follow each other in the list, and step t + 1 begins
              below the update, and so below the backwards, of step t. All of it, over the links' rates.
    chain     Of each job alone. Follow a trained slab x around one training step:
                  x is on a device -> forwards -> backwards -> x's gradients -> update of x -> x on a device
              Along values read (`reads`, `gradients_to`) nothing overlaps; and all microbatches' cells that
              lie between x and its gradients share the devices. An update on the host spills gradients
              first and loads what changed of x after; one on a device does neither. The steps of a job repeat
              this circle.

A recomputed backward need not wait for its forward, but takes a forward longer itself; so a backward ends
at least one forward and one backward after its shard's inputs, kept or not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hydraplan.plans.language.facts import Facts, Layout, SlabFacts
from hydraplan.plans.language.workload import Cluster, Job, Workload
from hydraplan.plans.prediction.durations import ceil_us, load_rate, profile_of, spill_rate, update_us


def lower_bound_us(workload: Workload, facts: Facts) -> int:
    """Microseconds that any plan of this workload takes. The facts must hold a layout for each job."""
    return max(terms_us(workload, facts).values(), default=0)


def terms_us(workload: Workload, facts: Facts) -> dict[str, int]:
    """Each term of the bound by name, for reports and tests."""
    cluster = workload.cluster
    if not workload.jobs:
        return {}
    jobs = [_least(workload, facts, job) for job in workload.jobs]
    devices = len(cluster.devices)
    compute = sum(job.compute_us for job in jobs)
    update = sum(job.update_us for job in jobs)
    rate = sum(
        max((load_rate(cluster, device) for device in cluster.devices if device.link == link.name), default=0)
        for link in cluster.links
    )
    terms = {
        "compute": -(-compute // devices),
        "work": -(-(compute + update) // (devices + cluster.update_workers)),
        "loads": ceil_us(sum(job.load_bytes for job in jobs), rate),
    }
    terms |= {f"chain of {job.name}": least.chain_us for job, least in zip(workload.jobs, jobs, strict=True)}
    return terms


@dataclass(frozen=True, slots=True, kw_only=True)
class _JobBound:
    """What a job takes at least, over its whole life."""

    compute_us: int
    update_us: int
    load_bytes: int
    chain_us: int


def _least(workload: Workload, facts: Facts, job: Job) -> _JobBound:
    bound_to = next(each for each in facts.jobs if each.job == job.name)
    bounds = [
        _Circle(workload.cluster, job, layout, bound_to.state_copies).bound()
        for layout in facts.layouts
        if layout.graph == bound_to.graph
    ]
    return _JobBound(
        compute_us=min(bound.compute_us for bound in bounds),
        update_us=min(bound.update_us for bound in bounds),
        load_bytes=min(bound.load_bytes for bound in bounds),
        chain_us=min(bound.chain_us for bound in bounds),
    )


class _Circle:
    """One job under one layout. Times are the fastest that any device of the cluster offers."""

    def __init__(self, cluster: Cluster, job: Job, layout: Layout, state_copies: int) -> None:
        self.cluster = cluster
        self.job = job
        self.layout = layout
        self.state_copies = state_copies
        used = {device.profile for device in cluster.devices}
        times = [[each for each in shard.times if each.profile in used] for shard in layout.shards]
        self.forward_us = [min(each.forward_us for each in shard) for shard in times]
        self.backward_us = [
            min(each.backward_us for each in of_shard) if shard.has_backward else 0
            for of_shard, shard in zip(times, layout.shards, strict=True)
        ]
        self.device_profiles = [profile_of(cluster, name) for name in sorted(used)]
        self.host_profile = profile_of(cluster, cluster.host_profile)
        self.load_rate = max(load_rate(cluster, device) for device in cluster.devices)
        self.spill_rate = max(spill_rate(cluster, device) for device in cluster.devices)
        self.trained = [slab for slab in layout.slabs if slab.trainable_bytes]

    def bound(self) -> _JobBound:
        cells_us = sum(self.forward_us) + sum(self.backward_us)
        updates = [min(self.host_update_us(slab), self.device_update_us(slab)) for slab in self.trained]
        return _JobBound(
            compute_us=self.job.steps * self.job.microbatches * cells_us,
            update_us=self.job.steps * sum(updates),
            load_bytes=self.load_bytes(),
            chain_us=max((self.chain_us(slab) for slab in self.trained), default=0),
        )

    # -- loads ------------------------------------------------------------------------------------

    def load_bytes(self) -> int:
        once = sum(slab.parameter_bytes for slab in self.layout.slabs)
        first = next((number for number in range(len(self.layout.shards)) if self.gradient_slabs(number)), None)
        if first is None:
            return once
        forward = range(first, len(self.layout.shards))
        backward = [number for number in forward if self.layout.shards[number].has_backward]
        budgets = sum(device.budget_bytes for device in self.cluster.devices)
        excess = sum(max(0, self.bytes_read_by(sweep) - budgets) for sweep in (forward, backward))
        return max(once, self.job.steps * excess)

    def bytes_read_by(self, shards: Collection[int]) -> int:
        return sum(
            slab.parameter_bytes for slab in self.layout.slabs if any(reader in shards for reader in slab.readers)
        )

    def gradient_slabs(self, shard: int) -> list[str]:
        trained = {slab.name for slab in self.trained}
        return [slab for slab, _ in self.layout.shards[shard].gradient_bytes if slab in trained]

    # -- the circle of a slab ---------------------------------------------------------------------

    def chain_us(self, slab: SlabFacts) -> int:
        """All steps around the circle of one trained slab, from its first load to the host's newest copy."""
        gradients = {
            number: dict(self.layout.shards[number].gradient_bytes)[slab.name]
            for number in slab.readers
            if slab.name in dict(self.layout.shards[number].gradient_bytes)
        }
        if not gradients:
            return 0
        path_us = self.longest_path(slab.readers, list(gradients))
        spill_us = ceil_us(min(gradients.values()), self.spill_rate)
        load_us = ceil_us(slab.parameter_bytes, self.load_rate)
        refresh_us = ceil_us(slab.updated_bytes, self.load_rate)
        store_us = ceil_us(slab.updated_bytes, self.spill_rate)
        on_host = spill_us + self.host_update_us(slab)
        on_device = self.device_update_us(slab)
        step_us = path_us + min(on_host + refresh_us, on_device)
        last_us = path_us + min(on_host, on_device + store_us)
        return load_us + (self.job.steps - 1) * step_us + last_us

    def longest_path(self, readers: Sequence[int], last: Sequence[int]) -> int:
        """From where `readers` can run forward to where `last` have run backward, of one training step."""
        shards = self.layout.shards
        forward: list[int | None] = [None] * len(shards)
        for number, shard in enumerate(shards):
            before = [ready for ready in (forward[producer] for producer in shard.reads) if ready is not None]
            if number in readers or before:
                forward[number] = max(before, default=0) + self.forward_us[number]
        backward: list[int | None] = list(forward)
        """Until a shard's turn: when its gradients, or its own forward, let its backward begin."""
        leads = [number in last for number in range(len(shards))]
        between = 0
        for number in reversed(range(len(shards))):
            begin = backward[number]
            if begin is not None:
                end = backward[number] = begin + self.backward_us[number]
                for producer in shards[number].gradients_to:
                    backward[producer] = max(backward[producer] or 0, end)
        for number, shard in enumerate(shards):
            leads[number] = leads[number] or any(leads[producer] for producer in shard.gradients_to)
            if leads[number] and backward[number] is not None:
                between += self.backward_us[number]
                between += self.forward_us[number] if forward[number] is not None else 0
        alone = max(ready for ready in (backward[number] for number in last) if ready is not None)
        return max(alone, -(-self.job.microbatches * between // len(self.cluster.devices)))

    # -- times ------------------------------------------------------------------------------------

    def host_update_us(self, slab: SlabFacts) -> int:
        return update_us(slab, self.state_copies, self.host_profile)

    def device_update_us(self, slab: SlabFacts) -> int:
        return min(update_us(slab, self.state_copies, profile) for profile in self.device_profiles)
