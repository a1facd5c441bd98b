"""Event simulation of tasks that wait for each other and share servers; it knows nothing of plans.

A task starts when all that it waits for has finished and, where it needs a *server*, one of the server's
places is free. Who waits for a server is served in order of number, the first that is ready first.

    task 0  |=====|           server 0 (one place)
    task 1        |===|       server 0, waits for nothing
    task 2        |======|    no server, waits for task 0
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

NO_SERVER = -1

_FINISH, _RELEASE, _OCCUPY, _READY = range(4)


class Tasks:
    """Tasks in the order of their numbers; `run` simulates those added since the last run."""

    def __init__(self, places: list[int]) -> None:
        """`places`: server -> how many tasks it runs at once."""
        self.start_us: list[int] = []
        self.finish_us: list[int] = []
        self._durations: list[int] = []
        self._servers: list[int] = []
        self._waits: list[tuple[int, ...]] = []
        self._places = places
        self._reserved: list[tuple[int, int, int]] = []
        self._done = 0

    def add(self, duration_us: int, server: int, waits: Iterable[int]) -> int:
        """A task that waits for earlier ones; returns its number."""
        self._durations.append(duration_us)
        self._servers.append(server)
        self._waits.append(tuple(waits))
        self.start_us.append(-1)
        self.finish_us.append(-1)
        return len(self._durations) - 1

    def shift(self, task: int, by_us: int) -> None:
        """Let a simulated task stand for a later one, not before what it waits for; its server is taken then."""
        ready = max((self.finish_us[other] for other in self._waits[task]), default=0)
        self.start_us[task] = max(self.start_us[task] + by_us, ready)
        self.finish_us[task] = self.start_us[task] + self._durations[task]
        if self._servers[task] != NO_SERVER:
            self._reserved.append((self._servers[task], self.start_us[task], self.finish_us[task]))

    def run(self) -> None:
        """Simulate all tasks added since the last run. What ran before keeps its times."""
        first, self._done = self._done, len(self._durations)
        start, finish = self.start_us, self.finish_us
        pending = [0] * (self._done - first)
        earliest = [0] * (self._done - first)
        followers: list[list[int]] = [[] for _ in pending]
        events: list[tuple[int, int, int]] = []
        for server, begin, end in self._reserved:
            heappush(events, (begin, _OCCUPY, server))
            heappush(events, (end, _RELEASE, server))
        self._reserved = []
        for task in range(first, self._done):
            for other in self._waits[task]:
                if other < first:
                    earliest[task - first] = max(earliest[task - first], finish[other])
                else:
                    pending[task - first] += 1
                    followers[other - first].append(task)
            if not pending[task - first]:
                heappush(events, (earliest[task - first], _READY, task))
        free = list(self._places)
        queues: list[list[int]] = [[] for _ in free]
        touched: set[int] = set()
        while events:
            now = events[0][0]
            while events and events[0][0] == now:
                _, kind, subject = heappop(events)
                if kind == _READY:
                    server = self._servers[subject]
                    if server == NO_SERVER:
                        start[subject] = now
                        finish[subject] = now + self._durations[subject]
                        heappush(events, (finish[subject], _FINISH, subject))
                    else:
                        heappush(queues[server], subject)
                        touched.add(server)
                elif kind == _FINISH:
                    server = self._servers[subject]
                    if server != NO_SERVER:
                        free[server] += 1
                        touched.add(server)
                    for follower in followers[subject - first]:
                        number = follower - first
                        pending[number] -= 1
                        if not pending[number]:
                            heappush(events, (max(now, earliest[number]), _READY, follower))
                else:
                    free[subject] += 1 if kind == _RELEASE else -1
                    touched.add(subject)
            for server in touched:
                queue = queues[server]
                while queue and free[server] > 0:
                    task = heappop(queue)
                    free[server] -= 1
                    start[task] = now
                    finish[task] = now + self._durations[task]
                    heappush(events, (finish[task], _FINISH, task))
            touched.clear()
        assert all(finish[task] >= 0 for task in range(first, self._done)), "waits point upward"
