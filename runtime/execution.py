"""Execute a plan: verify it, train what it says and nothing else, leave a run directory.

plan -> check -> prepare (models, data, drift) -> train (replay) -> weights, losses, record
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from hydraplan.plans.analysis.flow import layouts_of
from hydraplan.plans.checking.check import check
from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.digests import lists_edited
from hydraplan.plans.language.errors import InvalidPlanError, RunError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.prediction.simulate import predict
from hydraplan.runtime.memory.store import HostStore
from hydraplan.runtime.prepare import prepare
from hydraplan.runtime.progress import GuardedProgress, NoProgress, Progress
from hydraplan.runtime.replaying.replay import ComputeContext
from hydraplan.runtime.results.directory import file_name, new_directory, publish, refuse_existing
from hydraplan.runtime.results.record import finish_times, record, write_losses, write_record
from hydraplan.runtime.results.result import DeviceResult, JobResult, RunResult
from hydraplan.runtime.results.weights import write_weights
from hydraplan.runtime.training import Trained, busy_us, host_backing, no_context, open_devices, train


def execute(
    plan: Plan,
    directory: Path | str,
    *,
    progress: Progress | None = None,
    allow: Collection[str] = (),
    compute_context: ComputeContext = no_context,
) -> RunResult:
    """Train all jobs of a plan and write the run directory.

    `allow`: targets (`package.module:callable`) that the plan may call although they are neither in the working
    directory nor installed with a version that the plan names.

    Jobs that fail are in the result (`RunResult.failed`); the others finish.
    Raises InvalidPlanError, StalePlanError, RunError, and TraceError and WorkloadError of the user's code, before
    anything trains; afterwards RunError where results cannot be written (what there is stays).
    """
    directory = Path(directory)
    shown = GuardedProgress(NoProgress() if progress is None else progress)
    findings = check(plan)
    if findings:
        raise InvalidPlanError(findings)
    if lists_edited(plan):  # then the file's predictions are of other lists
        plan = replace(plan, predictions=predict(plan))
    refuse_existing(directory)
    for device in open_devices(plan.workload.cluster).values():
        device.close()
    store = HostStore(host_backing(plan.workload.cluster).host_memory)
    prepared = prepare(plan, store, allow)
    with new_directory(directory) as aside:
        shown.begin({job.name: job.steps for job in plan.workload.jobs})
        try:
            trained = train(
                plan,
                graphs=prepared.graphs,
                sources=prepared.data,
                store=store,
                progress=shown,
                compute_context=compute_context,
            )
        finally:
            shown.end()
    with publish(aside, directory):
        return _write(aside, plan, trained, store, _result(plan, trained, directory))


def _result(plan: Plan, trained: Trained, directory: Path) -> RunResult:
    finish = finish_times(plan, trained)
    predicted = {job.job: job.finish_us for job in plan.predictions.jobs}
    peaks = {device.device: device.peak_bytes for device in plan.predictions.devices}
    busy = busy_us(trained)
    shards = {job: len(layout.shards) for job, layout in layouts_of(plan).items()}
    return RunResult(
        directory=directory,
        predicted_makespan_us=plan.predictions.makespan_us,
        makespan_us=max(finish.values(), default=0),
        jobs=tuple(
            JobResult(
                job=job.name,
                shards=shards[job.name],
                steps=job.steps,
                losses=trained.losses[job.name],
                predicted_finish_us=predicted[job.name],
                finish_us=finish[job.name],
                error=trained.failures[job.name].message if job.name in trained.failures else None,
                weights=None if job.name in trained.failures else directory / "weights" / file_name(job.name),
            )
            for job in plan.workload.jobs
        ),
        devices=tuple(
            DeviceResult(
                device=device.name,
                budget_bytes=device.budget_bytes,
                predicted_peak_bytes=peaks[device.name],
                arena_bytes=trained.devices[device.name].arena_bytes,
                kept_bytes=trained.devices[device.name].kept_bytes,
                peak_bytes=trained.devices[device.name].peak_bytes,
                compute_us=busy.get((device.name, "compute"), 0),
                load_us=busy.get((device.name, "load"), 0),
                spill_us=busy.get((device.name, "spill"), 0),
            )
            for device in plan.workload.cluster.devices
        ),
    )


def _write(aside: Path, plan: Plan, trained: Trained, store: HostStore, result: RunResult) -> RunResult:
    """Returns the result as it stands then: a job whose weights cannot be written has failed, the others have not."""
    (aside / "plan.json").write_text(dumps(plan))
    jobs = []
    for job, done in zip(plan.workload.jobs, result.jobs, strict=True):
        write_losses(aside / "losses" / f"{file_name(job.name)}.csv", done.losses)
        if done.weights is not None:
            try:
                write_weights(aside / "weights" / file_name(job.name), job, store)
            except (OSError, SafetensorError) as error:
                done = replace(done, weights=None, error=f"its weights could not be written: {error}")
            except RunError as error:
                done = replace(done, error=str(error))
        jobs.append(done)
    result = replace(result, jobs=tuple(jobs))
    write_record(aside / "record.json", record(plan, result, trained))
    return result


__all__ = ["DeviceResult", "JobResult", "RunResult", "execute"]
