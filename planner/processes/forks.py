"""What several functions give, each called in one of as many processes as there are cores.

    this process   f0 |   f2   | f4 | f5 |        who is free takes the next one, so the longest should come first
    another        |   f1    | f3  |     |        forked: it knows all that this one knows, and sends back results

Results do not depend on who has called a function, if it changes nothing that another one sees. What goes wrong in
another process is done again here, where it is seen.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from struct import Struct
from typing import TypeVar

import torch

Result = TypeVar("Result")

FORK = multiprocessing.get_context("fork")
"""Also for what only this process knows, as `__main__`."""
NUMBER = Struct("=H")
"""As it stands in a pipe."""
MOST = 16_384
"""A pipe holds twice as many numbers before anybody reads."""


def processes_for(tasks: int) -> int:
    """As many processes as there are cores, this one counted, while there are tasks.

    Only this one where a fork would be unsafe (beside threads, or after CUDA has been used) or is not allowed (in a
    daemonic process).
    """
    unsafe = threading.active_count() > 1 or torch.cuda.is_initialized()
    alone = unsafe or multiprocessing.current_process().daemon
    return 1 if alone else max(1, min(len(os.sched_getaffinity(0)), tasks))


def side_by_side(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """What each function gives, in their order. Raises what the first one that fails here raises."""
    left = _numbers(len(functions))
    others: list[tuple[ForkProcess, Connection]] = []
    try:
        for _ in range(processes_for(len(functions)) - 1):
            here, there = FORK.Pipe(duplex=False)
            process = FORK.Process(target=_serve, args=(there, functions, left), daemon=True)
            process.start()
            there.close()
            others.append((process, here))
        found = dict(_called(functions, left))
        for _, connection in others:
            with suppress(EOFError, OSError):
                found |= connection.recv()
    finally:
        os.close(left)
        for process, connection in others:
            process.terminate()
            process.join()
            connection.close()
    return [found[number] if number in found else function() for number, function in enumerate(functions)]


def _numbers(count: int) -> int:
    """A pipe from which every process takes the next number, and whose end it sees then: no lock that a process could
    die with."""
    assert count <= MOST, count
    reading, writing = os.pipe()
    with open(writing, "wb") as pipe:
        pipe.write(b"".join(NUMBER.pack(number) for number in range(count)))
    return reading


def _called(functions: Sequence[Callable[[], Result]], left: int) -> Iterator[tuple[int, Result]]:
    """Of the functions that nobody else has taken: number, and what it gives."""
    while taken := os.read(left, NUMBER.size):
        (number,) = NUMBER.unpack(taken)
        yield number, functions[number]()


def _serve(connection: Connection, functions: Sequence[Callable[[], Result]], left: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    found = {}
    with suppress(Exception):
        for number, result in _called(functions, left):
            found[number] = result
    connection.send(found)
