"""The line of the user's code at which something changes: the forward runs once more, line by line.

Slow, and so only where something has changed that has to be told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from torch import nn

from hydraplan.planner.frontend.tracing.traced import Source

_NOT_USERS = ("torch", "contextlib", "functools", "importlib", "enum", "random", "numpy")


def is_users(frame: FrameType) -> bool:
    """Whether a frame runs code of the user's, or of a library of models."""
    name = str(frame.f_globals.get("__name__", ""))
    return name.split(".")[0] not in _NOT_USERS and not name.startswith("hydraplan.planner.")


class _Found(Exception):  # noqa: N818 - no error: it ends the run
    pass


def first_change(run: Callable[[], object], probe: Callable[[], object], model: nn.Module) -> Source | None:
    """Where `run` makes `probe` give something else than before; None: nowhere that lines can tell."""
    watch = _Watch(probe, {id(part): path for path, part in model.named_modules()})
    before = sys.gettrace()
    sys.settrace(watch.enter)
    try:
        run()
    except BaseException:
        if watch.found is None:
            return None
    finally:
        sys.settrace(before)
    return watch.found


class _Watch:
    def __init__(self, probe: Callable[[], object], paths: Mapping[int, str]) -> None:
        self.probe = probe
        self.paths = paths
        self.last = probe()
        self.found: Source | None = None

    def enter(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.found is not None or not is_users(frame):
            return None
        self.compare(frame.f_back)
        line = frame.f_lineno

        def step(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal line
            if self.found is None:
                self.compare(frame, line)
            line = frame.f_lineno
            return step

        return step

    def compare(self, frame: FrameType | None, line: int = 0) -> None:
        while frame is not None and not is_users(frame):
            frame, line = frame.f_back, 0
        now = self.probe()
        if now == self.last or frame is None:
            return
        location = f"{frame.f_code.co_filename}:{line or frame.f_lineno}"
        owner: FrameType | None = frame
        while owner is not None and id(owner.f_locals.get("self")) not in self.paths:
            owner = owner.f_back
        path = self.paths[id(owner.f_locals["self"])] if owner is not None else ""
        self.found = Source(module=path, location=location)
        raise _Found
