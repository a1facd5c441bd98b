"""Train what a plan says, on graphs and data that are there already: open devices, bind, replay.

    plan -> program -> arenas -> regions -> operations -> replay -> losses, times, failures

Memory is enforced: a device's arena is allocated at exactly the plan's size, and what kept cells hold is
counted against the plan's figure.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from hydraplan.planner.frontend.shards.deterministic import deterministic
from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.planner.frontend.users.usercode import said
from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import HOST, Cluster
from hydraplan.runtime.devices.backings import backing_of
from hydraplan.runtime.devices.device import Backing, Device
from hydraplan.runtime.devices.links import PacedLink
from hydraplan.runtime.losses import Losses
from hydraplan.runtime.memory.regions import View
from hydraplan.runtime.memory.store import HostStore, view_on
from hydraplan.runtime.progress import Watch
from hydraplan.runtime.replaying.batches import Batches, BatchSource
from hydraplan.runtime.replaying.binding import Binder
from hydraplan.runtime.replaying.crew import Abandoned
from hydraplan.runtime.replaying.failures import Failure, Failures
from hydraplan.runtime.replaying.memory import Memory
from hydraplan.runtime.replaying.operations import BeginPhase, KeptCells
from hydraplan.runtime.replaying.program import Lane, Program, compile_plan, lane_of
from hydraplan.runtime.replaying.replay import ComputeContext, Replay
from hydraplan.runtime.replaying.times import StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What a device held."""

    arena_bytes: int
    """Allocated, the largest of any phase."""
    kept_bytes: int
    """Most that kept cells held at once, counted."""
    peak_bytes: int
    """Most of arena, kept (counted) and workspace (planned) of the running cell together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a replay did. Weights and optimizer state are in the host store."""

    program: Program
    losses: Mapping[str, tuple[float, ...]]
    buckets: Mapping[str, tuple[int, ...]]
    """Of each job with lengths: the bucket of every training step whose batch was made."""
    failures: Mapping[str, Failure]
    started_ns: int
    """`time.perf_counter_ns` when the replay began."""
    times: StepTimes
    devices: Mapping[str, DeviceUse]


def no_context(device: str) -> AbstractContextManager[object]:
    """The context that a device's compute thread normally runs in: none."""
    return nullcontext()


def host_backing(cluster: Cluster) -> Backing:
    """The backing whose host memory every device can copy from: any but the CPU's, where there is one."""
    specs = sorted(cluster.devices, key=lambda spec: spec.backing == "cpu")
    return backing_of(specs[0])


class Training:
    """The replay of a checked plan, which can be looked at whenever and however it has ended."""

    def __init__(
        self,
        plan: Plan,
        *,
        graphs: Mapping[str, ShardedGraph],
        sources: Mapping[str, BatchSource],
        store: HostStore,
        watch: Watch,
        compute_context: ComputeContext = no_context,
    ) -> None:
        """Takes all memory that the replay needs. Raises RunError where it is not to be had."""
        self._plan, self._graphs, self._store = plan, graphs, store
        self._program = program = compile_plan(plan)
        jobs = {job.name: job for job in plan.workload.jobs}
        self._failures = Failures(watch.fail)
        self._watch = watch
        self._losses = Losses(
            steps=program.steps,
            microbatches={name: job.microbatches for name, job in jobs.items()},
            told=watch.step,
        )
        self._lengths = {name: job.lengths for name, job in jobs.items() if job.lengths is not None}
        self._started_ns = 0
        self._devices = open_devices(plan.workload.cluster)
        self._kept = {name: KeptCells() for name in self._devices}
        self._batches = Batches(sources, program.steps, self._lengths)
        try:
            self._replay = self._bind(compute_context)
        except BaseException:
            self._close()
            raise

    def run(self) -> None:
        """Jobs that fail are in what `so_far` gives; raises what breaks the whole run.

        Interrupted, it ends after the steps that are at work, and KeyboardInterrupt is raised; Abandoned, where a
        second interrupt comes meanwhile: then threads are left at work, and the memory that they use.
        """
        self._started_ns = time.perf_counter_ns()
        try:
            with deterministic():
                self._replay.run()
        except Abandoned:
            self._batches.stop()
            raise
        except BaseException:
            self._close()
            raise
        self._close()
        if self._failures.fatal is not None:
            fatal = self._failures.fatal
            raise fatal if isinstance(fatal, Exception) else RunError(said(fatal)) from fatal

    def so_far(self) -> Trained:
        """What was done until now."""
        return Trained(
            program=self._program,
            losses={job: self._losses.of(job) for job in self._program.steps},
            buckets={job: self._batches.buckets(job) for job in self._lengths},
            failures=dict(self._failures.of),
            started_ns=self._started_ns,
            times=self._replay.times,
            devices={
                name: DeviceUse(
                    arena_bytes=each.most_arena_bytes, kept_bytes=each.most_bytes, peak_bytes=each.peak_bytes
                )
                for name, each in self._kept.items()
            },
        )

    def _bind(self, compute_context: ComputeContext) -> Replay:
        plan, program, devices = self._plan, self._program, self._devices
        views: dict[str, View] = {}
        for name, device in devices.items():
            device.allocate(program.arenas.sizes.get(name, 0))
            views[name] = device.view
        host_arena = host_backing(plan.workload.cluster).host_memory(program.arenas.sizes.get(HOST, 0))
        views[HOST] = view_on(host_arena)
        memory = Memory(
            program=program,
            graphs=self._graphs,
            states={job.name: state_of(job.optimizer, job.precision) for job in plan.workload.jobs},
            store=self._store,
            views=views,
        )
        binder = Binder(
            plan=plan,
            program=program,
            graphs=self._graphs,
            memory=memory,
            batches=self._batches,
            losses=self._losses,
            kept=self._kept,
        )
        begins: dict[int, BeginPhase] = {}
        for (place, phase), numbers in first_steps(program).items():
            size = program.arenas.phase_sizes.get((place, phase), 0)
            begins |= dict.fromkeys(numbers, BeginPhase(devices[place], size, self._kept[place]))
        return Replay(
            program=program,
            operations=binder.operations(),
            begins=begins,
            devices=devices,
            kept=self._kept,
            update_workers=plan.workload.cluster.update_workers,
            failures=self._failures,
            compute_context=compute_context,
            ended=self._ended,
            stopped=self._batches.stop,
        )

    def _ended(self, job: str) -> None:
        if job not in self._failures.of:
            self._watch.finish(job)

    def _close(self) -> None:
        self._batches.close()
        for device in self._devices.values():
            device.close()


def train(
    plan: Plan,
    *,
    graphs: Mapping[str, ShardedGraph],
    sources: Mapping[str, BatchSource],
    store: HostStore,
    watch: Watch,
    compute_context: ComputeContext = no_context,
) -> Trained:
    """Replay a checked plan to its end. Jobs that fail are in the result; raises what breaks the whole run."""
    training = Training(plan, graphs=graphs, sources=sources, store=store, watch=watch, compute_context=compute_context)
    training.run()
    return training.so_far()


def first_steps(program: Program) -> dict[tuple[str, int], list[int]]:
    """(device, phase) -> site of each engine's first step there."""
    seen: set[tuple[Lane, int]] = set()
    first: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, site in enumerate(program.flow.sites):
        lane = lane_of(site.step)
        if lane is not None and lane.place != HOST and (lane, site.phase) not in seen:
            seen.add((lane, site.phase))
            first[lane.place, site.phase].append(number)
    return first


def busy_us(trained: Trained) -> dict[tuple[str, str], int]:
    """(device, engine) -> how long it worked."""
    busy: dict[tuple[str, str], int] = defaultdict(int)
    for site, spent_ns in zip(trained.program.flow.sites, trained.times.total_ns, strict=True):
        lane = lane_of(site.step)
        if lane is not None:
            busy[lane.place, lane.engine] += spent_ns
    return {lane: spent_ns // 1000 for lane, spent_ns in busy.items()}


def open_devices(cluster: Cluster) -> dict[str, Device]:
    """All devices of a cluster; those of one link share its pace. Raises RunError where one cannot be opened."""
    links = {link.name: PacedLink.of(link) for link in cluster.links}
    return {spec.name: backing_of(spec).open(spec, links[spec.link]) for spec in cluster.devices}
