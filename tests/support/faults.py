"""A disk on which writes fail as a full one's do: the run's own file layer with a fault at a chosen operation."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from support.realplan import lm_job, real_plan
from support.staggered import read_losses, strict_json
from support.weights import saved_state

from hydraplan.plans.file.text import loads
from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.plan import Plan
from hydraplan.runtime import JobResult, RunResult, execute
from hydraplan.runtime.files import PARTIAL, Disk

How = Literal["once", "this file", "all"]
"""What fails from the chosen operation on: it alone, all on its file (of a folder: it alone), all on every file."""

SHARED = (PARTIAL, "losses", "weights", "")
"""Folders that several files need."""


class FaultyDisk(Disk):
    def __init__(self, root: Path, at: int | None = None, how: How = "once") -> None:
        """`at`: the number of the first operation that fails; None: none does."""
        self._root, self._at, self._how = root, at, how
        self.done: list[str] = []
        """The file of each operation so far."""
        self.failed: set[str] = set()

    def make_folder(self, path: Path) -> None:
        self._fail(path)
        super().make_folder(path)

    def create(self, path: Path) -> int:
        self._fail(path)
        return super().create(path)

    def write(self, path: Path, file: int, data: bytes) -> int:
        self._fail(path)
        part = data[:1000] if len(data) > 1000 else data  # as a disk does that is nearly full
        return super().write(path, file, part if path.name != "plan.json" else data)

    def sync(self, path: Path, file: int) -> None:
        self._fail(path)
        super().sync(path, file)

    def fill(self, folder: Path, write: Callable[[Path], None]) -> None:
        super().fill(folder, write)
        self._fail(folder)

    def rename(self, source: Path, target: Path) -> None:
        self._fail(source)
        super().rename(source, target)

    def _fail(self, path: Path) -> None:
        parts = path.relative_to(self._root).parts
        file = parts[1] if parts[:1] == (PARTIAL,) and len(parts) > 1 else "/".join(parts)
        number = len(self.done)
        self.done.append(file)
        if self._at is None or number < self._at:
            return
        if number == self._at or self._how == "all" or (self._how == "this file" and file in self.failed):
            if file not in SHARED:
                self.failed.add(file)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))


def two_jobs() -> Plan:
    return real_plan([lm_job("a", seed=3), lm_job("b", seed=4)], repeat=4)


class Faults:
    """Runs of two jobs with one fault each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plan = folder, two_jobs()
        disk = FaultyDisk(folder / "sound")
        self.sound = execute(self.plan, folder / "sound", disk=disk)
        assert not self.sound.failed
        assert not self.sound.unwritten
        self.operations = len(disk.done)
        self.weights = {name: saved_state(folder / "sound" / "weights" / name) for name in ("a", "b")}
        self._runs = 0

    def check(self, at: int, how: How) -> None:
        """A run that fails at that operation loses the file of it, and nothing else; of a disk that stays full, what is
        there is whole, and the rest told."""
        self._runs += 1
        run = self.folder / f"run{self._runs}"
        disk = FaultyDisk(run, at, how)
        try:
            result = execute(self.plan, run, disk=disk)
        except RunError:  # the first record: told before anything is trained
            assert disk.failed <= {"record.json"}
            assert not run.exists()
            return
        if how == "all":
            self._check_full(run, result)
            return
        lost = disk.failed if how != "once" else set()
        for job in result.jobs:
            self._check_job(run, job.job, lost, result)
        assert (job_names := {job.job for job in result.failed}) <= lost, (job_names, lost)
        if "record.json" not in lost:
            record = strict_json(run / "record.json")
            assert record["status"] == "finished"
            assert set(record["unwritten"]) == set(result.unwritten)
        if "plan.json" not in lost:
            assert loads((run / "plan.json").read_text()).plan == self.plan
        assert set(result.unwritten) <= lost

    def _check_full(self, run: Path, result: RunResult) -> None:
        for job in result.jobs:
            whole = {"a", "b"} - {job.job}  # all but what the disk had no room for
            self._check_job(run, job.job, {job.job, f"losses/{job.job}.csv"} - whole, result)
            path = run / "losses" / f"{job.job}.csv"
            found = read_losses(path) if path.exists() and path.stat().st_size else []
            assert found == list(job.losses)[: len(found)]
            assert len(found) == len(job.losses) or f"losses/{job.job}.csv" in result.unwritten
        record = strict_json(run / "record.json")  # as old as the disk had room for
        assert (record["status"] == "finished") == ("record.json" not in result.unwritten)

    def check_weights(self, told: JobResult) -> None:
        """Where there are any, they are right."""
        if told.weights is not None:
            state = saved_state(told.weights)
            assert state.keys() == self.weights[told.job].keys()
            assert all(torch.equal(state[name], self.weights[told.job][name]) for name in state)

    def _check_job(self, run: Path, job: str, lost: set[str], result: RunResult) -> None:
        (told,) = (each for each in result.jobs if each.job == job)
        (expected,) = (each for each in self.sound.jobs if each.job == job)
        assert told.losses == expected.losses
        assert (told.weights is not None) == (run / "weights" / job).exists()
        if job not in lost:
            assert told.error is None
        self.check_weights(told)
        if told.weights is None:
            assert job in lost
            assert "could not be written" in str(told.error)
        if f"losses/{job}.csv" not in lost:
            assert read_losses(run / "losses" / f"{job}.csv") == list(expected.losses)
