"""Other processes that trace, cut and cost graphs beside this one: all of that is Python, which uses one core.

    this process       trace a | cut a | cost a |                    trace c | cut c | cost c
    another            trace b | cut b | cost b |  (forked; the graph stays there, what is asked about it comes back)

Results do not depend on who has a graph. What goes wrong elsewhere for other reasons than a HydraplanError (also: the
process was killed) is done again here, where it is seen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor

from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.processes.collector import collector_paused
from hydraplan.planner.processes.forks import FORK, processes_for
from hydraplan.plans.language.errors import HydraplanError
from hydraplan.plans.language.workload import Job

Given = tuple[Job, Mapping[str, Tensor]]
"""What a graph is traced from: a job and one of its microbatches."""


@dataclass(frozen=True, slots=True)
class Question:
    """A function of a graph, to be found by its name in a module."""

    what: str
    """What is done to answer it, for people."""
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    """Its others, by name."""

    def answered(self, graph: Callable[[], TracedGraph]) -> Outcome:
        try:
            with collector_paused():
                return Outcome(self.function(graph(), **self.arguments), None)
        except HydraplanError as error:
            return Outcome(None, error)


class Outcome(NamedTuple):
    """What a question has led to."""

    value: Any
    error: HydraplanError | None

    def result(self) -> Any:
        """Raises the error, if there was one."""
        if self.error is not None:
            raise self.error
        return self.value


class Process:
    """A process with graphs of its own, each traced when it is first asked about."""

    def __init__(self, graphs: Sequence[Given]) -> None:
        self.tickets = count()
        self.connection, there = FORK.Pipe()
        process = FORK.Process(target=_serve, args=(there, graphs), daemon=True)
        process.start()
        there.close()
        finalize(self, _stop, process, os.getpid())


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A graph that another process has."""

    process: Process
    number: int

    def ask(self, question: Question) -> int:
        """Returns the ticket for the answer."""
        ticket = next(self.process.tickets)
        with suppress(OSError):
            self.process.connection.send((ticket, self.number, question))
        return ticket

    def answer(self, ticket: int) -> Outcome | None:
        """In the order of the questions to that process; what nobody has waited for is passed over. None: there is no
        answer, for whatever reason."""
        try:
            while True:
                answered, outcome = self.process.connection.recv()
                if answered == ticket:
                    return outcome  # type: ignore[no-any-return]
        except (EOFError, OSError):
            return None


def spread(graphs: Sequence[Given]) -> list[Elsewhere | None]:
    """Who has which graph; None: this process."""
    most = processes_for(len(graphs))
    processes = [None, *(Process(graphs[number::most]) for number in range(1, most))]
    return [
        None if (process := processes[number % most]) is None else Elsewhere(process, number // most)
        for number in range(len(graphs))
    ]


def _serve(connection: Connection, given: Sequence[Given]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    torch.set_num_threads(1)  # those that there were before the fork are not here
    graphs = [cache(partial(trace, *each)) for each in given]
    while True:
        try:
            ticket, number, question = connection.recv()
        except EOFError:
            return
        try:
            outcome = question.answered(graphs[number])
        except Exception:
            outcome = None
        connection.send((ticket, outcome))


def _stop(process: ForkProcess, parent: int) -> None:
    if os.getpid() == parent:
        process.terminate()
        process.join()
