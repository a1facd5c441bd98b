"""The planner: a workload in, a plan out.

    workloads -> study -> frontend -> costs -> cutting -> scheduling -> lists -> pipeline (the whole way)

What it offers is imported when it is first asked for, so `import hydraplan.planner` brings neither torch nor a solver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydraplan.planner.pipeline import plan, replan
    from hydraplan.planner.scheduling.solver import SolverOptions

__all__ = ["SolverOptions", "plan", "replan"]

_HOME = {
    "SolverOptions": "hydraplan.planner.scheduling.solver",
    "plan": "hydraplan.planner.pipeline",
    "replan": "hydraplan.planner.pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
