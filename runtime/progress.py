"""Show a run while it trains: bars on a terminal, plain lines elsewhere, nothing where nobody looks.

Events come from the threads of all devices at once.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Watch(Protocol):
    """What hears of jobs while they train, from the threads of all devices."""

    def step(self, job: str, step: int, loss: float) -> None:
        """The loss of a training step (from 0) is known."""
        ...

    def fail(self, job: str, message: str) -> None:
        """A job has failed; the others go on."""
        ...

    def finish(self, job: str) -> None:
        """All steps of a job are done: its final state is in the host store. The others go on."""
        ...


class Progress(Watch, Protocol):
    """What shows a run. A job has finished once its weights are written."""

    def begin(self, steps: Mapping[str, int]) -> None:
        """Training begins: job -> its training steps."""
        ...

    def end(self) -> None:
        """Training is over, however it went."""
        ...


class NoProgress:
    """Shows nothing."""

    def begin(self, steps: Mapping[str, int]) -> None: ...

    def step(self, job: str, step: int, loss: float) -> None: ...

    def fail(self, job: str, message: str) -> None: ...

    def finish(self, job: str) -> None: ...

    def end(self) -> None: ...


class GuardedProgress:
    """Another progress that may break, such as by a closed pipe: the run goes on without it."""

    def __init__(self, shown: Progress) -> None:
        self._shown: Progress | None = shown

    def begin(self, steps: Mapping[str, int]) -> None:
        self._try(lambda shown: shown.begin(steps))

    def step(self, job: str, step: int, loss: float) -> None:
        self._try(lambda shown: shown.step(job, step, loss))

    def fail(self, job: str, message: str) -> None:
        self._try(lambda shown: shown.fail(job, message))

    def finish(self, job: str) -> None:
        self._try(lambda shown: shown.finish(job))

    def end(self) -> None:
        self._try(lambda shown: shown.end())

    def _try(self, call: Callable[[Progress], None]) -> None:
        if self._shown is None:
            return
        try:
            call(self._shown)
        except Exception as error:
            self._shown = None
            with suppress(Warning):  # where warnings are errors
                warnings.warn(f"progress is not shown any more: {type(error).__name__}: {error}", stacklevel=3)


class PlainProgress:
    """A line per job now and then: at its first and last step, and whenever `every_s` have passed."""

    def __init__(self, out: TextIO, *, every_s: float = 5.0) -> None:
        self._out, self._every_s = out, every_s
        self._lock = Lock()
        self._steps: dict[str, int] = {}
        self._shown_s: dict[str, float] = {}

    def begin(self, steps: Mapping[str, int]) -> None:
        self._steps = dict(steps)

    def step(self, job: str, step: int, loss: float) -> None:
        now = time.monotonic()
        with self._lock:
            ends = step in (0, self._steps[job] - 1)
            if ends or now - self._shown_s.get(job, -self._every_s) >= self._every_s:
                self._shown_s[job] = now
                print(f"{job}: step {step + 1} of {self._steps[job]}, loss {loss:.4f}", file=self._out, flush=True)

    def fail(self, job: str, message: str) -> None:
        with self._lock:
            print(f"{job}: {message}", file=self._out, flush=True)

    def finish(self, job: str) -> None:
        with self._lock:
            print(f"{job}: finished, its weights are written", file=self._out, flush=True)

    def end(self) -> None: ...


class BarProgress:
    """A bar for every job."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}

    def begin(self, steps: Mapping[str, int]) -> None:
        self._tasks = {job: self._bars.add_task(escape(job), total=count, loss="") for job, count in steps.items()}
        self._bars.start()

    def step(self, job: str, step: int, loss: float) -> None:
        self._bars.update(self._tasks[job], advance=1, loss=f"loss {loss:.4f}")

    def fail(self, job: str, message: str) -> None:
        self._bars.update(self._tasks[job], loss="[red]failed[/red]")
        self._bars.console.print(f"{job}: {message}", markup=False, highlight=False)

    def finish(self, job: str) -> None:
        self._bars.console.print(f"{job}: finished, its weights are written", markup=False, highlight=False)

    def end(self) -> None:
        self._bars.stop()


def progress_for(out: TextIO) -> Progress:
    """Bars where `out` is a terminal, plain lines elsewhere."""
    console = Console(file=out)
    return BarProgress(console) if console.is_terminal else PlainProgress(out)
