"""The run directory: its names, who works in it, and what was left behind in one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hydraplan.plans.language.errors import RunError
from hydraplan.runtime.files import Disk, Files

LONGEST_NAME = 200
"""Bytes of a file's name: file systems take 255, suffixes included."""


class RunDirectory:
    """A directory that one run has made and works in; a lock on it tells so, which ends with the process."""

    def __init__(self, root: Path, disk: Disk) -> None:
        """Raises RunError where `root` exists, or no directory can be made there."""
        refuse_existing(root)
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir()
            self._lock = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RunError(f"{root} cannot be made: {error}; name a run directory that can be written") from error
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.root, self.files = root, Files(root, disk)

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    def losses(self, job: str) -> Path:
        return self.root / "losses" / f"{file_name(job)}.csv"

    def weights(self, job: str) -> Path:
        return self.root / "weights" / file_name(job)

    def discard(self) -> None:
        """Nothing was trained: leave nothing behind."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.close()

    def close(self) -> None:
        self.files.tidy()
        os.close(self._lock)


def file_name(job: str) -> str:
    """A job's name as a file's: one for each name, whatever it holds and however long it is."""
    name = quote(job, safe=" =,+@[]()").replace("..", "%2E%2E")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 33]}-{sha256(job.encode()).hexdigest()[:32]}"
    return name


def refuse_existing(directory: Path) -> None:
    """Raises RunError where something has that name, and says what a run has left there."""
    if directory.exists() or directory.is_symlink():
        raise RunError(f"{directory} {left_over(directory)}; name a new run directory, or move that one away")


def left_over(directory: Path) -> str:
    """What is in a directory that exists, in a few words."""
    try:
        record = json.loads((directory / "record.json").read_text(encoding="utf-8"))
        status, rows = str(record["status"]), list(record["jobs"])
        told = ", ".join(_told(directory, row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        return "exists"
    if status in UNENDED:
        what = "holds a run that is going on" if at_work(directory) else "is the left-over of a run that was killed"
    else:
        what = f"holds a run that {'has finished' if status == 'finished' else 'was interrupted or failed'}"
    return f"{what} ({told}; hydraplan report {directory} shows it)"


UNENDED = ("preparing", "training")
"""What the record of a run says that is going on, or was killed."""


def at_work(directory: Path) -> bool:
    """Whether a process holds the lock of a run directory."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _told(directory: Path, row: dict[str, Any]) -> str:
    folder = directory / "weights" / file_name(row["job"])
    if folder.is_dir():  # it has its name when it is whole
        return f"{row['job']}: finished, usable in {folder}"
    return f"{row['job']}: {row['status']}, {row['trained']} of {row['steps']} steps"
