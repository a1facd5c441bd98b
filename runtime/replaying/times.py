"""When steps ran, in memory that does not grow: of every line sums, of some iterations each step.

iterations of a cycle    0 1 .. 7 | 8 9 ... n-9 | n-8 .. n-1
each step's time         yes      | sums alone  | yes             fewer of them where the lists are long
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

from hydraplan.runtime.replaying.program import Program

AT_EACH_END = 8
"""Iterations of a cycle, from its first and its last, of which each step is recorded."""
MOST_ROWS = 50_000
"""About how many steps of cycles are recorded one by one in a whole run; one iteration at each end always is."""


class Span(NamedTuple):
    """When one step was done."""

    site: int
    iteration: int
    start_ns: int
    finish_ns: int


class StepTimes:
    """Filled by all engines at once: each site by one of them."""

    def __init__(self, program: Program) -> None:
        sites = program.flow.sites
        self.counts = array("q", bytes(8 * len(sites)))
        """By site: how often it was done."""
        self.total_ns = array("q", bytes(8 * len(sites)))
        self.last_ns = array("q", bytes(8 * len(sites)))
        """By site: when it was done last; 0: never."""
        self._sampled = _sampled(program)
        self._of = [self._sampled[site.phase] if site.section == "cycle" else None for site in sites]
        """By site: the iterations that are recorded; None: all."""
        self._lock = Lock()
        self._rows = array("q")

    def add(self, site: int, iteration: int, start_ns: int, finish_ns: int) -> None:
        self.counts[site] += 1
        self.total_ns[site] += finish_ns - start_ns
        self.last_ns[site] = finish_ns
        sampled = self._of[site]
        if sampled is None or iteration in sampled:
            with self._lock:
                self._rows.extend((site, iteration, start_ns, finish_ns))

    def iterations(self, phase: int) -> tuple[int, ...]:
        """Those iterations of a phase's cycle of which each step is recorded."""
        return tuple(sorted(self._sampled[phase]))

    def spans(self) -> Iterator[Span]:
        """The steps that were recorded one by one."""
        with self._lock:
            rows = self._rows[:]
        for at in range(0, len(rows), 4):
            yield Span(*rows[at : at + 4])


def _sampled(program: Program) -> dict[int, frozenset[int]]:
    """Phase -> the iterations of its cycle of which each step is recorded."""
    repeats: dict[int, int] = {}
    for segments in program.lanes.values():
        for segment in segments:
            last = segment.first_iteration + segment.repeat if segment.section == "cycle" else 0
            repeats[segment.phase] = max(repeats.get(segment.phase, 0), last)
    lines = Counter(site.phase for site in program.flow.sites if site.section == "cycle" and site.copy == 0)
    found = {}
    for phase, repeat in repeats.items():
        room = MOST_ROWS // len(repeats) // (2 * lines[phase]) if lines[phase] else 1
        ends = min(AT_EACH_END, max(1, room))
        found[phase] = frozenset((*range(min(ends, repeat)), *range(max(0, repeat - ends), repeat)))
    return found
