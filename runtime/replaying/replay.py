"""Replay a program: every engine takes its own steps in list order, waits for what they depend on, runs them.

    device gpu0   compute thread   F0 F1 F2 ...      one thread a stream; nothing is decided here
                  load thread      L0 L1 ...
                  spill thread     S0 ...
    host          workers          take ready updates (`runtime.replaying.updates`)

A step that fails ends its job: its later steps are passed over (their events happen all the same, so
nobody waits for ever) and all other jobs go on. What is recorded are the steps that were done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from threading import Thread
from typing import NamedTuple, TypeAlias

from hydraplan.runtime.devices.device import Device, Stream
from hydraplan.runtime.devices.timelines import HostTimeline, Timeline
from hydraplan.runtime.replaying.failures import Failures, describe
from hydraplan.runtime.replaying.operations import KeptCells, Operation
from hydraplan.runtime.replaying.program import Lane, Program, Segment
from hydraplan.runtime.replaying.updates import Bound, HostUpdates, Part, repetitions

ComputeContext: TypeAlias = Callable[[str], AbstractContextManager[object]]
"""Device -> what its compute thread runs inside of (a test installs a dispatch mode by it)."""


class Span(NamedTuple):
    """When one step was done."""

    site: int
    iteration: int
    start_ns: int
    finish_ns: int


class Replay:
    """One run of a program on open devices."""

    def __init__(
        self,
        *,
        program: Program,
        operations: Sequence[Operation | None],
        begins: Mapping[int, Callable[[], None]],
        devices: Mapping[str, Device],
        kept: Mapping[str, KeptCells],
        update_workers: int,
        failures: Failures,
        compute_context: ComputeContext,
    ) -> None:
        """`begins`: what is done before a site of an engine, whatever has become of its job."""
        self._program, self._operations, self._devices = program, operations, devices
        self._begins = begins
        self._kept, self._failures, self._compute_context = kept, failures, compute_context
        self._stopping = False
        self._undone: dict[Lane, set[int]] = {}
        """Engine -> its steps, by their numbers on its stream, that failed or were passed over."""
        self._timelines: dict[Lane, Timeline] = {
            lane: HostTimeline() if lane.engine == "update" else self._stream(lane).timeline for lane in program.lanes
        }
        self._parts = {lane: self._bind(segments) for lane, segments in program.lanes.items()}
        hosted = {lane: self._parts[lane] for lane in program.host_lanes()}
        self._updates = HostUpdates(hosted, self._timelines, update_workers, self._perform)

    def run(self) -> None:
        """Run all steps; returns when all engines are done. What failed is in `failures`."""
        threads = [
            Thread(target=self._drive, args=(lane,), name=f"{lane.place} {lane.engine}") for lane in self._engines()
        ]
        threads += self._updates.threads()
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # an interrupt: every engine ends after the step that it runs now
            self._stop()
            for thread in threads:
                _join(thread)
            raise

    def spans(self) -> Iterator[Span]:
        """When each step that was done ran, engine by engine; after `run`."""
        for lane in self._engines():
            spans, undone = enumerate(self._stream(lane).spans()), self._undone[lane]
            for segment, repetition, bound in repetitions(self._parts[lane]):
                number, span = next(spans)
                if number not in undone:
                    yield Span(bound.site, segment.first_iteration + repetition, *span)
        for ran, stream in zip(self._updates.ran, self._updates.streams, strict=True):
            for update, span in zip(ran, stream.spans(), strict=True):
                if update is not None:
                    yield Span(*update, *span)

    def _engines(self) -> list[Lane]:
        return [lane for lane in self._parts if lane.engine != "update"]

    def _stream(self, lane: Lane) -> Stream:
        device = self._devices[lane.place]
        return {"compute": device.compute, "load": device.load, "spill": device.spill}[lane.engine]

    def _bind(self, segments: Sequence[Segment]) -> tuple[Part, ...]:
        parts = []
        for segment in segments:
            steps = []
            for each in segment.instructions:
                operation = self._operations[each.site]
                assert operation is not None
                waits = tuple((self._timelines[wait.lane], wait.count, wait.stride) for wait in each.waits)
                steps.append(
                    Bound(waits, operation, each.site, each.step.job, each.training_step, each.training_stride)
                )
            parts.append(Part(segment, tuple(steps)))
        return tuple(parts)

    def _stop(self) -> None:
        """End the run: no step begins from here on. Whoever ends it says why."""
        self._stopping = True
        self._updates.stop()
        for timeline in self._timelines.values():
            timeline.release()

    def _drive(self, lane: Lane) -> None:
        """An engine's thread. What fails beyond a job's own steps ends the run."""
        try:
            if lane.engine == "compute":
                with self._compute_context(lane.place):
                    self._run_steps(lane, self._kept[lane.place])
            else:
                self._run_steps(lane, None)
        except BaseException as error:
            self._failures.fatal = self._failures.fatal or error
            self._stop()

    def _run_steps(self, lane: Lane, kept: KeptCells | None) -> None:
        stream, failed = self._stream(lane), self._failures.of
        undone = self._undone[lane] = set()
        for number, (segment, repetition, bound) in enumerate(repetitions(self._parts[lane])):
            for timeline, count, stride in bound.waits:
                stream.after(timeline, count + repetition * stride)
            if self._stopping:  # then what it waited for may not have happened
                return
            stream.begin()
            if bound.site in self._begins:
                self._begins[bound.site]()
            if not self._perform(bound, stream, repetition, segment.first_iteration + repetition):
                undone.add(number)
            if failed and kept is not None:
                kept.forget(failed)
            stream.end()
        stream.finish()

    def _perform(self, bound: Bound, stream: Stream, repetition: int, iteration: int) -> bool:
        """Whether the step was done: not where it fails, or its job has failed before."""
        if bound.job in self._failures.of:
            return False
        try:
            bound.operation(stream, bound.training_step + repetition * bound.training_stride)
        except BaseException as error:  # whatever a model raises ends its job, and only its job
            self._failures.add(bound.job, describe(self._program.flow.sites[bound.site], iteration), error)
            return False
        return True


def _join(thread: Thread) -> None:
    """Wait for a thread, where it was started; another interrupt does not cut this short."""
    while thread.ident is not None and thread.is_alive():
        with suppress(KeyboardInterrupt):
            thread.join()
