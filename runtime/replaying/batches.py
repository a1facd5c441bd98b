"""Batches, made on the host ahead of the steps that fetch them.

Asking for a training step's batch also starts the next step's, on one thread of its own. A batch is freed
once as many fetches as the lists have of it have taken from it. To which bucket it was padded is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Protocol

from torch import Tensor

from hydraplan.planner.frontend.users.lengths import length_of
from hydraplan.plans.language.workload import Lengths


class BatchSource(Protocol):
    """A job's batches by training step."""

    def batch(self, step: int) -> Mapping[str, Tensor]:
        """The whole batch of a training step, stacked along dimension 0."""
        ...


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
        self._buckets: dict[tuple[str, int], int] = {}
        self._steps = dict(steps)
        self._lock = Lock()
        self._made: dict[tuple[str, int], Future[Mapping[str, Tensor]]] = {}
        self._taken: dict[tuple[str, int], int] = {}
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

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
            known = self._buckets.get(key)
            future = self._start(key) if known is None else None
        if future is None:
            assert known is not None
            return known
        future.result()
        return self._buckets[key]

    def buckets(self, job: str) -> tuple[int, ...]:
        """The buckets of a job's training steps, as far as their batches were made."""
        found: list[int] = []
        while (job, len(found)) in self._buckets:
            found.append(self._buckets[job, len(found)])
        return tuple(found)

    def _start(self, key: tuple[str, int]) -> Future[Mapping[str, Tensor]]:
        future = self._made.get(key)
        if future is None:
            future = self._made[key] = self._maker.submit(self._make, *key)
        return future

    def _make(self, job: str, step: int) -> Mapping[str, Tensor]:
        batch = self._sources[job].batch(step)
        if job in self._lengths:
            self._buckets[job, step] = length_of(batch, self._lengths[job])
        return batch

    def close(self) -> None:
        self._maker.shutdown(wait=True, cancel_futures=True)
