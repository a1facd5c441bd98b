"""Replay a program: every engine takes its own steps in list order, waits for what they depend on, runs them.

    device gpu0   compute thread   F0 F1 F2 ...      one thread a stream; nothing is decided here
                  load thread      L0 L1 ...
                  spill thread     S0 ...
    host          workers          take ready updates (`runtime.replaying.updates`)

A step that fails ends its job: its later steps are passed over (their events happen all the same, so
nobody waits for ever) and all other jobs go on. What is recorded are the steps that were done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeAlias

from hydraplan.runtime.devices.device import Device, Stream
from hydraplan.runtime.devices.timelines import HostTimeline, Timeline
from hydraplan.runtime.replaying.crew import Abandoned, Crew
from hydraplan.runtime.replaying.ends import JobEnds
from hydraplan.runtime.replaying.failures import Failures, describe
from hydraplan.runtime.replaying.operations import KeptCells, Operation
from hydraplan.runtime.replaying.program import Lane, Program, Segment
from hydraplan.runtime.replaying.times import StepTimes
from hydraplan.runtime.replaying.updates import Bound, HostUpdates, Part, repetitions

ComputeContext: TypeAlias = Callable[[str], AbstractContextManager[object]]
"""Device -> what its compute thread runs inside of (a test installs a dispatch mode by it)."""


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
        ended: Callable[[str], None],
        stopped: Callable[[], None],
    ) -> None:
        """`begins`: what is done before a site of an engine, whatever has become of its job. `ended(job)`: all steps of
        a job are done, or passed over. `stopped()`: the run is broken off; whatever an engine waits for is to end."""
        self._program, self._operations, self._devices = program, operations, devices
        self._begins = begins
        self._kept, self._failures, self._compute_context = kept, failures, compute_context
        self._stopping = False
        self._stopped = stopped
        self.times = StepTimes(program)
        self._timelines: dict[Lane, Timeline] = {
            lane: HostTimeline() if lane.engine == "update" else self._stream(lane).timeline for lane in program.lanes
        }
        self._parts = {lane: self._bind(segments) for lane, segments in program.lanes.items()}
        hosted = {lane: self._parts[lane] for lane in program.host_lanes()}
        self._updates = HostUpdates(hosted, self._timelines, update_workers, self._perform, self.times.add)
        self._ends = JobEnds(program, self._timelines, ended)

    def run(self) -> None:
        """Run all steps; returns when all engines are done. What failed is in `failures`.

        Whatever interrupts it ends every engine after the step that it does now, and is raised then; a second
        KeyboardInterrupt meanwhile raises Abandoned, and engines may still be at work.
        """
        crew = Crew(
            [
                *((f"{lane.place} {lane.engine}", partial(self._drive, lane)) for lane in self._engines()),
                *((f"host update {number}", self._update) for number in range(self._updates.workers)),
            ]
        )
        try:
            self._ends.arm()
            self._updates.arm()
            crew.start()
            crew.wait()
        except BaseException as first:
            self._stop()
            try:
                crew.wait()
            except KeyboardInterrupt:
                raise Abandoned(first) from first
            raise
        if not self._stopping:
            self._ends.complete()

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
        self._ends.stop()
        self._updates.stop()
        self._stopped()
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
            self._break(error)

    def _update(self) -> None:
        """An update worker's thread."""
        try:
            self._updates.work()
        except BaseException as error:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        self._failures.fatal = self._failures.fatal or error
        self._stop()

    def _run_steps(self, lane: Lane, kept: KeptCells | None) -> None:
        stream, failed = self._stream(lane), self._failures.of
        given: deque[tuple[int, int] | None] = deque()
        """Steps that the stream has not told the times of; None: failed, or passed over."""
        for segment, repetition, bound in repetitions(self._parts[lane]):
            for timeline, count, stride in bound.waits:
                stream.after(timeline, count + repetition * stride)
            if self._stopping:  # then what it waited for may not have happened
                break
            stream.begin()
            if bound.site in self._begins:
                self._begins[bound.site]()
            iteration = segment.first_iteration + repetition
            done = self._perform(bound, stream, repetition, iteration)
            given.append((bound.site, iteration) if done else None)
            if failed and kept is not None:
                kept.forget(failed)
            stream.end()
            self._note(stream, given)
        stream.finish()
        self._note(stream, given)

    def _note(self, stream: Stream, given: deque[tuple[int, int] | None]) -> None:
        for start_ns, finish_ns in stream.new_spans():
            step = given.popleft()
            if step is not None:
                self.times.add(*step, start_ns, finish_ns)

    def _perform(self, bound: Bound, stream: Stream, repetition: int, iteration: int) -> bool:
        """Whether the step was done: not where it fails, or its job has failed before."""
        if bound.job in self._failures.of:
            return False
        try:
            bound.operation(stream, bound.training_step + repetition * bound.training_stride)
        except CancelledError:  # the run is broken off: what it waited for does not come
            if not self._stopping:
                raise
            return False
        except BaseException as error:  # whatever a model raises ends its job, and only its job
            self._failures.add(bound.job, describe(self._program.flow.sites[bound.site], iteration), error)
            return False
        return True
