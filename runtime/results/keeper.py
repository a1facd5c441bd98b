"""Keeps what a run trains, as it is trained, on a thread of its own:

    engines    loss of a step ---------------> losses/JOB.csv, at once
               job finished, job failed  |
    keeper                               +---> weights/JOB, then record.json; record.json also now and then
                                               at the end: what could not be written, once more

Each file is written for itself: one that cannot be written costs no other, and stops no training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from types import TracebackType

from hydraplan.planner.frontend.users.usercode import said
from hydraplan.plans.file.strict import dumps_strict
from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.plan import Plan
from hydraplan.runtime.files import Log
from hydraplan.runtime.memory.store import HostStore
from hydraplan.runtime.progress import Progress
from hydraplan.runtime.replaying.crew import Abandoned
from hydraplan.runtime.results.directory import RunDirectory
from hydraplan.runtime.results.record import Progressed, RunStatus, document
from hydraplan.runtime.saving.weights import write_weights
from hydraplan.runtime.training import Trained

RECORD_EVERY_S = 2.0
"""How old the record may be while jobs train."""


class Keeper:
    """What hears of a run and writes it down. As a context: leaving it ends the run's record, however it is left."""

    def __init__(self, plan: Plan, run: RunDirectory, store: HostStore, shown: Progress) -> None:
        """Writes the first record. Raises RunError where it cannot be written."""
        self._plan, self._run, self._store, self._shown = plan, run, store, shown
        self.jobs = Progressed.of(plan)
        self.unwritten: dict[str, str] = {}
        """Files that could not be written, and why."""
        self._status: RunStatus = "preparing"
        self._message: str | None = None
        self._ended_by: BaseException | None = None
        self._so_far: Callable[[], Trained] | None = None
        self.trained: Trained | None = None
        """What was timed and counted, once all is over."""
        self._losses = {name: _LossLog(run.files.log(run.losses(name), "step,loss\n")) for name in self.jobs}
        self._given: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._over = Event()
        self._changed = False
        self._unsaved: list[str] = []
        """Jobs that have finished, and whose weights could not be written."""
        try:
            self._write_record()
        except OSError as error:
            raise RunError(f"{run.record} cannot be written: {error}; name a run directory that can be") from error

    def train_with(self, so_far: Callable[[], Trained]) -> Keeper:
        """Training begins. `so_far`: what it did until then."""
        self._so_far = so_far
        self._status = "training"
        Thread(target=self._work, name="keeper", daemon=True).start()
        self._given.put(self._write_plan)
        self._given.put(self._try_record)
        self._shown.begin({name: job.job.steps for name, job in self.jobs.items()})
        return self

    # -- what engines tell ------------------------------------------------------------------------

    def step(self, job: str, step: int, loss: float) -> None:
        told, log = self.jobs[job], self._losses[job]
        log.add(step, loss)
        with log.lock:
            told.trained = log.next
            told.first_loss, told.last_loss = log.first, log.last
            if told.status == "waiting":
                told.status = "training"
        self._changed = True
        self._shown.step(job, step, loss)

    def fail(self, job: str, message: str) -> None:
        self._given.put(lambda: self._failed(job, message))
        self._shown.fail(job, message)

    def finish(self, job: str) -> None:
        self._given.put(lambda: self._finished(job))

    # -- the end ----------------------------------------------------------------------------------

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is left. An interrupt meanwhile is raised when all is written; a second one leaves at once."""
        self._ended_by = error
        self._given.put(None)
        try:
            self._over.wait()
        except KeyboardInterrupt as first:
            try:
                self._over.wait()
            except KeyboardInterrupt:
                raise Abandoned(error or first) from first
            raise
        finally:
            self._shown.end()

    # -- the keeper's thread ----------------------------------------------------------------------

    def _work(self) -> None:
        written_s = time.monotonic()
        while True:
            try:
                work = self._given.get(timeout=RECORD_EVERY_S)
            except Empty:
                work = _nothing
            if work is None:
                break
            self._do(work)
            if self._changed and time.monotonic() - written_s >= RECORD_EVERY_S:
                self._changed = False
                self._do(self._try_record)
                written_s = time.monotonic()
        for last in (self._write_once_more, self._close_losses, self._write_last_record):
            self._do(last)
        self._over.set()

    def _do(self, work: Callable[[], None]) -> None:
        """Nothing that goes wrong with one file keeps the others from being written."""
        try:
            work()
        except BaseException as error:
            self.unwritten["(not known which)"] = f"{type(error).__name__}: {error}"

    def _finished(self, job: str) -> None:
        if self._save(job):
            self._shown.finish(job)
        else:
            self._unsaved.append(job)
            self._shown.fail(job, f"{self.jobs[job].error}; tried again at the end of the run")
        self._try_record()

    def _failed(self, job: str, message: str) -> None:
        self.jobs[job].status, self.jobs[job].error = "failed", message
        self._try_record()

    def _save(self, job: str) -> bool:
        """Write a finished job's weights; whether they are in their place."""
        told, path = self.jobs[job], self._run.weights(job)
        beside: list[RunError] = []

        def write(folder: Path) -> None:
            try:
                told.notes = write_weights(folder, told.job, self._store)
            except RunError as error:  # the weights are there, but not all else
                beside.append(error)

        try:
            self._run.files.publish(path, write)
        except Exception as error:
            told.status, told.error = "failed", f"its weights could not be written: {error}"
            return False
        told.saved = True
        told.status, told.error = ("failed", str(beside[0])) if beside else ("finished", None)
        return True

    def _write_plan(self) -> None:
        name = self._run.plan.name
        try:
            self._run.files.replace(self._run.plan, dumps(self._plan).encode())
        except OSError as error:
            self.unwritten[name] = str(error)
        else:
            self.unwritten.pop(name, None)

    def _write_once_more(self) -> None:
        """What could not be written as it came: there may be room now."""
        if self._run.plan.name in self.unwritten:
            self._write_plan()
        for job in self._unsaved:
            if self._save(job):
                self._shown.finish(job)

    def _close_losses(self) -> None:
        for job, log in self._losses.items():
            self._twice(str(self._run.losses(job).relative_to(self._run.root)), log.sync)
            log.close()

    def _write_last_record(self) -> None:
        error = self._ended_by
        if error is None:
            self._status = "finished"
        elif isinstance(error, KeyboardInterrupt):
            self._status = "interrupted"
        else:
            self._status, self._message = "failed", said(error)
        assert self._so_far is not None
        self.trained = self._so_far()
        for job, failure in self.trained.failures.items():
            if self.jobs[job].error is None:
                self.jobs[job].status, self.jobs[job].error = "failed", failure.message
        self._twice(self._run.record.name, self._write_record)

    def _twice(self, name: str, write: Callable[[], None]) -> None:
        """What fails for a moment is no loss."""
        try:
            write()
        except OSError:
            try:
                write()
            except OSError as error:
                self.unwritten[name] = str(error)

    def _try_record(self) -> None:
        """While the run goes on, a record that cannot be written is only older than it might be."""
        try:
            self._write_record()
        except OSError:
            self._changed = True

    def _write_record(self) -> None:
        jobs = [replace(job) for job in self.jobs.values()]
        found = document(self._plan, self._status, self._message, jobs, self.unwritten, self.trained)
        self._run.files.replace(self._run.record, (dumps_strict(found) + "\n").encode())


class _LossLog:
    """A job's losses on their way to its file, in the order of its steps."""

    def __init__(self, log: Log) -> None:
        self.lock = Lock()
        self._log = log
        self._early: dict[int, float] = {}
        self.next = 0
        self.first: float | None = None
        self.last: float | None = None

    def add(self, step: int, loss: float) -> None:
        """Never raises: what cannot be written now is written later."""
        with self.lock:
            self._early[step] = loss
            rows = ""
            while self.next in self._early:
                self.last = self._early.pop(self.next)
                self.first = self.last if self.next == 0 else self.first
                rows += f"{self.next},{self.last!r}\n"
                self.next += 1
            try:
                self._log.append(rows)
            except OSError:
                return

    def sync(self) -> None:
        """Raises OSError where rows are not on the disk."""
        with self.lock:
            self._log.sync()

    def close(self) -> None:
        with self.lock:
            self._log.close()


def _nothing() -> None: ...
