"""The run record: how far each job came, and predicted against actual, as JSON.

It is replaced whole while the run goes on, short then; what was timed and counted is added at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from hydraplan.plans.analysis.flow import layouts_of
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Step
from hydraplan.plans.language.workload import Device, Job
from hydraplan.runtime.replaying.times import StepTimes
from hydraplan.runtime.results.directory import file_name
from hydraplan.runtime.results.result import DeviceResult
from hydraplan.runtime.training import Trained, busy_us

FORMAT = "hydraplan-run/2"

RunStatus = Literal["preparing", "training", "finished", "interrupted", "failed"]
JobStatus = Literal["waiting", "training", "finished", "failed"]


@dataclass(slots=True, kw_only=True)
class Progressed:
    """How far a job came."""

    job: Job
    shards: int
    predicted_finish_us: int
    status: JobStatus = "waiting"
    trained: int = 0
    """Training steps whose loss is known, from the first on."""
    first_loss: float | None = None
    last_loss: float | None = None
    error: str | None = None
    saved: bool = False
    """Whether its weights are in their place."""
    notes: tuple[str, ...] = ()
    """What has to be told of them."""

    @property
    def folder(self) -> str:
        """Of its weights, within the run directory."""
        return f"weights/{file_name(self.job.name)}"

    @staticmethod
    def of(plan: Plan) -> dict[str, Progressed]:
        """By job, before anything is trained."""
        predicted = {job.job: job.finish_us for job in plan.predictions.jobs}
        layouts = layouts_of(plan)
        return {
            job.name: Progressed(
                job=job, shards=len(layouts[job.name].shards), predicted_finish_us=predicted.get(job.name, 0)
            )
            for job in plan.workload.jobs
        }


def document(
    plan: Plan,
    status: RunStatus,
    message: str | None,
    jobs: Sequence[Progressed],
    unwritten: Mapping[str, str],
    trained: Trained | None = None,
) -> dict[str, object]:
    """The record, for JSON. `unwritten`: files that could not be written, and why. `trained`: once all is over."""
    finish = {} if trained is None else finish_times(plan, trained)
    found: dict[str, object] = {
        "format": FORMAT,
        "status": status,
        "message": message,
        "predicted_makespan_us": plan.predictions.makespan_us,
        "fingerprints": {each.name: each.value for each in plan.fingerprints},
        "jobs": [_job_row(job, finish.get(job.job.name)) for job in jobs],
        "unwritten": dict(unwritten),
    }
    if trained is None:
        return found
    return found | {
        "makespan_us": max(finish.values(), default=0),
        "devices": [asdict(device) for device in device_results(plan, trained)],
        "buckets": {job: dict(sorted(Counter(buckets).items())) for job, buckets in trained.buckets.items()},
        "failures": {job: failure.details for job, failure in trained.failures.items()},
        "phases": step_times(plan, trained),
    }


def _job_row(job: Progressed, finish_us: int | None) -> dict[str, object]:
    return {
        "job": job.job.name,
        "status": job.status,
        "shards": job.shards,
        "steps": job.job.steps,
        "trained": job.trained,
        "first_loss": job.first_loss,
        "last_loss": job.last_loss,
        "predicted_finish_us": job.predicted_finish_us,
        "finish_us": finish_us,
        "error": job.error,
        "weights": job.folder if job.saved else None,
        "notes": list(job.notes),
    }


def finish_times(plan: Plan, trained: Trained) -> dict[str, int]:
    """Job -> when its last step finished, in microseconds from the start."""
    finish = {job.name: 0 for job in plan.workload.jobs}
    for site, last_ns in zip(trained.program.flow.sites, trained.times.last_ns, strict=True):
        if last_ns:
            finish[site.step.job] = max(finish[site.step.job], microseconds(trained, last_ns))
    return finish


def microseconds(trained: Trained, moment_ns: int) -> int:
    return (moment_ns - trained.started_ns) // 1000


def device_results(plan: Plan, trained: Trained) -> tuple[DeviceResult, ...]:
    peaks = {device.device: device.peak_bytes for device in plan.predictions.devices}
    busy = busy_us(trained)

    def result(device: Device) -> DeviceResult:
        used = trained.devices[device.name]
        return DeviceResult(
            device=device.name,
            budget_bytes=device.budget_bytes,
            predicted_peak_bytes=peaks.get(device.name, 0),
            arena_bytes=used.arena_bytes,
            kept_bytes=used.kept_bytes,
            peak_bytes=used.peak_bytes,
            compute_us=busy.get((device.name, "compute"), 0),
            load_us=busy.get((device.name, "load"), 0),
            spill_us=busy.get((device.name, "spill"), 0),
        )

    return tuple(result(device) for device in plan.workload.cluster.devices)


Times = list[int] | None
"""Start and finish of a step in microseconds; None: a drop, which takes no time, or a step that was not done, since
its job failed there or before, or the run ended."""


def step_times(plan: Plan, trained: Trained) -> list[dict[str, object]]:
    """When steps ran, by phase and list, line by line: `counts` and `busy_us` of all iterations, and `times` of each
    step of those iterations that `iterations` names (of prologue and epilogue there is one)."""
    times = trained.times
    sums = {(number, section): _Lines(steps) for number, section, steps in _lists(plan)}
    for number, site in enumerate(trained.program.flow.sites):
        sums[site.phase, site.section].add(site.line, times, number)
    rows: dict[tuple[int, str, int], list[Times]] = {}
    for number, section, steps in _lists(plan):
        for iteration in times.iterations(number) if section == "cycle" else (0,):
            rows[number, section, iteration] = [None] * len(steps)
    sites = trained.program.flow.sites
    for span in times.spans():
        site = sites[span.site]
        moments = [microseconds(trained, span.start_ns), microseconds(trained, span.finish_ns)]
        rows[site.phase, site.section, span.iteration][site.line] = moments
    found: list[dict[str, object]] = [{"iterations": list(times.iterations(n))} for n in range(len(plan.phases))]
    for number, section, _ in _lists(plan):
        iterations = times.iterations(number) if section == "cycle" else (0,)
        found[number][section] = {
            "counts": sums[number, section].counts,
            "busy_us": [spent_ns // 1000 for spent_ns in sums[number, section].total_ns],
            "times": [rows[number, section, iteration] for iteration in iterations],
        }
    return found


class _Lines:
    """Sums by line of a list, over both copies of a cycle in the flow."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.counts = [0] * len(steps)
        self.total_ns = [0] * len(steps)

    def add(self, line: int, times: StepTimes, site: int) -> None:
        self.counts[line] += times.counts[site]
        self.total_ns[line] += times.total_ns[site]


def _lists(plan: Plan) -> list[tuple[int, str, tuple[Step, ...]]]:
    return [
        (number, section, steps)
        for number, phase in enumerate(plan.phases)
        for section, steps in (("prologue", phase.prologue), ("cycle", phase.cycle), ("epilogue", phase.epilogue))
    ]
