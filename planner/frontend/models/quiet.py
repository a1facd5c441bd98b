"""Keep libraries silent about a model that only gets traced, loaded or saved."""

from __future__ import annotations

import gc
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of libraries about a model that only gets traced, and no garbage collection meanwhile.

    Tracing makes hundreds of thousands of objects that all stay: searching them again and again for garbage takes
    a sixth of its time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        # What a model prints while it is traced is no result, and torch prints whole graphs that it cannot trace.
        with without_advice(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def without_advice() -> Iterator[None]:
    """No warnings of libraries; other threads, which may train meanwhile, print and are collected as ever."""
    library, torch_log = logging.getLogger("transformers"), logging.getLogger("torch")
    levels = library.level, torch_log.level
    library.setLevel(logging.ERROR)
    torch_log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.setLevel(levels[0])
        torch_log.setLevel(levels[1])
