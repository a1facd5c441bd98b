"""Batches, made on the host ahead of the steps that fetch them.

Asking for a training step's batch also starts the next step's, on one thread of its own. A batch is freed
once as many fetches as the lists have of it have taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Protocol

from torch import Tensor


class BatchSource(Protocol):
    """A job's batches by training step."""

    def batch(self, step: int) -> Mapping[str, Tensor]:
        """The whole batch of a training step, stacked along dimension 0."""
        ...


class Batches:
    def __init__(self, sources: Mapping[str, BatchSource], steps: Mapping[str, int]) -> None:
        """`steps`: training steps of each job; no batch beyond is made."""
        self._sources = dict(sources)
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

    def _start(self, key: tuple[str, int]) -> Future[Mapping[str, Tensor]]:
        future = self._made.get(key)
        if future is None:
            future = self._made[key] = self._maker.submit(self._sources[key[0]].batch, key[1])
        return future

    def close(self) -> None:
        self._maker.shutdown(wait=True, cancel_futures=True)
