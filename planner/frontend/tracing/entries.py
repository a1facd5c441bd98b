"""While a model runs untraced: what it may not enter, because no graph holds it, is refused where it does.

with MyMode(): ...                        a user's TorchFunctionMode or TorchDispatchMode: other operators
with saved_tensors_hooks(pack, unpack)    other values for the backward (torch's own save_on_cpu: the same ones)
torch.set_rng_state(state)                the same random numbers twice
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hydraplan.planner.frontend.tracing.expressions import SEED_REMEDY
from hydraplan.planner.frontend.tracing.refusals import UntraceableError

_OWN = ("torch", "hydraplan")
_CLASSES: tuple[type, ...] = (TorchFunctionMode, TorchDispatchMode, saved_tensors_hooks)


@contextmanager
def entries_refused() -> Iterator[None]:
    """UntraceableError where the user's code enters a mode or hooks, or sets a generator's state."""
    real: list[Callable[..., Any]] = [kind.__enter__ for kind in _CLASSES]  # type: ignore[attr-defined]
    set_state: Any = torch.random.set_rng_state
    code = set_state.__code__
    for kind, enter in zip(_CLASSES, real, strict=True):
        kind.__enter__ = _entering(enter)  # type: ignore[attr-defined]
    set_state.__code__ = _set_rng_state.__code__  # whoever holds it, by whatever name
    try:
        yield
    finally:
        set_state.__code__ = code
        for kind, enter in zip(_CLASSES, real, strict=True):
            kind.__enter__ = enter  # type: ignore[attr-defined]


def _entering(real: Callable[..., Any]) -> Callable[..., Any]:
    def enter(self: Any) -> Any:
        kind = type(self)
        users = kind.__module__.partition(".")[0] not in _OWN
        if users or (kind is saved_tensors_hooks and not _is_own(sys._getframe(1))):
            raise UntraceableError(
                f"the forward enters {kind.__qualname__}, which no graph holds",
                "leave it out: what it changes belongs in the forward itself, or in a torch.autograd.Function",
            )
        return real(self)

    return enter


def _set_rng_state(new_state: Tensor) -> None:
    """The code that torch's own function has meanwhile; its globals are torch's."""
    from hydraplan.planner.frontend.tracing.entries import refuse_state

    refuse_state(new_state)


def refuse_state(state: Tensor) -> None:
    """Set the process-wide generator's state for torch (fork_rng puts it back), and for nobody else."""
    if not _is_own(sys._getframe(2)):
        raise UntraceableError("the forward sets the state of the process-wide generator", SEED_REMEDY)
    torch.default_generator.set_state(state)


def _is_own(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_globals.get("__name__") == "contextlib":
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _OWN
