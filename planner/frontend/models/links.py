"""Links in a checkpoint's folder: what they point at has to lie in it, or a plan could read any file of the machine.

A checkpoint in the hub's cache is made of links to files beside it; these belong to it:

    models--openai-community--gpt2/
      blobs/                          the files
      snapshots/607a30.../            the folder of the checkpoint: a link for each file
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.quantities import format_count

SNAPSHOTS, REPOSITORY = "snapshots", "models--"


def refuse_links_out(folder: Path) -> None:
    """Raises WorkloadError with each link in a checkpoint's folder that leads out of it, however deep it lies."""
    root = _root(folder)
    out = [path for path in _links(folder) if not _within(os.path.realpath(path), root)]
    if out:
        shown = ", ".join(f"{path.relative_to(folder)} -> {os.path.realpath(path)}" for path in out[:3])
        raise WorkloadError(
            f"checkpoint {folder} has {format_count(len(out), 'link')} out of its folder ({shown}): "
            "copy what is meant into it, or delete the link"
        )


def refuse_path_out(folder: Path, name: str) -> None:
    """Raises WorkloadError where the name of a file, as an index gives it, leads out of the folder."""
    if not _within(os.path.realpath(folder / name), _root(folder)):
        raise WorkloadError(f"checkpoint {folder} names {name!r}, which lies out of its folder: copy it whole")


def _root(folder: Path) -> str:
    real = Path(os.path.realpath(folder))
    cached = real.parent.name == SNAPSHOTS and real.parent.parent.name.startswith(REPOSITORY)
    return str(real.parent.parent if cached else real)


def _within(real: str, root: str) -> bool:
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


def _links(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            if path.is_symlink():
                yield path
