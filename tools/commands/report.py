"""`hydraplan report`: what a run did, predicted against actual."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hydraplan.plans.language.quantities import format_bytes, format_count, format_duration
from hydraplan.tools.commands.arguments import AsJson
from hydraplan.tools.output import Output, figures, names, text
from hydraplan.tools.planfile import write_text
from hydraplan.tools.run_report import JobReport, Report, kinds, read_report

RunDirectory = Annotated[Path, Parameter(name="RUN", help="a run directory")]
Timeline = Annotated[Path | None, Parameter(help="write the run as a Chrome trace, which Perfetto opens")]


def report(run_directory: RunDirectory, /, *, timeline: Timeline = None, as_json: AsJson = False) -> int:
    """Show a run: losses, predicted and actual times, peaks.

    A timeline has the run as predicted and as it was, side by side.

        $ hydraplan report run --timeline run.trace.json
    """
    output = Output(as_json=as_json)
    read = read_report(run_directory)
    if timeline is not None:
        from hydraplan.tools.timeline import compared_timeline

        write_text(timeline, compared_timeline(read))
        output.progress(f"timeline in {timeline}: open it with Perfetto")
    output.json(report_document(read))
    show(read, output)
    output.end(run_summary(read), f"hydraplan report {read.directory} --timeline {read.directory}/timeline.json")
    return 0


def run_summary(report: Report) -> str:
    """`Run: 3 jobs trained in 20.8 s (predicted 11.8 s, actual / predicted 1.77)`, or how far a run came."""
    failed = [job.name for job in report.jobs if job.error is not None]
    took_us = report.makespan_us
    if report.status != "finished" or took_us is None:
        saved = [job.name for job in report.jobs if job.weights is not None]
        names = f" ({', '.join(saved)})" if saved else ""
        return f"Run: {report.status}; {len(saved)} of {format_count(len(report.jobs), 'job')} finished{names}"
    return (
        f"Run: {format_count(len(report.jobs) - len(failed), 'job')} trained in {format_duration(took_us)} "
        f"(predicted {format_duration(report.predicted_makespan_us)}"
        + (
            f"); {format_count(len(failed), 'job')} failed: {', '.join(failed)}"
            if failed
            else f", actual / predicted {_ratio(took_us, report.predicted_makespan_us)})"
        )
    )


def show(report: Report, output: Output) -> None:
    """The run's tables."""
    if report.message is not None:
        output.line(f"The run broke off: {report.message}")
    for unwritten in report.unwritten:
        output.line(f"not written: {unwritten}")
    for job in report.jobs:
        if job.error is not None:
            output.line(f"{job.name}: {job.error}")
        elif job.last_loss is not None and not math.isfinite(job.last_loss):
            output.line(f"warning: the last loss of {job.name} is {job.last_loss}")
        for note in job.notes:
            output.line(f"{job.name}: {note}")
    rows = [
        (
            job.name,
            f"{job.shards}",
            f"{job.steps}" if job.trained == job.steps else f"{job.trained} of {job.steps}",
            _loss(job.first_loss),
            _loss(job.last_loss),
            format_duration(job.predicted_finish_us),
            format_duration(job.finish_us) if job.finish_us and job.status == "finished" else job.status,
            _peak(report, job),
        )
        for job in report.jobs
    ]
    columns = [
        names("job"),
        *(figures(title) for title in ("shards", "steps", "first loss", "last loss")),
        *(figures(title) for title in ("predicted finish", "actual finish", "peak of its device / budget")),
    ]
    output.table("Jobs", columns, rows)
    _show_kinds(report, output)


def _show_kinds(report: Report, output: Output) -> None:
    """Steps that were done; no ratio where a job failed, since the others ran with less beside them than predicted."""
    failed = any(job.status != "finished" for job in report.jobs)
    rows = [
        (
            kind.place,
            kind.op,
            f"{kind.count}",
            format_duration(kind.predicted_us),
            format_duration(kind.actual_us),
            *(() if failed else (_ratio(kind.actual_us, kind.predicted_us),)),
        )
        for kind in kinds(report)
    ]
    columns = [
        text("place"),
        text("step"),
        *(figures(title) for title in ("count", "predicted", "actual")),
        *(() if failed else (figures("actual / predicted"),)),
    ]
    output.table("Steps", columns, rows)


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _peak(report: Report, job: JobReport) -> str:
    used = [device for device in report.devices if device.name in job.devices]
    if not used:
        return ""
    fullest = max(used, key=lambda device: device.peak_bytes / device.budget_bytes)
    return f"{format_bytes(fullest.peak_bytes)} / {format_bytes(fullest.budget_bytes)}"


def _ratio(actual_us: int, predicted_us: int) -> str:
    return f"{actual_us / predicted_us:.2f}" if predicted_us else "-"


def report_document(report: Report) -> dict[str, object]:
    """The run for programs."""
    return {
        "run": str(report.directory),
        "status": report.status,
        "message": report.message,
        "predicted_makespan_us": report.predicted_makespan_us,
        "makespan_us": report.makespan_us,
        "jobs": [{**asdict(job), "weights": None if job.weights is None else str(job.weights)} for job in report.jobs],
        "devices": [asdict(device) for device in report.devices],
        "steps": [asdict(kind) for kind in kinds(report)],
        "unwritten": list(report.unwritten),
    }
