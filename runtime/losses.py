"""The loss of every training step, as it comes: the mean over its microbatches, in their order."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from threading import Lock


class Losses:
    """Filled from the spill threads of all devices. Memory for all steps is taken at once."""

    def __init__(
        self, *, steps: Mapping[str, int], microbatches: Mapping[str, int], told: Callable[[str, int, float], None]
    ) -> None:
        """`told(job, step, loss)` hears of each step's loss once, from the thread that completes it."""
        self._lock = Lock()
        self._microbatches = dict(microbatches)
        self._told = told
        self._open: dict[tuple[str, int], dict[int, float]] = {}
        self._of = {job: array("d", bytes(8 * count)) for job, count in steps.items()}
        self._known = {job: bytearray(count) for job, count in steps.items()}

    def loss(self, job: str, step: int, microbatch: int, value: float) -> None:
        count = self._microbatches[job]
        with self._lock:
            if self._known[job][step]:
                return  # a list may save a loss twice; it is the same
            parts = self._open.setdefault((job, step), {})
            parts[microbatch] = value
            if len(parts) < count:
                return
            del self._open[job, step]
            mean = sum(parts[number] for number in range(count)) / count
            self._of[job][step] = mean
            self._known[job][step] = True
        self._told(job, step, mean)

    def of(self, job: str) -> tuple[float, ...]:
        """Losses of a job's steps from the first on, as far as they are known without a gap."""
        gap = self._known[job].find(0)
        losses = self._of[job]
        return tuple(losses[:gap] if gap >= 0 else losses)
