"""Which jobs of a run have failed: a job that fails ends alone (DESIGN.md, promise 3)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

from hydraplan.planner.frontend.users.usercode import said
from hydraplan.plans.analysis.flow import Site
from hydraplan.plans.language.steps import Backward, Forward, Step, Update
from hydraplan.runtime.memory.shortage import REMEDY, is_shortage


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    message: str
    """Which step failed, where it stands in the plan, and how."""
    details: str
    """The traceback as text: the traceback itself would hold on to the tensors of its frames."""


class Failures:
    """The first failure of each job counts. Read from all threads, without a lock."""

    def __init__(self, failed: Callable[[str, str], None]) -> None:
        """`failed(job, message)` is told of each, from the failing thread."""
        self._lock = Lock()
        self._told = failed
        self.of: dict[str, Failure] = {}
        self.fatal: BaseException | None = None
        """What ended the whole run."""

    def add(self, job: str, where: str, error: BaseException) -> None:
        """Never raises: whoever calls it has steps left to pass over."""
        message = f"{where} failed: {said(error)}" + (f"; {REMEDY}" if is_shortage(error) else "")
        details = "".join(traceback.format_exception(error))  # renders what has no text as such
        with suppress(RuntimeError):  # of a frame that runs still
            traceback.clear_frames(error.__traceback__)
        with self._lock:
            if job in self.of:
                return
            self.of[job] = Failure(message=message, details=details)
        self._told(job, message)


def describe(site: Site, iteration: int) -> str:
    """A step for people: what it does, and its JSON pointer in the plan."""
    times = f", iteration {iteration}" if site.section == "cycle" else ""
    return f"{_what(site.step)} (/phases/{site.phase}/{site.section}/{site.line}{times})"


def _what(step: Step) -> str:
    name = type(step).__name__.lower()
    match step:
        case Forward() | Backward():
            return f"{name} of shard {step.shard}, microbatch {step.microbatch} of {step.job} on {step.device}"
        case Update():
            return f"update of slab {step.slab} of {step.job} on {step.device}"
        case _:
            return f"{name} for {step.job} on {step.device}"
