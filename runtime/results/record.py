"""The run record: predicted against actual, as JSON; losses as CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Step
from hydraplan.runtime.replaying.replay import Span
from hydraplan.runtime.results.result import JobResult, RunResult
from hydraplan.runtime.training import Trained

FORMAT = "hydraplan-run/1"


def write_losses(path: Path, losses: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{step},{loss!r}\n" for step, loss in enumerate(losses))
    path.write_text("step,loss\n" + rows)


def finish_times(plan: Plan, trained: Trained) -> dict[str, int]:
    """Job -> when its last step finished, in microseconds from the start."""
    finish = {job.name: 0 for job in plan.workload.jobs}
    sites = trained.program.flow.sites
    for span in trained.spans:
        job = sites[span.site].step.job
        finish[job] = max(finish[job], microseconds(trained, span.finish_ns))
    return finish


def microseconds(trained: Trained, moment_ns: int) -> int:
    return (moment_ns - trained.started_ns) // 1000


def record(plan: Plan, result: RunResult, trained: Trained) -> dict[str, object]:
    """The run record, ready for JSON."""
    return {
        "format": FORMAT,
        "predicted_makespan_us": result.predicted_makespan_us,
        "makespan_us": result.makespan_us,
        "fingerprints": {each.name: each.value for each in plan.fingerprints},
        "jobs": [_job_row(job, result.directory) for job in result.jobs],
        "devices": [asdict(device) for device in result.devices],
        "buckets": {job: list(buckets) for job, buckets in trained.buckets.items()},
        "failures": {job: failure.details for job, failure in trained.failures.items()},
        "phases": step_times(plan, trained),
    }


def _job_row(job: JobResult, directory: Path) -> dict[str, object]:
    row = asdict(job)
    del row["losses"]  # they have a file of their own
    row["trained"] = len(job.losses)
    row["first_loss"], row["last_loss"] = (job.losses[0], job.losses[-1]) if job.losses else (None, None)
    row["weights"] = None if job.weights is None else str(job.weights.relative_to(directory))
    return row


Times = list[int] | None
"""Start and finish of a step in microseconds; None: a drop, which takes no time, or a step that was not done, since
its job failed there or before."""


def step_times(plan: Plan, trained: Trained) -> list[dict[str, object]]:
    """When every step ran: for each phase and list its lines in order; of cycles one such list per iteration."""
    runs: dict[tuple[int, str, int], list[Times]] = {}
    for number, phase in enumerate(plan.phases):
        runs[number, "prologue", 0] = _no_times(phase.prologue)
        for iteration in range(phase.repeat):
            runs[number, "cycle", iteration] = _no_times(phase.cycle)
        runs[number, "epilogue", 0] = _no_times(phase.epilogue)
    sites = trained.program.flow.sites
    for span in trained.spans:
        site = sites[span.site]
        runs[site.phase, site.section, span.iteration][site.line] = _times(trained, span)
    return [
        {
            "prologue": runs[number, "prologue", 0],
            "cycle": [runs[number, "cycle", iteration] for iteration in range(phase.repeat)],
            "epilogue": runs[number, "epilogue", 0],
        }
        for number, phase in enumerate(plan.phases)
    ]


def _no_times(steps: Sequence[Step]) -> list[Times]:
    return [None] * len(steps)


def _times(trained: Trained, span: Span) -> list[int]:
    return [microseconds(trained, span.start_ns), microseconds(trained, span.finish_ns)]


def write_record(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
