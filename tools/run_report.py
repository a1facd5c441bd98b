"""What a run directory says: per job losses and times, per device memory, per kind of step predicted against actual."""

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

FORMAT = "hydraplan-run/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    name: str
    shards: int
    steps: int
    trained: int
    """Steps whose loss is known."""
    first_loss: float | None
    last_loss: float | None
    predicted_finish_us: int
    finish_us: int
    error: str | None
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
class Report:
    directory: Path
    plan: Plan
    predicted_makespan_us: int
    makespan_us: int
    jobs: tuple[JobReport, ...]
    devices: tuple[DeviceReport, ...]
    steps: tuple[StepTime, ...]


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
    except (KeyError, TypeError, ValueError) as error:
        raise WorkloadError(
            f"{directory / 'record.json'} was changed since the run: {type(error).__name__}: {error}"
        ) from error


def _report(directory: Path, plan: Plan, record: dict[str, Any]) -> Report:
    used: dict[str, set[str]] = defaultdict(set)
    for decision in plan.decisions.phases:
        for placement in decision.placements:
            used[placement.job].add(placement.device)
    return Report(
        directory=directory,
        plan=plan,
        predicted_makespan_us=record["predicted_makespan_us"],
        makespan_us=record["makespan_us"],
        jobs=tuple(
            JobReport(
                name=row["job"],
                shards=row["shards"],
                steps=row["steps"],
                trained=row["trained"],
                first_loss=row["first_loss"],
                last_loss=row["last_loss"],
                predicted_finish_us=row["predicted_finish_us"],
                finish_us=row["finish_us"],
                error=row["error"],
                devices=tuple(sorted(used[row["job"]])),
            )
            for row in record["jobs"]
        ),
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
            for row in record["devices"]
        ),
        steps=tuple(_steps(plan, record["phases"])),
    )


def _steps(plan: Plan, phases: list[dict[str, Any]]) -> Iterator[StepTime]:
    for number, (phase, times) in enumerate(zip(plan.phases, phases, strict=True)):
        yield from _list(phase.prologue, times["prologue"], number, "prologue", 0)
        for iteration, cycle in enumerate(times["cycle"]):
            yield from _list(phase.cycle, cycle, number, "cycle", iteration)
        yield from _list(phase.epilogue, times["epilogue"], number, "epilogue", 0)


def _list(
    steps: tuple[Step, ...], times: list[list[int] | None], phase: int, section: str, iteration: int
) -> Iterator[StepTime]:
    for line, (step, time) in enumerate(zip(steps, times, strict=True)):
        if time is not None:
            yield StepTime(
                step=step,
                phase=phase,
                section=section,
                iteration=iteration,
                line=line,
                start_us=time[0],
                finish_us=time[1],
            )


def kinds(report: Report) -> tuple[KindReport, ...]:
    """Predicted and actual busy time by place and kind of step."""
    sites = unroll(report.plan)
    predicted: dict[tuple[int, str, int], int] = {}
    for site, duration_us in zip(sites, Durations(report.plan).of_sites(sites), strict=True):
        predicted.setdefault((site.phase, site.section, site.line), duration_us)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in report.steps:
        row = counts[each.step.device, type(each.step).__name__]
        row[0] += 1
        row[1] += predicted[each.phase, each.section, each.line]
        row[2] += each.finish_us - each.start_us
    return tuple(
        KindReport(place=place, op=op, count=row[0], predicted_us=row[1], actual_us=row[2])
        for (place, op), row in sorted(counts.items())
    )
