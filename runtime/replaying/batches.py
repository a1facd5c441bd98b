"""Batches, made on the host ahead of the steps that fetch them.

Asking for a training step's batch also starts the next step's, on one thread of its own. A batch is freed
once as many fetches as the lists have of it have taken from it. To which bucket it was padded is remembered.

The thread runs the user's code, which may never return: it does not keep the process alive.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple, Protocol

from torch import Tensor

from hydraplan.planner.frontend.users.lengths import length_of
from hydraplan.plans.language.workload import Lengths

CLOSING_S = 10
"""How long the end of a run waits for an item that is being read."""


class BatchSource(Protocol):
    """A job's batches by training step."""

    def batch(self, step: int) -> Mapping[str, Tensor]:
        """The whole batch of a training step, stacked along dimension 0."""
        ...


class _Asked(NamedTuple):
    key: tuple[str, int]
    future: Future[Mapping[str, Tensor]]


class Batches:
    def __init__(
        self,
        sources: Mapping[str, BatchSource],
        steps: Mapping[str, int],
        lengths: Mapping[str, Lengths] | None = None,
    ) -> None:
        """`steps`: training steps of each job; no batch beyond is made. `lengths`: of the jobs that have buckets."""
        self._sources = dict(sources)
        self._lengths = dict(lengths or {})
        self._buckets = {job: array("q", bytes(8 * steps[job])) for job in self._lengths}
        """Job -> the bucket of each training step; 0: not known."""
        self._steps = dict(steps)
        self._lock = Lock()
        self._made: dict[tuple[str, int], Future[Mapping[str, Tensor]]] = {}
        self._taken: dict[tuple[str, int], int] = {}
        self._closed = False
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._unmade: set[Future[Mapping[str, Tensor]]] = set()
        self._maker = Thread(target=self._make_all, name="batches", daemon=True)
        self._maker.start()

    def rows(self, job: str, step: int, first: int, count: int, fetches: int) -> dict[str, Tensor]:
        """Rows [first, first + count) of a batch; `fetches`: how often the lists ask for this batch in all.

        Raises what the job's data raises.
        """
        key = (job, step)
        with self._lock:
            future = self._start(key)
            if step + 1 < self._steps[job]:
                self._start((job, step + 1))
            self._taken[key] = self._taken.get(key, 0) + 1
            if self._taken[key] == fetches:
                del self._made[key], self._taken[key]
        return {name: value[first : first + count] for name, value in future.result().items()}

    def bucket(self, job: str, step: int) -> int:
        """The bucket that a training step's batch is padded to, whether it is still held or not; makes it if need be.

        Raises what the job's data raises.
        """
        key = (job, step)
        with self._lock:
            known = self._buckets[job][step]
            future = None if known else self._start(key)
        if future is not None:
            future.result()
        return self._buckets[job][step]

    def buckets(self, job: str) -> tuple[int, ...]:
        """The buckets of a job's training steps, as far as their batches were made."""
        buckets = self._buckets[job]
        return tuple(buckets[: buckets.index(0)] if 0 in buckets else buckets)

    def _start(self, key: tuple[str, int]) -> Future[Mapping[str, Tensor]]:
        future = self._made.get(key)
        if future is None:
            future = self._made[key] = Future()
            if self._closed:
                future.cancel()
            else:
                self._unmade.add(future)
                self._asked.put(_Asked(key, future))
        return future

    def _make_all(self) -> None:
        while (asked := self._asked.get()) is not None:
            future = asked.future
            if not future.cancelled():
                self._fulfil(future, asked.key)
            with self._lock:
                self._unmade.discard(future)

    def _fulfil(self, future: Future[Mapping[str, Tensor]], key: tuple[str, int]) -> None:
        try:
            batch = self._make(*key)
        except BaseException as error:  # whoever fetches it gets it
            with suppress(InvalidStateError):  # cancelled meanwhile
                future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                future.set_result(batch)

    def _make(self, job: str, step: int) -> Mapping[str, Tensor]:
        batch = self._sources[job].batch(step)
        if job in self._lengths:
            self._buckets[job][step] = length_of(batch, self._lengths[job])
        return batch

    def stop(self) -> None:
        """Whoever waits for a batch, now or later, gets CancelledError."""
        with self._lock:
            self._closed = True
            waiting = list(self._unmade)
        for future in waiting:
            future.cancel()

    def close(self) -> None:
        """No batch is made any more. An item that is being read is waited for a while, and left then."""
        self.stop()
        self._asked.put(None)
        self._maker.join(timeout=CLOSING_S)
