"""Signals that end a run: SIGTERM and SIGHUP are as Ctrl-C, each with its own exit code.

Only the command line takes them: in a program that calls `hydraplan.runtime.execute` they are that program's.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from hydraplan.runtime.replaying.crew import Abandoned


class Stopped(KeyboardInterrupt):
    """A signal ended what was done."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise Stopped; where they were ignored (nohup) they stay so."""
    before = {}
    if current_thread() is main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told(error: KeyboardInterrupt) -> tuple[str, int]:
    """What ended the run, and its exit code: 128 and the signal's number."""
    first = error.first if isinstance(error, Abandoned) else error
    if isinstance(first, Stopped):
        return f"stopped by {signal.Signals(first.number).name}", 128 + first.number
    return "interrupted", 128 + signal.SIGINT


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
