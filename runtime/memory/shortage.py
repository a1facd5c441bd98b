"""Host memory that cannot be had: told as that, whoever asked for it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from hydraplan.plans.language.errors import HydraplanError, RunError

REMEDY = (
    "see `free` and `ulimit -v`; end other processes, train fewer jobs at once, or plan with a smaller `memory` of the "
    'host and smaller budgets of devices with backing = "cpu"'
)
_OF_TORCH = ("can't allocate memory", "not enough memory")
"""What torch's CPU allocator says, as a RuntimeError."""


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Raises RunError where what is done within finds no memory."""
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        asked = error
        while isinstance(asked, HydraplanError) and isinstance(asked.__cause__, Exception):
            asked = asked.__cause__
        raise RunError(f"the host has no memory for {what}: {str(asked) or 'MemoryError'}; {REMEDY}") from error


def is_shortage(error: BaseException | None) -> bool:
    """Whether it is one of memory, or was raised for one in the user's code."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, RuntimeError) and any(said in str(error) for said in _OF_TORCH):
        return True
    return isinstance(error, HydraplanError) and is_shortage(error.__cause__)
