"""Pacing of copies, so that a link of the workload carries exactly its bytes per second.

Each direction of a link carries one copy at a time. A copy reserves the next free stretch of the direction
(first come, first served, over all devices that share the link), waits for it to begin, copies, and waits
for it to end:

    link    |--- a ---|------ b ------|          |-- c --|
    asked     a  b                               c

A thread that wakes late from its copy does not slow the link: a copy asked for within `QUEUED_NS` of that waking counts
as queued before, as it would be on a stream of a real device, and begins when the link fell free. Reservations
never overlap, so no stretch of copies is faster than the link.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from hydraplan.plans.language.workload import Link

QUEUED_NS = 300_000
"""Longest gap between two copies of an engine that is put down to its bookkeeping, not to an idle link."""

SLEEP_LATENESS_NS = 70_000
"""What a sleep may overshoot on Linux by default (50 us timer slack and the wake-up)."""


class Pacer:
    """One direction of one link."""

    __slots__ = ("_free_at_ns", "_lock", "_woken_at_ns", "bytes_per_s")

    def __init__(self, bytes_per_s: int) -> None:
        self.bytes_per_s = bytes_per_s
        self._lock = Lock()
        self._free_at_ns = 0
        self._woken_at_ns = 0

    def carry(self, size: int, copy: Callable[[], None]) -> None:
        """Copy `size` bytes in the next free stretch of the link; returns when it is over."""
        begin, end = self.reserve(size)
        sleep_until(begin)
        copy()
        sleep_until(end)
        self._woken_at_ns = time.perf_counter_ns()

    def reserve(self, size: int) -> tuple[int, int]:
        """The stretch of time, on `time.perf_counter_ns`, in which `size` bytes cross."""
        duration = size * 1_000_000_000 // self.bytes_per_s
        with self._lock:
            now = time.perf_counter_ns()
            queued = now - max(self._free_at_ns, self._woken_at_ns) <= QUEUED_NS
            begin = self._free_at_ns if queued else now
            self._free_at_ns = begin + duration
        return begin, begin + duration


def sleep_until(moment_ns: int) -> None:
    """Sleep, then yield in turns for the last stretch that a sleep would overshoot."""
    remaining = moment_ns - time.perf_counter_ns()
    if remaining > SLEEP_LATENESS_NS:
        time.sleep((remaining - SLEEP_LATENESS_NS) / 1e9)
    while time.perf_counter_ns() < moment_ns:
        time.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacedLink:
    """Both directions of a link; None: not limited."""

    load: Pacer | None
    spill: Pacer | None

    @staticmethod
    def of(link: Link) -> PacedLink:
        return PacedLink(
            load=None if link.load_bytes_per_s is None else Pacer(link.load_bytes_per_s),
            spill=None if link.spill_bytes_per_s is None else Pacer(link.spill_bytes_per_s),
        )
