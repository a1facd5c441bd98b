"""Host memory that cannot be had: told as that, whoever asked for it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from hydraplan.plans.language.errors import RunError

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
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise RunError(f"the host has no memory for {what}: {error or 'MemoryError'}; {REMEDY}") from error


def is_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(said in str(error) for said in _OF_TORCH)
