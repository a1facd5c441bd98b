"""All errors that hydraplan raises for its users, as one tree, each with its exit code.

HydraplanError          1   something failed
    TraceError          1   a model cannot be traced, or not cut
    RunError            1   a run failed (some jobs may have finished)
WorkloadError           2   the workload file or the command line is wrong
InfeasibleError         3   no plan exists: which limit binds, by how much
InvalidPlanError        4   the plan breaks a rule; carries every finding
StalePlanError          5   what the plan was made from has changed; carries every finding
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class HydraplanError(Exception):
    """Base of all; its text says what, where and what to do."""

    exit_code = 1


class TraceError(HydraplanError):
    """A model cannot be traced or cut; the text names module and line."""


class RunError(HydraplanError):
    """A run failed."""


class WorkloadError(HydraplanError):
    """The workload or the command line is wrong."""

    exit_code = 2


class InfeasibleError(HydraplanError):
    """No plan fits: the text says which limit binds, by how much, and the smallest that would do."""

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        device: str | None = None,
        missing_bytes: int = 0,
        job: str | None = None,
        largest: str = "",
    ) -> None:
        """`largest`: what of the model needs the most, in words."""
        super().__init__(message)
        self.largest = largest
        self.device = device
        self.missing_bytes = missing_bytes
        self.job = job
        self.each: tuple[InfeasibleError, ...] = ()
        """Where jobs fit no device: a refusal of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong in a plan file."""

    pointer: str
    """JSON pointer (RFC 6901); empty where no single value is meant."""
    line: int | None
    """Line of the file, from 1; None where the plan did not come from a file."""
    cause: str
    remedy: str

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line is not None else ""
        where = ", ".join(part for part in (line, self.pointer) if part)
        return f"{where or '/'}: {self.cause}; {self.remedy}"


class InvalidPlanError(HydraplanError):
    """The plan breaks rules: all of them at once."""

    exit_code = 4

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)


class StalePlanError(HydraplanError):
    """What the plan was made from has changed: all of it at once, each old and new."""

    exit_code = 5

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)
