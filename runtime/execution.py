"""Execute a plan: verify it, train what it says and nothing else, leave a run directory.

plan -> check -> prepare (models, data, drift) -> train (replay), and keep what is trained as it is trained
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from hydraplan.planner.frontend.users.usercode import said
from hydraplan.plans.checking.check import check
from hydraplan.plans.language.digests import lists_edited
from hydraplan.plans.language.errors import InvalidPlanError, RunError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.prediction.simulate import predict
from hydraplan.runtime.devices.room import refuse_without_room
from hydraplan.runtime.files import Disk
from hydraplan.runtime.memory.shortage import memory_for
from hydraplan.runtime.memory.store import HostStore
from hydraplan.runtime.prepare import prepare
from hydraplan.runtime.progress import GuardedProgress, NoProgress, Progress
from hydraplan.runtime.replaying.replay import ComputeContext
from hydraplan.runtime.results.directory import RunDirectory, refuse_existing
from hydraplan.runtime.results.keeper import Keeper
from hydraplan.runtime.results.record import device_results, finish_times
from hydraplan.runtime.results.result import DeviceResult, JobResult, RunResult
from hydraplan.runtime.training import Training, host_backing, no_context, open_devices


def execute(
    plan: Plan,
    directory: Path | str,
    *,
    progress: Progress | None = None,
    allow: Collection[str] = (),
    audit: bool = False,
    compute_context: ComputeContext = no_context,
    disk: Disk | None = None,
) -> RunResult:
    """Train all jobs of a plan; what is trained is in the run directory as soon as it is (`runtime.results`).

    `allow`: targets (`package.module:callable`) that the plan may call although they are neither in the working
    directory nor installed with a version that the plan names.

    `audit`: train two steps of each graph that the plan has not audited beside its model first, to the bit.

    Jobs that fail are in the result (`RunResult.failed`), and so are files that could not be written; the others go on.
    Raises InvalidPlanError, StalePlanError, RunError, and TraceError and WorkloadError of the user's code, before
    anything trains, and leaves nothing behind then. Afterwards RunError where the run breaks off as a whole, and
    KeyboardInterrupt where it is interrupted: at the end of the steps that are at work, or at once by a second
    interrupt, which may leave a thread behind (Abandoned). What has finished stays then, and the record says so.

    `disk`: what all writes go through.
    """
    directory = Path(directory)
    shown = GuardedProgress(NoProgress() if progress is None else progress)
    findings = check(plan)
    if findings:
        raise InvalidPlanError(findings)
    if lists_edited(plan):  # then the file's predictions are of other lists
        plan = replace(plan, predictions=predict(plan))
    refuse_existing(directory)
    refuse_without_room(plan.workload.cluster)
    for device in open_devices(plan.workload.cluster).values():
        device.close()
    run = RunDirectory(directory, Disk() if disk is None else disk)
    try:
        store = HostStore(host_backing(plan.workload.cluster).host_memory)
        keeper = Keeper(plan, run, store, shown)
        with memory_for("the models of this plan and the memory of its devices"):
            prepared = prepare(plan, store, allow, audit=audit)
            training = Training(
                plan,
                graphs=prepared.graphs,
                sources=prepared.data,
                store=store,
                watch=keeper,
                compute_context=compute_context,
            )
    except BaseException:
        run.discard()
        raise
    try:
        with keeper.train_with(training.so_far):
            training.run()
    except Exception as error:
        raise RunError(f"the run broke off: {said(error)}; {_kept(keeper, directory)}") from error
    finally:
        run.close()
    return _result(plan, keeper, directory)


def _kept(keeper: Keeper, directory: Path) -> str:
    saved = [name for name, job in keeper.jobs.items() if job.saved]
    weights = f"the weights of {', '.join(saved)}" if saved else "no weights, as no job had finished"
    return f"{directory} has the losses of all jobs, and {weights}"


def _result(plan: Plan, keeper: Keeper, directory: Path) -> RunResult:
    trained = keeper.trained
    if trained is None:
        raise RunError(f"what was timed is lost: {keeper.unwritten}; {_kept(keeper, directory)}")
    finish = finish_times(plan, trained)
    return RunResult(
        directory=directory,
        predicted_makespan_us=plan.predictions.makespan_us,
        makespan_us=max(finish.values(), default=0),
        jobs=tuple(
            JobResult(
                job=name,
                shards=job.shards,
                steps=job.job.steps,
                losses=trained.losses[name],
                predicted_finish_us=job.predicted_finish_us,
                finish_us=finish[name],
                error=job.error,
                weights=directory / job.folder if job.saved else None,
                notes=job.notes,
                buckets=trained.buckets.get(name, ()),
            )
            for name, job in keeper.jobs.items()
        ),
        devices=device_results(plan, trained),
        unwritten=dict(keeper.unwritten),
    )


__all__ = ["DeviceResult", "JobResult", "RunResult", "execute"]
