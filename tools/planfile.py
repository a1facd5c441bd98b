"""Plan files on disk: read strictly, written whole or not at all, and errors told with the file's lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydraplan.planner.processes.collector import collector_paused
from hydraplan.plans.checking.check import Traced, verify
from hydraplan.plans.file.reading import MOST_PLAN_BYTES, UnreadableError, read_bounded
from hydraplan.plans.file.text import Document, dumps, loads
from hydraplan.plans.language.errors import Finding, InvalidPlanError, StalePlanError, WorkloadError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.prediction.simulate import Simulation, simulate_flow
from hydraplan.tools.output import Output


def read_plan(path: Path) -> Document:
    """Read a plan file. Raises WorkloadError where there is none, InvalidPlanError where it is no plan."""
    try:
        text = read_bounded(path, MOST_PLAN_BYTES)
    except OSError as error:
        raise WorkloadError(f"cannot read the plan {path}: {error.strerror or error}") from None
    except UnreadableError as error:
        raise InvalidPlanError([Finding(pointer="", line=error.line, cause=error.cause, remedy=error.remedy)]) from None
    with collector_paused():
        return loads(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundPlan:
    """A plan that holds, as it was read, and what its lists do."""

    document: Document
    traced: Traced

    @property
    def plan(self) -> Plan:
        return self.document.plan

    def simulated(self) -> Simulation:
        return simulate_flow(self.plan, self.traced.flow, self.traced.arenas)


def read_sound_plan(path: Path, output: Output) -> SoundPlan:
    """Read a plan file that has to hold. Raises as `read_plan` does, and InvalidPlanError with all that is wrong with
    the plan, which `output` gets too where it is for programs."""
    try:
        document = read_plan(path)
        return SoundPlan(document=document, traced=verify(document))
    except InvalidPlanError as error:
        output.json({"valid": False, "findings": [asdict(each) for each in error.findings]})
        raise


def write_plan(plan: Plan, path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a plan file in one stroke: an interrupted command leaves the old file as it was."""
    write_text(path, dumps(plan, notes))


def write_text(path: Path, text: str) -> None:
    """Replace a file whole. Raises WorkloadError where its folder cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WorkloadError(f"cannot write {path}: {error.strerror or error}") from None


def check_output(path: Path, workload: Path | None = None) -> None:
    """Before long work: raises WorkloadError where its result could not be written, or would replace its source."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise WorkloadError(f"cannot write {path}: there is no folder {folder}; make it, or name another file")
    if path.is_dir():
        raise WorkloadError(f"cannot write {path}: it is a folder; name a file")
    if not os.access(folder, os.W_OK):
        raise WorkloadError(f"cannot write {path}: the folder {folder} cannot be written; name another")
    if workload is not None and path.exists() and workload.exists() and path.samefile(workload):
        raise WorkloadError(f"{path} is the workload itself; name another file for the plan")


def with_lines(findings: Sequence[Finding], document: Document) -> list[Finding]:
    """Findings of a plan with the lines of the file that it came from, in the file's order."""
    placed = [
        finding if finding.line is not None else replace(finding, line=document.lines.nearest(finding.pointer))
        for finding in findings
    ]
    return sorted(placed, key=lambda finding: finding.line or 0)


@contextmanager
def lines_of(document: Document) -> Iterator[None]:
    """Findings that are raised within carry the file's lines."""
    try:
        yield
    except (InvalidPlanError, StalePlanError) as error:
        raise type(error)(with_lines(error.findings, document)) from error.__cause__
