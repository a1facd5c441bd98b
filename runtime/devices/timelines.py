"""Timelines: counters that only grow, on which threads and streams wait for each other.

An event is a point on a timeline, `(timeline, value)`: it has happened once the timeline has reached the
value. Every stream has one and moves it by one for each step that it finishes, so an event needs no object
of its own, and a step that waits for several steps of one stream waits for the last of them.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from threading import Lock
from typing import Protocol

FOR_EVER = 1 << 62


class Timeline(Protocol):
    """What waits can name; a backing may bring its own kind (CUDA: events behind each value)."""

    def has_reached(self, value: int) -> bool:
        """Whether the event has happened; never blocks."""
        ...

    def wait(self, value: int) -> None:
        """Block the calling thread until the event has happened."""
        ...

    def when(self, value: int, callback: Callable[[], None]) -> None:
        """Call `callback` once the event has happened, from whichever thread moves the timeline; at once if it has."""
        ...

    def release(self) -> None:
        """Let all events have happened, those to come too: the run is over."""
        ...


class HostTimeline:
    """A timeline that host threads move. Waiting costs no processor time."""

    __slots__ = ("_lock", "_reached", "_ticket", "_waiting")

    def __init__(self) -> None:
        self._lock = Lock()
        self._reached = 0
        self._ticket = 0
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []

    @property
    def reached(self) -> int:
        return self._reached

    def has_reached(self, value: int) -> bool:
        return self._reached >= value

    def wait(self, value: int) -> None:
        if self._reached >= value:
            return
        gate = Lock()
        gate.acquire()
        self.when(value, gate.release)
        gate.acquire()

    def when(self, value: int, callback: Callable[[], None]) -> None:
        with self._lock:
            if self._reached < value:
                self._ticket += 1
                heappush(self._waiting, (value, self._ticket, callback))
                return
        callback()

    def advance(self) -> None:
        """Move by one, and wake who waits for that."""
        self._move(self._reached + 1)

    def release(self) -> None:
        self._move(FOR_EVER)

    def _move(self, value: int) -> None:
        due: list[Callable[[], None]] = []
        with self._lock:
            self._reached = max(self._reached, value)
            while self._waiting and self._waiting[0][0] <= self._reached:
                due.append(heappop(self._waiting)[2])
        for callback in due:
            callback()
