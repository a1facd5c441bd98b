"""How long a step takes, in microseconds, rounded up: the one model of time that all of `plans` shares.

forward                        the shard's forward
backward                       of a kept forward: the shard's backward; of another one: forward + backward
load, spill, fetch, save       bytes / the slower of link and processor; of a slab's parameters, a spill and a load
                               over a present copy move what changes alone
update                         bytes read and written / the processor's update rate
drop                           nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from hydraplan.plans.analysis.flow import Site, layouts_of, refreshes
from hydraplan.plans.language.facts import ShardFacts, SlabFacts
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import (
    Backward,
    Drop,
    Fetch,
    FetchBatch,
    Forward,
    Load,
    Save,
    Spill,
    SpillGradients,
    Step,
    Update,
)
from hydraplan.plans.language.workload import HOST, Cluster, Device, Profile

MICROSECONDS = 1_000_000


def ceil_us(amount: int, per_second: int) -> int:
    """Time of `amount` (bytes, operations) at a rate, in whole microseconds, rounded up."""
    return -(-amount * MICROSECONDS // per_second)


def load_rate(cluster: Cluster, device: Device) -> int:
    """Bytes per second from the host to a device: the slower of its link and its processor."""
    link = next(link for link in cluster.links if link.name == device.link)
    return _slower(link.load_bytes_per_s, profile_of(cluster, device.profile))


def spill_rate(cluster: Cluster, device: Device) -> int:
    """Bytes per second from a device to the host."""
    link = next(link for link in cluster.links if link.name == device.link)
    return _slower(link.spill_bytes_per_s, profile_of(cluster, device.profile))


def profile_of(cluster: Cluster, name: str) -> Profile:
    return next(profile for profile in cluster.profiles if profile.name == name)


def _slower(link: int | None, profile: Profile) -> int:
    return profile.copy_bytes_per_s if link is None else min(link, profile.copy_bytes_per_s)


def update_bytes(trainable_bytes: int, state_copies: int) -> int:
    """Bytes that one update reads or writes: parameters and state read and written, gradients read."""
    return (2 + 2 * state_copies + 1) * trainable_bytes


def update_us(slab: SlabFacts, state_copies: int, profile: Profile) -> int:
    """Of the optimizer's update, and of buffers, which are read and written."""
    moved = update_bytes(slab.trainable_bytes, state_copies) + 2 * slab.buffer_bytes
    return ceil_us(moved, profile.update_bytes_per_s)


def forward_us(shard: ShardFacts, profile: str) -> int:
    return next(times.forward_us for times in shard.times if times.profile == profile)


def backward_us(shard: ShardFacts, profile: str) -> int:
    """Backward of a kept forward; a recomputed one takes `forward_us` more."""
    return next(times.backward_us for times in shard.times if times.profile == profile)


class Durations:
    """Durations of the steps of one plan, whose references hold."""

    def __init__(self, plan: Plan) -> None:
        cluster = plan.workload.cluster
        self._layouts = layouts_of(plan)
        self._copies = {job.job: job.state_copies for job in plan.facts.jobs}
        self._profiles = {device.name: profile_of(cluster, device.profile) for device in cluster.devices}
        self._cluster = cluster
        self._slabs = {(job, slab.name): slab for job, layout in self._layouts.items() for slab in layout.slabs}
        self._gradients = {
            (job, number, slab): size
            for job, layout in self._layouts.items()
            for number, shard in enumerate(layout.shards)
            for slab, size in shard.gradient_bytes
        }
        self._loads = {device.name: load_rate(cluster, device) for device in cluster.devices}
        self._spills = {device.name: spill_rate(cluster, device) for device in cluster.devices}

    @cached_property
    def _host(self) -> Profile:
        return profile_of(self._cluster, self._cluster.host_profile)

    def of(self, step: Step, *, kept: bool = False, refresh: bool = False) -> int:
        """Microseconds of a step; `kept`: the backward is of a forward that kept its activations. `refresh`: the load
        is over a present copy."""
        match step:
            case Forward():
                return forward_us(self._shard(step), self._profiles[step.device].name)
            case Backward():
                shard, profile = self._shard(step), self._profiles[step.device].name
                return backward_us(shard, profile) + (0 if kept else forward_us(shard, profile))
            case Update():
                profile_used = self._host if step.device == HOST else self._profiles[step.device]
                return update_us(self._slabs[step.job, step.slab], self._copies[step.job], profile_used)
            case Drop():
                return 0
            case Load() | Fetch() | FetchBatch():
                return ceil_us(self.bytes_of(step, refresh=refresh), self._loads[step.device])
            case Spill() | SpillGradients() | Save():
                return ceil_us(self.bytes_of(step), self._spills[step.device])

    def bytes_of(
        self, step: Load | Fetch | FetchBatch | Spill | SpillGradients | Save, *, refresh: bool = False
    ) -> int:
        """Bytes that a copy moves. `refresh`: a load over a present copy."""
        match step:
            case Load() | Spill():
                slab = self._slabs[step.job, step.slab]
                if step.what == "optimizer":
                    return self._copies[step.job] * slab.trainable_bytes
                return slab.updated_bytes if refresh or isinstance(step, Spill) else slab.parameter_bytes
            case SpillGradients():
                return self._gradients[step.job, step.shard, step.slab]
            case FetchBatch():
                return self._shard(step).batch_bytes
            case Fetch() | Save():
                shard = self._shard(step)
                match step.what:
                    case "activations":
                        return shard.activation_bytes
                    case "activation_gradients":
                        return shard.activation_gradient_bytes
                    case "buffers":
                        return shard.buffer_bytes

    def of_sites(self, sites: Sequence[Site]) -> list[int]:
        """Microseconds of each site, in order; backwards by what their forwards above kept."""
        known: dict[tuple[int, bool, bool], int] = {}
        """By the step's identity, which the copies of a cycle share."""
        over_present = refreshes(sites)
        kept: set[tuple[str, int, int, int]] = set()
        result: list[int] = []
        for number, site in enumerate(sites):
            step, refresh = site.step, number in over_present
            was_kept = False
            if isinstance(step, Forward | Backward):
                cell = (step.job, step.shard, step.step, step.microbatch)
                if isinstance(step, Backward):
                    was_kept = cell in kept
                    kept.discard(cell)
                elif step.keep:
                    kept.add(cell)
            duration = known.get((id(step), was_kept, refresh))
            if duration is None:
                duration = known[id(step), was_kept, refresh] = self.of(step, kept=was_kept, refresh=refresh)
            result.append(duration)
        return result

    def _shard(self, step: Forward | Backward | Fetch | FetchBatch | Save) -> ShardFacts:
        return self._layouts[step.job].shards[step.shard]
