"""Memory that was freed, given back to the system.

The C library keeps what is freed in chunks of less than 32 MiB, for later: moving a model tensor by tensor would leave
as much again behind (measured: a Mixtral of 1.06 GiB was held 1.4 times).
"""

from __future__ import annotations

import ctypes
import sys

MOST_KEPT_BYTES = 1 << 25


class Freed:
    """Counts what is freed; gives it back whenever that is much."""

    def __init__(self) -> None:
        self._bytes = 0
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        """Of glibc; other C libraries give back what they like."""

    def note(self, freed_bytes: int) -> None:
        self._bytes += freed_bytes
        if self._bytes >= MOST_KEPT_BYTES:
            self.give_back()

    def give_back(self) -> None:
        self._bytes = 0
        if self._trim is not None:
            self._trim(0)
