"""The one way to the disk of a run: whole files and folders appear at once under their names, or not at all.

    replace    text                   -> .partial/NAME -> fsync -> rename
    publish    a folder, by a library -> .partial/NAME -> fsync of all in it -> rename
    Log        rows, appended unbuffered as they come: what was written outlives the process

Each raises OSError where the system does, and leaves what was there before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PARTIAL = ".partial"
"""Folder of what is being written."""


class Disk:
    """What the system does with files: all writes of a run pass here."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def write(self, path: Path, file: int, data: bytes) -> int:
        """How many of the bytes were written."""
        return os.write(file, data)

    def sync(self, path: Path, file: int) -> None:
        os.fsync(file)

    def fill(self, folder: Path, write: Callable[[Path], None]) -> None:
        """Let a library write files of its own."""
        write(folder)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)


class Files:
    """Files of one folder, which exists."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root, self.disk = root, disk

    def replace(self, path: Path, data: bytes) -> None:
        """Write a file whole, in place of the one that was there."""
        partial = self._partial(path)
        file = self.disk.create(partial)
        try:
            try:
                write_all(self.disk, partial, file, data)
                self.disk.sync(partial, file)
            finally:
                os.close(file)
            self.disk.rename(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        self._sync_folder(path.parent)

    def publish(self, path: Path, write: Callable[[Path], None]) -> None:
        """Let `write` make a folder, at the path that it gets, which then gets its name. Raises what `write` does."""
        self.disk.make_folder(path.parent)
        partial = self._partial(path)
        try:
            self.disk.fill(partial, write)
            for each in sorted(partial.rglob("*")):
                if each.is_file():
                    self._sync_file(each)
            self._sync_folder(partial)
            self.disk.rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._sync_folder(path.parent)

    def log(self, path: Path, header: str) -> Log:
        return Log(self, path, header)

    def tidy(self) -> None:
        """Remove the folder of what is being written, where it is empty."""
        with suppress(OSError):
            (self.root / PARTIAL).rmdir()

    def _partial(self, path: Path) -> Path:
        self.disk.make_folder(self.root / PARTIAL)
        return self.root / PARTIAL / path.name

    def _sync_file(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.disk.sync(path, file)
        finally:
            os.close(file)

    def _sync_folder(self, path: Path) -> None:
        """So that names outlive the machine, too; not every file system can. The files themselves are on the disk."""
        with suppress(OSError):
            self._sync_file(path)


class Log:
    """Rows appended to a file. What cannot be written is held, and written with what comes next."""

    def __init__(self, files: Files, path: Path, header: str) -> None:
        self._files, self._path = files, path
        self._file: int | None = None
        self._size = 0
        self._held = header.encode()

    def append(self, row: str = "") -> None:
        """Raises OSError where not all rows so far are written; the file ends with a whole row all the same."""
        self._held += row.encode()
        disk = self._files.disk
        if self._file is None:
            disk.make_folder(self._path.parent)
            self._file = disk.create(self._path)
        try:
            write_all(disk, self._path, self._file, self._held)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
                os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(self._held)
        self._held = b""

    def sync(self) -> None:
        """Raises OSError where not all rows so far are on the disk."""
        self.append()
        if self._file is not None:
            self._files.disk.sync(self._path, self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def write_all(disk: Disk, path: Path, file: int, data: bytes) -> None:
    while data:
        data = data[disk.write(path, file, data) :]
