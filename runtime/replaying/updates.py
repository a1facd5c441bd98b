"""The host's update workers: they take ready updates only, the first in list order first.

Updates of one slab follow each other, so each slab has one update at most that waits to be ready:

    slab a/0   wait for its gradients' spill -> ready -> worker -> its timeline moves -> the next one waits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from threading import Condition
from typing import NamedTuple, TypeAlias

from hydraplan.runtime.devices.cpu import CpuStream
from hydraplan.runtime.devices.device import Stream
from hydraplan.runtime.devices.timelines import HostTimeline, Timeline
from hydraplan.runtime.replaying.operations import Operation
from hydraplan.runtime.replaying.program import Lane, Segment


class Bound(NamedTuple):
    """An instruction with its operation and timelines looked up."""

    waits: tuple[tuple[Timeline, int, int], ...]
    """Timeline, count, stride by repetition."""
    operation: Operation
    site: int
    job: str
    training_step: int
    training_stride: int


class Part(NamedTuple):
    """A segment of a lane, bound."""

    segment: Segment
    steps: tuple[Bound, ...]


Perform: TypeAlias = Callable[[Bound, Stream, int, int], bool]
"""(instruction, stream, repetition of its segment, iteration of its list): run it, or pass it over; whether it was
done."""

Order: TypeAlias = tuple[int, int, int]
"""Which comes first in the lists: (list, repetition, site)."""


class _SlabUpdates:
    """The updates of one slab, one after another."""

    def __init__(
        self, parts: Sequence[Part], timeline: HostTimeline, ready: Callable[[Order, _SlabUpdates], None]
    ) -> None:
        self._rest = repetitions(parts)
        self._ready = ready
        self.timeline = timeline
        self.bound: Bound
        self.segment: Segment
        self.repetition = 0

    def arm(self) -> None:
        """Let the next update wait for what it depends on, then be ready."""
        following = next(self._rest, None)
        if following is not None:
            self.segment, self.repetition, self.bound = following
            self._wait(0)

    def _wait(self, number: int) -> None:
        if number == len(self.bound.waits):
            self._ready((self.segment.order, self.repetition, self.bound.site), self)
            return
        timeline, count, stride = self.bound.waits[number]
        timeline.when(count + self.repetition * stride, lambda: self._wait(number + 1))


def repetitions(parts: Sequence[Part]) -> Iterator[tuple[Segment, int, Bound]]:
    """A lane's steps as they follow each other, each with its segment and that segment's repetition."""
    for segment, steps in parts:
        for repetition in range(segment.repeat):
            for bound in steps:
                yield segment, repetition, bound


class HostUpdates:
    def __init__(
        self,
        lanes: Mapping[Lane, tuple[Part, ...]],
        timelines: Mapping[Lane, Timeline],
        workers: int,
        perform: Perform,
        record: Callable[[int, int, int, int], None],
    ) -> None:
        """`record(site, iteration, start_ns, finish_ns)` is told of each update that was done."""
        self._perform, self._record = perform, record
        self._condition = Condition()
        self._heap: list[tuple[Order, int, _SlabUpdates]] = []
        self._stopped = False
        self._slabs: list[_SlabUpdates] = []
        for lane, parts in lanes.items():
            timeline = timelines[lane]
            assert isinstance(timeline, HostTimeline)
            self._slabs.append(_SlabUpdates(parts, timeline, self._push))
        self._left = sum(len(steps) * segment.repeat for parts in lanes.values() for segment, steps in parts)
        self.workers = workers

    def arm(self) -> None:
        """The first updates wait for their gradients from here on."""
        for slab in self._slabs:
            slab.arm()

    def stop(self) -> None:
        """Let the workers end after what they do now."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def _push(self, order: Order, slab: _SlabUpdates) -> None:
        with self._condition:
            heappush(self._heap, (order, id(slab), slab))
            self._condition.notify()

    def _pop(self) -> _SlabUpdates | None:
        """The next ready update; None: there are no more."""
        with self._condition:
            while not self._heap and self._left and not self._stopped:
                self._condition.wait()
            if not self._heap or self._stopped:
                return None
            self._left -= 1
            if not self._left:
                self._condition.notify_all()
            return heappop(self._heap)[2]

    def work(self) -> None:
        """What a worker's thread does."""
        stream = CpuStream(None)
        while (slab := self._pop()) is not None:
            iteration = slab.segment.first_iteration + slab.repetition
            stream.begin()
            done = self._perform(slab.bound, stream, slab.repetition, iteration)
            stream.end()
            for start_ns, finish_ns in stream.new_spans():
                if done:
                    self._record(slab.bound.site, iteration, start_ns, finish_ns)
            slab.timeline.advance()
            slab.arm()
