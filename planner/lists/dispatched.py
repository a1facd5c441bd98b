"""What list scheduling gives: the lines of a list in order of time, for some devices; put together for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from operator import itemgetter

from hydraplan.planner.lists.programs import SlabKey
from hydraplan.plans.language.steps import Step
from hydraplan.plans.language.workload import HOST


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A list, and what came after the compute of its device had ended."""

    lines: list[Step]
    times: list[int]
    """Of each line, in microseconds; ascending."""
    tail: frozenset[tuple[str, str]]
    """(job, slab) of the residents whose refreshing load would have come after all cells of its device."""
    ahead: tuple[SlabKey, ...]
    """Streamed slabs loaded already for the next cycle: they are held over its border."""
    length_us: int

    def renamed(self, jobs: Mapping[str, str], devices: Mapping[str, str]) -> Dispatch:
        """The same of other jobs on other devices; each name -> what takes its place."""
        if all(name == other for names in (jobs, devices) for name, other in names.items()):
            return self
        places = {HOST: HOST, **devices}
        return Dispatch(
            lines=[replace(line, job=jobs[line.job], device=places[line.device]) for line in self.lines],
            times=self.times,
            tail=frozenset((jobs[job], slab) for job, slab in self.tail),
            ahead=tuple(key._replace(job=jobs[key.job]) for key in self.ahead),
            length_us=self.length_us,
        )


def merged(dispatches: Sequence[Dispatch]) -> Dispatch:
    """Lists of different devices as one, in order of time."""
    timed = merge(*(zip(each.times, each.lines, strict=True) for each in dispatches), key=itemgetter(0))
    times, lines = zip(*timed, strict=True)
    return Dispatch(
        lines=list(lines),
        times=list(times),
        tail=frozenset().union(*(each.tail for each in dispatches)),
        ahead=tuple(key for each in dispatches for key in each.ahead),
        length_us=max(each.length_us for each in dispatches),
    )
