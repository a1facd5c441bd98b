"""From a workload to a plan: the whole way, one pass a line.

    jobs -> study (data, traced graphs)        needs the user's code; the same for every cluster
         -> cuts -> facts -> decisions         cutting.partition, costs.facts, scheduling.schedule
         -> audits                             audits: each graph beside its model
         -> lists -> predictions -> Plan       lists.making, plans.prediction.simulate

Nothing here has a clock or reads an environment: the same input gives the same plan to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch

from hydraplan.planner.audits import When, audits
from hydraplan.planner.cutting.partition import partition
from hydraplan.planner.frontend.models.admit import admit
from hydraplan.planner.frontend.models.fingerprints import drift, graph_drift
from hydraplan.planner.layouts import facts_under
from hydraplan.planner.lists.cycles import make_lists
from hydraplan.planner.processes.collector import collector_paused
from hydraplan.planner.processes.elsewhere import Question
from hydraplan.planner.scheduling.schedule import Scheduled, SolverOptions, schedule
from hydraplan.planner.shortage import needs, refusal_of
from hydraplan.planner.study import Report, Study, firsts, quietly, study
from hydraplan.plans.checking.check import check
from hydraplan.plans.checking.references import replan_findings
from hydraplan.plans.checking.workload import workload_findings
from hydraplan.plans.language.digests import decisions_digest, facts_digest, lists_digest, lists_edited
from hydraplan.plans.language.errors import InfeasibleError, InvalidPlanError, StalePlanError, TraceError, WorkloadError
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Fingerprint, Plan, Predictions
from hydraplan.plans.language.quantities import format_bytes, format_count
from hydraplan.plans.language.workload import HOST, Cluster, Job, Workload
from hydraplan.plans.prediction.simulate import predict, simulate

PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35)
"""Parts of the budgets that cuts are made for, one after the other until there are lists: finer shards fit better."""


@collector_paused()
def plan(
    workload: Workload,
    *,
    solver: SolverOptions | None = None,
    studied: Study | None = None,
    cuts: Mapping[str, tuple[int, ...]] | None = None,
    audit: When = "auto",
    left_out: Callable[[InfeasibleError], None] | None = None,
    report: Report = quietly,
) -> Plan:
    """Plan a workload: trace, cut, cost, schedule, list, predict, audit.

    `studied`: a study of these jobs, made before. `cuts`: job -> cut positions, instead of the planner's own.
    `audit`: whether graphs are held against their models (`planner.audits`). `left_out`: given, jobs that fit no device
    are left out of the plan, and it is called with each one's refusal (`.job`, `.missing_bytes`).
    Raises TraceError, WorkloadError, and InfeasibleError where the cluster cannot hold some job.
    """
    wrong = workload_findings(workload)
    if wrong:
        raise WorkloadError("\n".join(str(finding) for finding in wrong))
    known = studied if studied is not None else study(workload.jobs, report=report)
    options = solver if solver is not None else SolverOptions()
    _check_optimizers(workload.jobs)
    try:
        made = _planned(workload, known, cuts, options, report)
    except InfeasibleError as error:
        refused = {each.job for each in error.each}
        rest = tuple(job for job in workload.jobs if job.name not in refused)
        if left_out is None or not refused or not rest:
            raise
        for each in error.each:
            left_out(each)
        known = study(rest, report=report)
        made = _planned(replace(workload, jobs=rest), known, None, options, report)
    return _audited(made, known, audit, report)


def _planned(
    workload: Workload,
    known: Study,
    cuts: Mapping[str, tuple[int, ...]] | None,
    options: SolverOptions,
    report: Report,
) -> Plan:
    if cuts is not None:
        return _scheduled(workload, known, cuts, options, report)
    for part in PARTS:
        try:
            return _scheduled(workload, known, _cuts(workload, known, report, part), options, report)
        except InfeasibleError as error:
            if error.device == HOST:
                raise
    return _tight(workload, known, options, report)


def _tight(workload: Workload, known: Study, options: SolverOptions, report: Report) -> Plan:
    """A plan in as little memory as each job is known to do with, whatever more there is: so what fits a budget fits
    every larger one. Raises InfeasibleError that names all jobs that need more."""
    found = needs(workload, known, report)
    most = max(device.budget_bytes for device in workload.cluster.devices)
    short = [job for job in workload.jobs if found[job.name].budget_bytes > most]
    if short:
        raise refusal_of(workload, [(job, found[job.name]) for job in short])

    def least(budget_bytes: int) -> int:
        """Enough for each job that fits."""
        held = [need.budget_bytes for need in found.values() if need.budget_bytes <= budget_bytes]
        return max(held, default=budget_bytes)

    devices = tuple(replace(each, budget_bytes=least(each.budget_bytes)) for each in workload.cluster.devices)
    cuts = {job.name: found[job.name].cuts for job in workload.jobs}
    return _scheduled(workload, known, cuts, options, report, within=replace(workload.cluster, devices=devices))


def _audited(made: Plan, known: Study, when: When, report: Report) -> Plan:
    cuts = {each.job: each.cuts for each in made.decisions.cuts}
    return replace(made, audits=audits(made.workload, known, cuts, when, report))


def _scheduled(
    workload: Workload,
    known: Study,
    cuts: Mapping[str, tuple[int, ...]],
    options: SolverOptions,
    report: Report,
    within: Cluster | None = None,
) -> Plan:
    """`within`: the cluster with smaller budgets, which the schedule is held to."""
    facts = facts_under(workload, known, cuts, report)
    scheduled = workload if within is None else replace(workload, cluster=within)
    report(
        f"schedule {format_count(len(workload.jobs), 'job')} on {format_count(len(workload.cluster.devices), 'device')}"
    )
    return _complete(workload, facts, schedule(scheduled, facts, cuts, options), known.fingerprints)


def replan(
    edited: Plan,
    *,
    discard_edited_lists: bool = False,
    allow: Collection[str] = (),
    audit: When = "auto",
    report: Report = quietly,
) -> Plan:
    """New lists and predictions for decisions that were edited by hand; the decisions stay as they are.

    `allow`: as for `runtime.execute`; `audit`: as for `plan`.
    Raises WorkloadError where lists were edited too and must not be discarded, or cuts are none that the graph allows;
    StalePlanError where the user's code or libraries have changed since the plan was made; InvalidPlanError where
    decisions contradict the workload, or the plan names what it may not call; InfeasibleError where they do not fit.
    """
    wrong = replan_findings(edited)
    if wrong:
        raise InvalidPlanError(wrong)
    if lists_edited(edited) and not discard_edited_lists:
        raise WorkloadError(
            "the plan's lists were edited by hand and new lists would discard that; "
            "plan with --discard-edited-lists, or keep the decisions as they were"
        )
    admit(edited.workload.jobs, edited.fingerprints, allow)
    known = study(edited.workload.jobs, report=report)
    stale = list(drift(edited.fingerprints, known.fingerprints))
    for facts in edited.facts.jobs:
        stale += graph_drift(edited.facts, facts.job, known.facts_of(facts.job).digest)
    if stale:
        raise StalePlanError(stale)
    cuts = {each.job: each.cuts for each in edited.decisions.cuts}
    _refuse_bad_cuts(known, cuts)
    facts_now = facts_under(edited.workload, known, cuts, report)
    record = replace(edited.solver, name="edited", status="decisions edited by hand")
    with collector_paused():
        phases = make_lists(edited.workload, facts_now, edited.decisions)
        scheduled = Scheduled(edited.decisions, phases, record, None)
        made = _complete(edited.workload, facts_now, scheduled, known.fingerprints)
        return _audited(made, known, audit, report)


def _check_optimizers(jobs: Sequence[Job]) -> None:
    """Raises WorkloadError where torch refuses an optimizer's arguments."""
    for job in jobs:
        try:
            getattr(torch.optim, job.optimizer.path)(
                [torch.zeros(1, requires_grad=True)], **dict(job.optimizer.arguments)
            )
        except (TypeError, ValueError) as error:
            raise WorkloadError(f"job {job.name}: optimizer {job.optimizer.path}: {error}") from None


def _cuts(workload: Workload, known: Study, report: Report, part: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Cuts of each job; jobs that share graph, microbatches and optimizer state share them.

    `part`: of the budgets that the cuts are made for.
    """
    cluster = workload.cluster
    smaller = tuple(replace(each, budget_bytes=int(part * each.budget_bytes)) for each in cluster.devices)
    cluster = replace(cluster, devices=smaller)

    def cause_of(job: Job) -> tuple[str, int, int]:
        return (known.graph_of[job.name], job.microbatches, state_of(job.optimizer, job.precision).copies)

    asked = firsts(workload.jobs, cause_of)
    questions = [
        (graph, Question(f"cut {job.name}", partition, dict(cluster=cluster, microbatches=parts, state_copies=copies)))
        for (graph, parts, copies), job in asked.items()
    ]
    found = {}
    for (cause, job), outcome in zip(asked.items(), known.answers(questions, report), strict=True):
        try:
            found[cause] = outcome.result()
        except InfeasibleError as error:
            raise InfeasibleError(
                f"{job.name}: {error}",
                device=error.device,
                missing_bytes=error.missing_bytes,
                job=job.name,
                largest=error.largest,
            ) from None
        except TraceError as error:
            raise TraceError(f"job {job.name}: {error}") from error
    return {job.name: found[cause_of(job)] for job in workload.jobs}


def _check_host(workload: Workload, needed_bytes: int) -> None:
    """Raises InfeasibleError where the host has less memory."""
    missing = needed_bytes - workload.cluster.host_memory_bytes
    if missing > 0:
        raise InfeasibleError(
            f"the host has {format_bytes(workload.cluster.host_memory_bytes)}, {format_bytes(missing)} short of the "
            f"{needed_bytes} bytes that parameters and optimizer state of all jobs need there, with what waits between "
            "devices and the largest model while it is built; train fewer jobs, or give the host more memory",
            device=HOST,
            missing_bytes=missing,
        )


def _refuse_bad_cuts(known: Study, cuts: Mapping[str, tuple[int, ...]]) -> None:
    for job, positions in cuts.items():
        graph_positions = known.facts_of(job).cut_positions
        allowed = set(graph_positions)
        wrong = [position for position in positions if position not in allowed]
        if wrong or list(positions) != sorted(set(positions)):
            nearest = [_nearest(position, graph_positions) for position in wrong]
            raise WorkloadError(
                f"cuts of {job}: {list(positions)} must ascend and be allowed positions; "
                + (f"not allowed: {wrong}, the nearest allowed are {nearest}" if wrong else "put them in order")
            )


def _nearest(position: int, allowed: tuple[int, ...]) -> int | None:
    """The allowed position closest to one; None: the graph cannot be cut at all."""
    return min(allowed, key=lambda each: (abs(each - position), each), default=None)


def _complete(
    workload: Workload,
    facts: Facts,
    scheduled: Scheduled,
    made_from: tuple[Fingerprint, ...],
) -> Plan:
    unpredicted = Plan(
        workload=workload,
        facts=facts,
        facts_digest=facts_digest(facts),
        decisions=scheduled.decisions,
        lists_from=decisions_digest(scheduled.decisions),
        lists_digest=lists_digest(scheduled.lists),
        phases=scheduled.lists,
        predictions=Predictions(
            makespan_us=0,
            lower_bound_us=0,
            gap=0.0,
            host_peak_bytes=0,
            host_update_us=0,
            devices=(),
            jobs=(),
        ),
        solver=scheduled.record,
        fingerprints=made_from,
    )
    simulation = simulate(unpredicted) if scheduled.simulation is None else scheduled.simulation
    complete = replace(unpredicted, predictions=predict(unpredicted, simulation))
    _check_host(workload, complete.predictions.host_peak_bytes)
    findings = check(complete, simulation=simulation)
    if findings:
        raise InvalidPlanError(findings)
    return complete


__all__ = ["Report", "Study", "plan", "replan", "study"]
