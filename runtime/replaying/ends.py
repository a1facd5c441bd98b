"""When jobs end: a job has finished once every engine has done its last step for it, while others go on.

gpu0 compute   ... last of a |  b  b  b        timelines of all engines pass a's last steps
gpu0 spill     .... last of a  |  b  b     ->  a's final state is in the host store
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

from hydraplan.runtime.devices.timelines import Timeline
from hydraplan.runtime.replaying.program import Lane, Program


class JobEnds:
    def __init__(self, program: Program, timelines: Mapping[Lane, Timeline], ended: Callable[[str], None]) -> None:
        """`ended(job)` is told once of each job, failed ones too, from whichever thread does its last step."""
        self._last = last_steps(program)
        self._timelines, self._ended = timelines, ended
        self._lock = Lock()
        self._left = {job: len(lanes) for job, lanes in self._last.items()}
        self._stopped = False

    def arm(self) -> None:
        """Wait for the last step of each job, on each engine, from now on."""
        for job, lanes in self._last.items():
            for lane, count in lanes.items():
                self._timelines[lane].when(count, lambda job=job: self._reached(job))  # type: ignore[misc]

    def stop(self) -> None:
        """The run is broken off: what has not ended does not."""
        with self._lock:
            self._stopped = True

    def complete(self) -> None:
        """All engines have done all steps: whatever was not told yet has ended."""
        with self._lock:
            left = [job for job, count in self._left.items() if count and not self._stopped]
            self._left.update(dict.fromkeys(left, 0))
        for job in left:
            self._ended(job)

    def _reached(self, job: str) -> None:
        with self._lock:
            if self._stopped or not self._left[job]:
                return
            self._left[job] -= 1
            ended = not self._left[job]
        if ended:
            self._ended(job)


def last_steps(program: Program) -> dict[str, dict[Lane, int]]:
    """Job -> engine -> how many steps that engine has done when it has done its last for the job."""
    last: dict[str, dict[Lane, int]] = {}
    for lane, segments in program.lanes.items():
        done = 0
        for segment in segments:
            length = len(segment.instructions)
            before_last = done + (segment.repeat - 1) * length
            for number, instruction in enumerate(segment.instructions, start=1):
                last.setdefault(instruction.step.job, {})[lane] = before_last + number
            done += segment.repeat * length
    return last
