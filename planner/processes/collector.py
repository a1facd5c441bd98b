"""Python's collector of cyclic garbage, out of the way of passes that make very many small objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the collector: graphs, schedules and lists are millions of small objects, nearly all without cycles,
    which it would walk again and again (nearly half of the time of planning)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
