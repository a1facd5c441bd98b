"""Which lines of code a node remembers: the user's, down to the helper that calls an operator.

torch.export keeps the frames of functions called `forward` alone: a refusal would name the line that calls a helper,
or one of torch's own modules.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import StackSummary
from typing import Any

import torch
from torch.fx.proxy import TracerBase

from hydraplan.planner.frontend.models import model

_OTHERS = (
    f"{Path(str(torch.__file__)).parent}/",
    f"{Path(str(model.__file__)).parents[2]}/",  # planner
    str(contextlib.__file__),
    str(functools.__file__),
)
"""Where lines are nobody's habit."""


@contextmanager
def users_lines() -> Iterator[None]:
    """In force while a model is exported."""
    torchs = TracerBase._filter_traceback_frames
    TracerBase._filter_traceback_frames = _of_users  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        TracerBase._filter_traceback_frames = torchs  # type: ignore[method-assign]


def _of_users(tracer: Any, summary: StackSummary) -> StackSummary:
    """The frames within the model and its loss that are neither torch's nor ours."""
    calls = [number for number, frame in enumerate(summary) if frame.filename == model.__file__]
    within = summary[calls[-1] + 1 :] if calls else summary
    return StackSummary.from_list([frame for frame in within if not frame.filename.startswith(_OTHERS)])
