"""The planner: a workload in, a plan out.

What it offers is imported when it is first asked for, so `import planner` brings neither torch nor a solver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.pipeline import plan, replan
    from planner.solver import SolverOptions

__all__ = ["SolverOptions", "plan", "replan"]

_HOME = {
    "SolverOptions": "planner.solver",
    "plan": "planner.pipeline",
    "replan": "planner.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
