"""Names and folders of a run directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from hydraplan.plans.language.errors import RunError


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A folder aside, to write into; it goes where its block raises. `publish` gives it its name.

    Raises RunError where `directory` exists or no folder can be made there.
    """
    refuse_existing(directory)
    aside = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{directory} cannot be made: {error}; name a run directory that can be written") from error
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def publish(aside: Path, directory: Path) -> Iterator[None]:
    """Inside, a finished run is written; then its folder gets its name. Whatever goes wrong, nothing is deleted.

    Raises RunError, which names the folder that the results are in.
    """
    try:
        yield
        refuse_existing(directory)
        aside.rename(directory)
    except (OSError, RunError) as error:
        raise RunError(f"training is done, but {error}; what was written of it is in {aside}") from error


def refuse_existing(directory: Path) -> None:
    if directory.exists():
        raise RunError(f"{directory} exists; name a new run directory, or move that one away")


def file_name(job: str) -> str:
    """A job's name as a file's."""
    return quote(job, safe=" =,+@[]()").replace("..", "%2E%2E")
