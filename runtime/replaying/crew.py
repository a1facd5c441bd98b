"""Threads that work together and are waited for together, however often the wait is interrupted.

`Thread.join` is not used to wait: once interrupted, it takes a thread that runs for one that has ended (Python 3.11).
They do not keep the process alive: what hangs in the user's code can be left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from hydraplan.plans.language.errors import RunError


class Abandoned(KeyboardInterrupt):
    """A second interrupt, while what the first one ended was still waited for: some thread is left behind, running."""

    def __init__(self, first: BaseException) -> None:
        super().__init__()
        self.first = first


class Crew:
    def __init__(self, work: Sequence[tuple[str, Callable[[], None]]]) -> None:
        """`work`: a thread's name, and what it does; it raises nothing."""
        self._ended = [Event() for _ in work]
        self._threads = [
            Thread(target=_run, args=(each, ended), name=name, daemon=True)
            for (name, each), ended in zip(work, self._ended, strict=True)
        ]

    def start(self) -> None:
        """Raises RunError where the system gives no thread; those that were started run."""
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError as error:
                raise RunError(
                    f"the system gives no thread beyond {number} of {len(self._threads)} ({error}); see `ulimit -u` "
                    "and how much memory is free, or plan for fewer devices"
                ) from error
            except BaseException:
                time.sleep(0.1)  # if it was started, its identity is known by then
                raise

    def wait(self) -> None:
        """Until all that were started have ended."""
        started = [number for number, thread in enumerate(self._threads) if thread.ident is not None]
        for number in started:
            self._ended[number].wait()
        for number in started:
            self._threads[number].join()


def _run(work: Callable[[], None], ended: Event) -> None:
    try:
        work()
    finally:
        ended.set()
