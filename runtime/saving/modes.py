"""One mode for all files of a folder: the umask's, as for any file that a program makes.

safetensors writes files that their owner alone may read.
"""

from __future__ import annotations

import os
from pathlib import Path

PROBE = ".mode"


def as_umask_says(folder: Path) -> None:
    """Give every file in a folder, however deep, the mode that a new one gets there."""
    probe = folder / PROBE
    file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # to ask for it is to change it
    try:
        mode = os.fstat(file).st_mode & 0o777
    finally:
        os.close(file)
        probe.unlink()
    for each in folder.rglob("*"):
        if each.is_file():
            each.chmod(mode)
