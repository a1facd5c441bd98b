"""From a workload to a plan: the whole way, one pass a line.

    jobs -> study (data, traced graphs)        needs the user's code; the same for every cluster
         -> cuts -> facts -> decisions         planner.partition, planner.facts, planner.schedule
         -> lists -> predictions -> Plan       planner.lists, plans.simulate

Nothing here has a clock or reads an environment: the same input gives the same plan to the byte.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from planner.cycles import make_lists
from planner.facts import graph_facts, layout_facts
from planner.frontend.build import same_graph_cause
from planner.frontend.data import JobData, MapDataset, open_data
from planner.frontend.fingerprints import drift, fingerprints, graph_drift
from planner.frontend.trace import trace
from planner.frontend.traced import TracedGraph
from planner.instance import holds
from planner.partition import partition
from planner.schedule import Scheduled, SolverOptions, schedule
from plans.check import check
from plans.digests import decisions_digest, facts_digest, lists_digest, lists_edited
from plans.errors import InfeasibleError, InvalidPlanError, StalePlanError, TraceError, WorkloadError
from plans.facts import Facts, Graph, JobFacts, Layout
from plans.optimizer import state_of
from plans.plan import Fingerprint, Plan, Predictions
from plans.quantities import format_bytes, format_count
from plans.simulate import predict, simulate
from plans.workload import HOST, Job, Target, Workload

Report = Callable[[str], None]
"""Called with a line on what is being done now; for people, on stderr."""
PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35)
"""Parts of the budgets that cuts are made for, one after the other until there are lists: finer shards fit better."""
BUDGET_STEP = 16
"""Part of a budget by which it is raised in search of one that would do."""
MOST_BUDGETS = 24


def quietly(line: str) -> None:
    """The report of what nobody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What planning learns from the user's code, for any cluster."""

    jobs: tuple[Job, ...]
    graphs: Mapping[str, TracedGraph]
    """Graph name -> traced graph; structurally equal ones once."""
    graph_of: Mapping[str, str]
    """Job -> graph name."""
    fingerprints: tuple[Fingerprint, ...]
    notices: tuple[str, ...]
    """What the user should know of the data, such as items that are dropped."""


def study(jobs: Sequence[Job], *, report: Report = quietly) -> Study:
    """Open the jobs' data and trace their models, equal ones once. Raises TraceError and WorkloadError."""
    data = _open_all(jobs)
    graphs: dict[str, TracedGraph] = {}
    graph_of: dict[str, str] = {}
    names: dict[str, str] = {}
    traced: dict[object, str] = {}
    for job in jobs:
        batch = data[job.name].microbatch(0, 0)
        cause = same_graph_cause(job, batch)
        if cause not in traced:
            report(f"trace {job.name}")
            with collector_paused():
                graph = trace(job, batch)
            name = names.setdefault(graph.digest, f"{job.model.path.split(':')[-1]}-{len(names) + 1}")
            if name not in graphs or graphs[name].construction_bytes < graph.construction_bytes:
                graphs[name] = graph
            traced[cause] = name
        graph_of[job.name] = traced[cause]
    notices = tuple(dict.fromkeys(each.dropped for each in data.values() if each.dropped is not None))
    return Study(
        jobs=tuple(jobs),
        graphs=graphs,
        graph_of=graph_of,
        fingerprints=fingerprints(jobs, data),
        notices=notices,
    )


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the collector of cyclic garbage: graphs, schedules and lists are millions of small objects, nearly all
    without cycles, which it would walk again and again (nearly half of the time of planning)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@collector_paused()
def plan(
    workload: Workload,
    *,
    solver: SolverOptions | None = None,
    studied: Study | None = None,
    cuts: Mapping[str, tuple[int, ...]] | None = None,
    report: Report = quietly,
) -> Plan:
    """Plan a workload: trace, cut, cost, schedule, list, predict.

    `studied`: a study of these jobs, made before. `cuts`: job -> cut positions, instead of the planner's own.
    Raises TraceError, WorkloadError, and InfeasibleError where the cluster cannot hold some job.
    """
    known = studied if studied is not None else study(workload.jobs, report=report)
    options = solver if solver is not None else SolverOptions()
    _check_optimizers(workload.jobs)
    if cuts is not None:
        return _scheduled(workload, known, cuts, options, report)
    refusals = []
    for part in PARTS:
        try:
            return _scheduled(workload, known, _cuts(workload, known, report, part), options, report)
        except InfeasibleError as error:
            if error.job is None:
                raise
            refusals.append(error)
    largest = next((each.largest for each in refusals if each.largest), "")
    raise _named(workload, known, min(refusals, key=lambda error: error.missing_bytes), largest)


def _scheduled(
    workload: Workload, known: Study, cuts: Mapping[str, tuple[int, ...]], options: SolverOptions, report: Report
) -> Plan:
    facts = _facts(workload, known, cuts, report)
    report(
        f"schedule {format_count(len(workload.jobs), 'job')} on {format_count(len(workload.cluster.devices), 'device')}"
    )
    return _complete(workload, facts, schedule(workload, facts, cuts, options), known.fingerprints)


def replan(edited: Plan, *, discard_edited_lists: bool = False, report: Report = quietly) -> Plan:
    """New lists and predictions for decisions that were edited by hand; the decisions stay as they are.

    Raises WorkloadError where lists were edited too and must not be discarded, or cuts are none that the graph allows;
    StalePlanError where the user's code or libraries have changed since the plan was made; InvalidPlanError where
    decisions contradict the workload; InfeasibleError where they do not fit.
    """
    if lists_edited(edited) and not discard_edited_lists:
        raise WorkloadError(
            "the plan's lists were edited by hand and new lists would discard that; "
            "plan with --discard-edited-lists, or keep the decisions as they were"
        )
    known = study(edited.workload.jobs, report=report)
    stale = list(drift(edited.fingerprints, known.fingerprints))
    for facts in edited.facts.jobs:
        stale += graph_drift(edited.facts, facts.job, known.graphs[known.graph_of[facts.job]].digest)
    if stale:
        raise StalePlanError(stale)
    cuts = {each.job: each.cuts for each in edited.decisions.cuts}
    _refuse_bad_cuts(known, cuts)
    facts_now = _facts(edited.workload, known, cuts, report)
    record = replace(edited.solver, name="edited", status="decisions edited by hand")
    with collector_paused():
        phases = make_lists(edited.workload, facts_now, edited.decisions)
        scheduled = Scheduled(edited.decisions, phases, record, None)
        return _complete(edited.workload, facts_now, scheduled, known.fingerprints)


def _open_all(jobs: Sequence[Job]) -> dict[str, JobData]:
    """Data sets that several jobs name alike are made once: planning only looks at some items."""
    opened: dict[Target, MapDataset] = {}
    return {job.name: open_data(job, opened) for job in jobs}


def _named(workload: Workload, known: Study, refusal: InfeasibleError, largest: str) -> InfeasibleError:
    """A refusal of a job that names a budget with which it was found to fit; `largest`: what stands in the way."""
    device = next(each for each in workload.cluster.devices if each.name == refusal.device)
    job = next(each for each in workload.jobs if each.name == refusal.job)
    enough = device.budget_bytes + max(1, refusal.missing_bytes)
    for _ in range(MOST_BUDGETS):
        larger = replace(device, budget_bytes=enough)
        alone = replace(workload, cluster=replace(workload.cluster, devices=(larger,)), jobs=(job,))
        if _fits_alone(alone, known):
            missing = enough - device.budget_bytes
            return InfeasibleError(
                f"{job.name} fits no device: {device.name} has {format_bytes(device.budget_bytes)}, "
                f"{format_bytes(missing)} short of the {enough} bytes with which it can be planned; "
                "raise the budget, or use more microbatches" + (f" ({largest})" if largest else ""),
                device=device.name,
                missing_bytes=missing,
                job=job.name,
            )
        enough += enough // BUDGET_STEP + 1
    return refusal


def _fits_alone(workload: Workload, known: Study) -> bool:
    (job,), (device,) = workload.jobs, workload.cluster.devices
    for part in PARTS:
        try:
            cuts = _cuts(workload, known, quietly, part)
        except InfeasibleError:
            continue
        facts = _facts(workload, known, cuts, quietly)
        if holds(workload, facts, facts.layouts[0], job, device):
            return True
    return False


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
    found: dict[tuple[str, int, int], tuple[int, ...]] = {}
    cuts = {}
    for job in workload.jobs:
        cause = (known.graph_of[job.name], job.microbatches, state_of(job.optimizer, job.precision).copies)
        if cause not in found:
            report(f"cut {job.name}")
            try:
                found[cause] = partition(
                    known.graphs[cause[0]], cluster, microbatches=job.microbatches, state_copies=cause[2]
                )
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
        cuts[job.name] = found[cause]
    return cuts


def _facts(workload: Workload, known: Study, cuts: Mapping[str, tuple[int, ...]], report: Report) -> Facts:
    layouts: dict[tuple[str, tuple[int, ...]], Layout] = {}
    for job in workload.jobs:
        cause = (known.graph_of[job.name], cuts[job.name])
        if cause not in layouts:
            report(f"cost the {len(cause[1]) + 1} shards of {job.name}")
            layouts[cause] = layout_facts(known.graphs[cause[0]], cause[0], cause[1], workload.cluster.profiles)
    graphs: tuple[Graph, ...] = tuple(graph_facts(graph, name) for name, graph in known.graphs.items())
    jobs = tuple(
        JobFacts(
            job=job.name,
            graph=known.graph_of[job.name],
            state_copies=state_of(job.optimizer, job.precision).copies,
        )
        for job in workload.jobs
    )
    return Facts(graphs=graphs, layouts=tuple(layouts.values()), jobs=jobs)


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
        graph_positions = known.graphs[known.graph_of[job]].cut_positions
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
