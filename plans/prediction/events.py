"""Event simulation of tasks that wait for each other and share servers; it knows nothing of plans.

A task starts when all that it waits for has finished and, where it needs a *server*, one of the server's
places is free. Who waits for a server is served in order of number, the first that is ready first.

    task 0  |=====|           server 0 (one place)
    task 1        |===|       server 0, waits for nothing
    task 2        |======|    no server, waits for task 0
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias

NO_SERVER = -1

_UNKNOWN = -1
"""Start and finish of a task that has not been simulated yet."""
_FREED, _TAKEN = -2, -1
"""What else than a task that is ready for it happens to a server: one of its places is free again, or is taken."""

_Event: TypeAlias = tuple[int, int, int]
"""(time, server, the task that is ready for it, or what else happens to it)."""


class Tasks:
    """Tasks in the order of their numbers; `run` simulates those added since the last run.

    What starts and finishes when follows from what a task waits for alone, but for those that need a server: these are
    gone through in order of time.
    """

    def __init__(self, places: list[int]) -> None:
        """`places`: server -> how many tasks it runs at once."""
        self.start_us: list[int] = []
        self.finish_us: list[int] = []
        self._durations: list[int] = []
        self._servers: list[int] = []
        self._waits: list[Sequence[int]] = []
        self._places = places
        self._events: list[_Event] = []
        self._watchers: dict[int, list[int]] = defaultdict(list)
        """Task whose finish is unknown -> those that wait for it, and are looked at again when it is known."""

    def add(self, duration_us: int, server: int, waits: Sequence[int]) -> int:
        """A task that waits for earlier ones; returns its number."""
        self._durations.append(duration_us)
        self._servers.append(server)
        self._waits.append(waits)
        return len(self._durations) - 1

    def shift(self, task: int, by_us: int) -> None:
        """Let a simulated task stand for a later one, not before what it waits for; its server is taken then."""
        ready = max((self.finish_us[other] for other in self._waits[task]), default=0)
        self.start_us[task] = max(self.start_us[task] + by_us, ready)
        self.finish_us[task] = self.start_us[task] + self._durations[task]
        if self._servers[task] != NO_SERVER:
            self._events.append((self.start_us[task], self._servers[task], _TAKEN))
            self._events.append((self.finish_us[task], self._servers[task], _FREED))

    def run(self) -> None:
        """Simulate all tasks added since the last run. What ran before keeps its times."""
        first, end = len(self.start_us), len(self._durations)
        self.start_us += [_UNKNOWN] * (end - first)
        self.finish_us += [_UNKNOWN] * (end - first)
        events = self._events
        heapify(events)
        self._start_known(range(first, end))
        free = list(self._places)
        queues: list[list[int]] = [[] for _ in free]
        while events:
            now = events[0][0]
            touched: set[int] = set()
            while events and events[0][0] == now:
                _, server, what = heappop(events)
                if what == _FREED:
                    free[server] += 1
                elif what == _TAKEN:
                    free[server] -= 1
                else:
                    heappush(queues[server], what)
                touched.add(server)
            for server in touched:
                queue = queues[server]
                while queue and free[server] > 0:
                    task = heappop(queue)
                    free[server] -= 1
                    heappush(events, (self._start(task, now), server, _FREED))
                    self._start_known(self._watchers.pop(task, ()))
        assert not self._watchers, "waits point upward"

    def _start(self, task: int, now: int) -> int:
        self.start_us[task] = now
        self.finish_us[task] = finish = now + self._durations[task]
        return finish

    def _start_known(self, tasks: Iterable[int]) -> None:
        """Start each task whose waits are known, and what waits for it; where it needs a server, it is ready for it."""
        finish_us = self.finish_us
        todo = [*tasks]
        for task in todo:  # grows
            ready = 0
            for other in self._waits[task]:
                finish = finish_us[other]
                if finish == _UNKNOWN:
                    self._watchers[other].append(task)
                    break
                if finish > ready:
                    ready = finish
            else:
                if self._servers[task] != NO_SERVER:
                    heappush(self._events, (ready, self._servers[task], task))
                else:
                    self._start(task, ready)
                    todo += self._watchers.pop(task, ())
