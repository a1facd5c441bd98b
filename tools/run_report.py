"""What a run directory says: per job losses and times, per device memory, per kind of step predicted against actual.

Of a run that goes on, was killed, interrupted or broke off, as far as it came.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydraplan.plans.analysis.flow import unroll
from hydraplan.plans.file.text import loads
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Step
from hydraplan.plans.prediction.durations import Durations
from hydraplan.runtime.results.directory import UNENDED, at_work, file_name

FORMAT = "hydraplan-run/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    name: str
    status: str
    """waiting, training, finished or failed."""
    shards: int
    steps: int
    trained: int
    """Steps whose loss is known."""
    first_loss: float | None
    last_loss: float | None
    predicted_finish_us: int
    finish_us: int | None
    """None: the run has not ended, or was killed."""
    error: str | None
    notes: tuple[str, ...]
    """What has to be told of its weights."""
    weights: Path | None
    """Folder of its final weights, which are whole; None: there are none."""
    devices: tuple[str, ...]
    """Where the plan has cells of it."""

    @property
    def loss_fell(self) -> bool:
        return self.first_loss is not None and self.last_loss is not None and self.last_loss < self.first_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    name: str
    budget_bytes: int
    predicted_peak_bytes: int
    peak_bytes: int
    compute_us: int
    load_us: int
    spill_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindReport:
    """All steps of one kind in one place."""

    place: str
    op: str
    count: int
    predicted_us: int
    actual_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One step as it ran; microseconds from the start of the replay."""

    step: Step
    phase: int
    section: str
    iteration: int
    line: int
    start_us: int
    finish_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineTimes:
    """One line of a list over all its iterations."""

    step: Step
    phase: int
    section: str
    line: int
    count: int
    busy_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    directory: Path
    plan: Plan
    status: str
    """finished, interrupted, failed; training, while a process works on it; or killed."""
    message: str | None
    """Why it failed as a whole."""
    predicted_makespan_us: int
    makespan_us: int | None
    """None: the run has not ended, or was killed. Then there are no devices, lines and steps either."""
    jobs: tuple[JobReport, ...]
    devices: tuple[DeviceReport, ...]
    lines: tuple[LineTimes, ...]
    steps: tuple[StepTime, ...]
    """Those that were recorded one by one."""
    unwritten: tuple[str, ...]
    """Files that could not be written, each with why."""


def read_report(directory: Path) -> Report:
    """Read a run directory. Raises WorkloadError where it is none."""
    try:
        record = json.loads((directory / "record.json").read_text(encoding="utf-8"))
        text = (directory / "plan.json").read_text(encoding="utf-8")
    except OSError as error:
        raise WorkloadError(f"{directory} is no run directory: {error.strerror}: {error.filename}") from None
    except ValueError as error:
        raise WorkloadError(f"{directory / 'record.json'} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise WorkloadError(f"{directory / 'record.json'} is no run record of this version (format {FORMAT})")
    plan = loads(text).plan
    try:
        return _report(directory, plan, record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WorkloadError(
            f"{directory / 'record.json'} was changed since the run: {type(error).__name__}: {error}"
        ) from error


def _report(directory: Path, plan: Plan, record: dict[str, Any]) -> Report:
    used: dict[str, set[str]] = defaultdict(set)
    for decision in plan.decisions.phases:
        for placement in decision.placements:
            used[placement.job].add(placement.device)
    status = record["status"]
    if status in UNENDED:
        status = "training" if at_work(directory) else "killed"
    phases = record.get("phases", [])
    return Report(
        directory=directory,
        plan=plan,
        status=status,
        message=record["message"],
        predicted_makespan_us=record["predicted_makespan_us"],
        makespan_us=record.get("makespan_us"),
        jobs=tuple(_job(directory, row, tuple(sorted(used[row["job"]]))) for row in record["jobs"]),
        devices=tuple(
            DeviceReport(
                name=row["device"],
                budget_bytes=row["budget_bytes"],
                predicted_peak_bytes=row["predicted_peak_bytes"],
                peak_bytes=row["peak_bytes"],
                compute_us=row["compute_us"],
                load_us=row["load_us"],
                spill_us=row["spill_us"],
            )
            for row in record.get("devices", [])
        ),
        lines=tuple(_lines(plan, phases)),
        steps=tuple(_steps(plan, phases)),
        unwritten=tuple(f"{name}: {why}" for name, why in record["unwritten"].items()),
    )


def _job(directory: Path, row: dict[str, Any], devices: tuple[str, ...]) -> JobReport:
    folder = directory / "weights" / file_name(row["job"])
    saved = folder.is_dir()  # it has its name when it is whole, a moment before the record says so
    return JobReport(
        name=row["job"],
        status="finished" if saved and row["error"] is None else row["status"],
        shards=row["shards"],
        steps=row["steps"],
        trained=row["trained"],
        first_loss=_number(row["first_loss"]),
        last_loss=_number(row["last_loss"]),
        predicted_finish_us=row["predicted_finish_us"],
        finish_us=row["finish_us"],
        error=row["error"],
        notes=tuple(row.get("notes", ())),
        weights=folder if saved else None,
        devices=devices,
    )


def _number(value: float | str | None) -> float | None:
    """Numbers that JSON has none for are strings."""
    return None if value is None else float(value)


SECTIONS = ("prologue", "cycle", "epilogue")


def _lists(plan: Plan, phases: list[dict[str, Any]]) -> Iterator[tuple[int, str, tuple[Step, ...], dict[str, Any]]]:
    """Phase, section, its steps, and what the record says of them; nothing where a run was not timed."""
    for number, (phase, said) in enumerate(zip(plan.phases, phases, strict=True) if phases else ()):
        for section in SECTIONS:
            yield number, section, getattr(phase, section), said[section]


def _lines(plan: Plan, phases: list[dict[str, Any]]) -> Iterator[LineTimes]:
    for phase, section, steps, said in _lists(plan, phases):
        for line, (step, count, busy_us) in enumerate(zip(steps, said["counts"], said["busy_us"], strict=True)):
            if count:
                yield LineTimes(step=step, phase=phase, section=section, line=line, count=count, busy_us=busy_us)


def _steps(plan: Plan, phases: list[dict[str, Any]]) -> Iterator[StepTime]:
    for phase, section, steps, said in _lists(plan, phases):
        iterations = phases[phase]["iterations"] if section == "cycle" else [0]
        for iteration, times in zip(iterations, said["times"], strict=True):
            for line, (step, moments) in enumerate(zip(steps, times, strict=True)):
                if moments is not None:
                    yield StepTime(
                        step=step,
                        phase=phase,
                        section=section,
                        iteration=iteration,
                        line=line,
                        start_us=moments[0],
                        finish_us=moments[1],
                    )


def kinds(report: Report) -> tuple[KindReport, ...]:
    """Predicted and actual busy time by place and kind of step."""
    sites = unroll(report.plan)
    predicted: dict[tuple[int, str, int], int] = {}
    for site, duration_us in zip(sites, Durations(report.plan).of_sites(sites), strict=True):
        predicted.setdefault((site.phase, site.section, site.line), duration_us)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in report.lines:
        row = counts[each.step.device, type(each.step).__name__]
        row[0] += each.count
        row[1] += each.count * predicted[each.phase, each.section, each.line]
        row[2] += each.busy_us
    return tuple(
        KindReport(place=place, op=op, count=row[0], predicted_us=row[1], actual_us=row[2])
        for (place, op), row in sorted(counts.items())
    )
