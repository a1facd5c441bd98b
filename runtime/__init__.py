"""The runtime: a plan in, trained models out.

    prepare (models, data, drift) -> training (devices, memory, replaying) -> results;   execution (the whole way)

What it offers is imported when it is first asked for, so `import hydraplan.runtime` does not bring torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydraplan.runtime.execution import execute
    from hydraplan.runtime.results.result import DeviceResult, JobResult, RunResult

__all__ = ["DeviceResult", "JobResult", "RunResult", "execute"]

_HOME = {
    "DeviceResult": "hydraplan.runtime.results.result",
    "JobResult": "hydraplan.runtime.results.result",
    "RunResult": "hydraplan.runtime.results.result",
    "execute": "hydraplan.runtime.execution",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
