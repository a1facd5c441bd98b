"""Options: in which ways a job can run on a device, and what each asks of it per training step.

                       memory                            time per step
    streamed           -                                 load 2 x, spill gradients, update on the host
    resident           parameters                        load what changed, spill gradients, update on the host
    resident, state    parameters and optimizer state    update on the device, no transfers
    streamed, state    -                                 load 2 x and state, spill what changed, update on the device
    keep               kept activations                  one forward less

A shard of frozen parameters with nothing trained upstream has no backward: it is loaded 1 x, and nothing is kept.
Where the values of all microbatches exceed the budget beside one streamed shard and the next, activations make a
trip to the host in every option.

How much memory goes to each treatment varies in parts of the budget; which slabs and shards get it, by what
a byte saves. Options that another one beats in every respect are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hydraplan.planner.lists.cells import Builder
from hydraplan.planner.lists.orders import in_turn
from hydraplan.planner.lists.views import JobView
from hydraplan.plans.analysis.arena import align
from hydraplan.plans.language.facts import Layout
from hydraplan.plans.language.plan import Placement
from hydraplan.plans.language.steps import Fetch
from hydraplan.plans.language.workload import Cluster, Device, Job
from hydraplan.plans.prediction.durations import ceil_us

RESIDENT_PARTS = (0, 1, 2, 3, 4, 5, 6, 7, 8)
"""Eighths of the room beyond the streaming window, for residents."""
KEEP_PARTS = (0, 1, 2, 4, 8)
"""Eighths of the same room, for kept activations."""
MARGIN = 32
"""Part of the budget that residents and kept activations leave to gaps between regions of the arena."""
MOST_OPTIONS = 16
"""Options of one job class on one kind of device, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to run a job on a kind of device. Times are microseconds per training step."""

    resident: tuple[str, ...]
    keep: tuple[int, ...]
    device_updates: tuple[str, ...]
    memory_bytes: int
    """What it holds all the time, and its values at their peak."""
    window_bytes: int
    """What it needs while it computes: workspace, and two shards' streamed slabs. Jobs of a device share it."""
    compute_us: int
    load_us: int
    spill_us: int
    host_us: int
    chain_us: int
    """Latency of a step that runs alone: the job's own bound."""

    def costs(self) -> tuple[int, ...]:
        return (
            self.memory_bytes,
            self.window_bytes,
            self.compute_us,
            self.load_us,
            self.spill_us,
            self.host_us,
            self.chain_us,
        )

    def placement(self, job: str, device: str, steps: int) -> Placement:
        return Placement(
            job=job,
            device=device,
            steps=steps,
            resident=self.resident,
            keep=self.keep,
            device_updates=self.device_updates,
        )


class Pricer:
    """Prices the options of one job on one kind of device."""

    def __init__(self, cluster: Cluster, device: Device, job: Job, layout: Layout, state_copies: int) -> None:
        self.cluster = cluster
        self.device = device
        self.job = job
        self.layout = layout
        self.state_copies = state_copies
        plain = self.view((), (), ())
        self.shards = range(len(layout.shards))
        self.plain = plain
        window = self._window_bytes(plain)
        self.values_bytes, self.trips_bytes = self._values(offload=False)
        """Peak of the values on the device; those that make a trip to the host between forward and backward."""
        if self.values_bytes + window > device.budget_bytes:
            self.values_bytes, self.trips_bytes = self._values(offload=True)

    def _values(self, *, offload: bool) -> tuple[int, int]:
        program = Builder(self.device.name, [self.plain], in_turn([self.plain], [1]), offload).build()
        return max(program.lived), sum(load.bytes for load in program.loads if isinstance(load.step, Fetch))

    def view(self, resident: Sequence[str], keep: Sequence[int], device_updates: Sequence[str]) -> JobView:
        placement = Placement(
            job=self.job.name,
            device=self.device.name,
            steps=1,
            resident=tuple(resident),
            keep=tuple(keep),
            device_updates=tuple(device_updates),
        )
        return JobView(
            placement,
            self.layout,
            self.cluster,
            microbatches=self.job.microbatches,
            precision=self.job.precision,
            state_copies=self.state_copies,
        )

    def price(self, resident: Sequence[str], keep: Sequence[int], device_updates: Sequence[str]) -> Option:
        view = self.view(resident, keep, device_updates)
        forward, backward = _Sums(), _Sums()
        for shard in self.shards:
            self._shard(view, shard, forward, backward)
        forward.spill += self.trips_bytes
        backward.load += self.trips_bytes
        held = sum(align(view.bytes_of(slab, "parameters")) for slab in resident)
        held += sum(align(view.bytes_of(slab, "optimizer")) for slab in resident if view.state_on_device(slab))
        kept = sum(self.layout.shards[shard].kept_bytes for shard in keep) * self.job.microbatches
        rate, out = view.load_rate, view.spill_rate
        load_f, load_b = ceil_us(forward.load, rate), ceil_us(backward.load, rate)
        spill_f, spill_b = ceil_us(forward.spill, out), ceil_us(backward.spill, out)
        host = sum(
            view.update_us(slab.name, host=True)
            for slab in self.layout.slabs
            if slab.updated_bytes and slab.name not in view.on_device
        )
        chain = max(forward.compute, load_f, spill_f) + max(backward.compute, load_b, spill_b) + self._border_us(view)
        return Option(
            resident=tuple(sorted(resident, key=lambda name: (view.slabs[name].readers, name))),
            keep=tuple(sorted(keep)),
            device_updates=tuple(sorted(device_updates, key=lambda name: (view.slabs[name].readers, name))),
            memory_bytes=held + self.values_bytes + kept,
            window_bytes=self._window_bytes(view),
            compute_us=forward.compute + backward.compute,
            load_us=load_f + load_b,
            spill_us=spill_f + spill_b,
            host_us=host,
            chain_us=max(chain, host // self.cluster.update_workers),
        )

    def _shard(self, view: JobView, number: int, forward: _Sums, backward: _Sums) -> None:
        shard = self.layout.shards[number]
        count = self.job.microbatches
        forward.compute += view.forward_us(number) * count
        backward.compute += view.backward_us(number) * count
        forward.load += shard.batch_bytes * count
        for slab in shard.slabs:
            parameters, state = view.bytes_of(slab, "parameters"), view.bytes_of(slab, "optimizer")
            changed = view.changed_bytes(slab, "parameters")
            final = view.last_group[slab][0] == number
            if slab not in view.resident:
                forward.load += parameters
                backward.load += parameters if self.loads_again(number) else 0
                if final and view.state_on_device(slab):
                    backward.load += state
                    backward.spill += changed + state
            elif final and view.slabs[slab].updated_bytes and slab not in view.on_device:
                forward.load += changed
            if final and slab in view.on_device:
                backward.compute += view.update_us(slab, host=False)
        backward.spill += sum(size for slab, size in shard.gradient_bytes if slab not in view.on_device)

    def _border_us(self, view: JobView) -> int:
        """From the last backward of a step to the next forward of its shard, beyond the forwards that come before."""
        last = next((shard for shard in self.shards if view.has_backward(shard)), 0)
        total = 0
        for slab in self.layout.shards[last].slabs:
            if not view.slabs[slab].updated_bytes:
                continue
            resident = slab in view.resident
            moved = view.changed_bytes(slab, "parameters") if resident else view.bytes_of(slab, "parameters")
            load = ceil_us(moved, view.load_rate)
            if slab not in view.on_device:
                gradient = view.gradients[last].get(slab, 0)
                total += ceil_us(gradient, view.spill_rate) + view.update_us(slab, host=True) + load
            elif not resident:
                total += ceil_us(view.changed_bytes(slab, "parameters"), view.spill_rate) + load
        return max(0, total - sum(view.forward_us(shard) for shard in range(last)) * self.job.microbatches)

    def _window_bytes(self, view: JobView) -> int:
        """The largest workspace, and the streamed slabs and accumulators of any two neighbouring shards."""
        streamed = []
        workspace = 0
        for number, shard in enumerate(self.layout.shards):
            size = sum(align(view.bytes_of(slab, "parameters")) for slab in shard.slabs if slab not in view.resident)
            size += sum(
                align(view.bytes_of(slab, "optimizer"))
                for slab in shard.slabs
                if slab not in view.resident and view.state_on_device(slab)
            )
            streamed.append(size)
            if not shard.has_backward:
                workspace = max(workspace, shard.forward_workspace_bytes)
            elif number in view.keep:
                workspace = max(workspace, shard.keep_workspace_bytes, shard.backward_workspace_bytes)
            else:
                workspace = max(workspace, shard.forward_workspace_bytes, shard.recompute_workspace_bytes)
        workspace = max([workspace, *(view.update_workspace_bytes(slab) for slab in view.on_device)])
        pairs = [one + two for one, two in pairwise(streamed)]
        return workspace + max(pairs, default=streamed[0])

    def loads_again(self, shard: int) -> bool:
        """Whether a shard's backward loads what is streamed once more: all but the one that turns round."""
        return shard != self.shards[-1] and self.plain.has_backward(shard)

    # -- which slabs and shards ---------------------------------------------------------------------

    def by_saving(self) -> list[str]:
        """Slabs by the loads that residency saves per byte, then from the first shard on."""

        def key(name: str) -> tuple[float, tuple[int, ...], str]:
            slab = self.plain.slabs[name]
            loads = len(slab.readers) + sum(self.loads_again(reader) for reader in slab.readers)
            refresh = slab.updated_bytes / max(1, slab.parameter_bytes)
            return (refresh - loads, slab.readers, name)

        return sorted((slab.name for slab in self.layout.slabs), key=key)

    def by_keeping(self) -> list[int]:
        """Shards that have a backward by the forward time that a kept byte saves, then from the last shard on."""
        return sorted(
            (shard for shard in self.shards if self.plain.has_backward(shard)),
            key=lambda shard: (
                -self.plain.forward_us(shard) / max(1, self.layout.shards[shard].kept_bytes),
                -shard,
            ),
        )


@dataclass(slots=True)
class _Sums:
    compute: int = 0
    load: int = 0
    spill: int = 0


def options_of(pricer: Pricer) -> tuple[Option, ...]:
    """The Pareto list of a job on a kind of device, by estimate. The plain option is always in it: lists decide."""
    budget = pricer.device.budget_bytes
    plain, *more = _candidates(pricer)
    fitting = {option.costs(): option for option in (plain, *(each for each in more if _fits(each, budget)))}
    return thin(_pareto(list(fitting.values())), MOST_OPTIONS)


def smallest_budget(pricer: Pricer) -> int:
    """Bytes of memory with which the job can run in some option."""
    return min(option.memory_bytes + option.window_bytes for option in _candidates(pricer))


def _fits(option: Option, budget_bytes: int) -> bool:
    return option.memory_bytes + option.window_bytes + budget_bytes // MARGIN <= budget_bytes


def _candidates(pricer: Pricer) -> Iterator[Option]:
    plain = pricer.price((), (), ())
    budget = pricer.device.budget_bytes
    room = max(0, budget - budget // MARGIN - plain.memory_bytes - plain.window_bytes)
    slabs = pricer.by_saving()
    trained = [slab.name for slab in pricer.layout.slabs if slab.trainable_bytes]
    yield plain
    for resident_part in RESIDENT_PARTS:
        for keep_part in KEEP_PARTS:
            if resident_part + keep_part > 8:
                continue
            keep = _fill(
                pricer.by_keeping(),
                lambda shard: pricer.layout.shards[shard].kept_bytes * pricer.job.microbatches,
                room * keep_part // 8,
            )
            for with_state in (False, True):
                resident = _fill(
                    slabs,
                    lambda name: (
                        pricer.plain.bytes_of(name, "parameters")
                        + (pricer.plain.bytes_of(name, "optimizer") if with_state else 0)  # noqa: B023
                    ),
                    room * resident_part // 8,
                )
                on_device = [name for name in resident if name in trained] if with_state else []
                yield pricer.price(resident, keep, on_device)
                if with_state:
                    yield pricer.price(resident, keep, trained)


def _fill(names: Sequence, size, room: int) -> list:  # type: ignore[no-untyped-def,type-arg]
    taken = []
    for name in names:
        need = align(size(name))
        if need <= room:
            taken.append(name)
            room -= need
    return taken


def _pareto(options: Sequence[Option]) -> list[Option]:
    kept: list[Option] = []
    for option in sorted(options, key=lambda each: each.costs()):
        costs = option.costs()
        if not any(all(a <= b for a, b in zip(other.costs(), costs, strict=True)) for other in kept):
            kept.append(option)
    return kept


def thin(options: Sequence[Option], most: int) -> tuple[Option, ...]:
    """At most so many, evenly over memory; the best of each kind of cost stay."""
    if len(options) <= most:
        return tuple(options)
    best = list(
        dict.fromkeys(min(range(len(options)), key=lambda n: (options[n].costs()[kind], n)) for kind in range(7))
    )
    last, room = len(options) - 1, most - len(best)
    evenly = [round(number * last / (room - 1)) for number in range(room)] if room > 1 else []
    return tuple(options[number] for number in sorted({*best[:most], *evenly}))
