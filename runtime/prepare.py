"""Before anything trains: open the data, build each real model once, hold both against the plan, fill the store.

    what may be imported -> code that has changed -> what may be called       (nothing of the user's code has run yet)
    data sets -> fingerprints -> drift?
    job by job: build -> trace -> digest -> drift?  -> shard -> sizes, costs in memory -> drift?  -> host store -> free

Models are built one at a time; all that has drifted is reported at once, and nothing has trained then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

from hydraplan.planner.costs.facts import layout_facts
from hydraplan.planner.frontend.auditing.audit import audit as audit_graph
from hydraplan.planner.frontend.auditing.audit import batches_of, refusal
from hydraplan.planner.frontend.models.admit import admit
from hydraplan.planner.frontend.models.fingerprints import drift, fingerprints, graph_drift, stale
from hydraplan.planner.frontend.shards.build import Known, build, same_graph_cause
from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.agreement import Agreeing, asks
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import JobData, open_data
from hydraplan.plans.analysis.flow import layouts_of
from hydraplan.plans.language.errors import Finding, StalePlanError, TraceError
from hydraplan.plans.language.facts import Layout
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Job
from hydraplan.runtime.memory.store import HostStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    data: Mapping[str, JobData | Agreeing]
    graphs: Mapping[str, ShardedGraph]
    """By job; jobs of one graph and one choice of cuts share theirs."""


def prepare(plan: Plan, store: HostStore, allow: Collection[str] = (), *, audit: bool = False) -> Prepared:
    """Fill the store and return what training needs besides.

    `audit`: train two steps of each graph that the plan has not audited beside its model, before anything else.

    Raises InvalidPlanError where the plan names what it may not call, and `allow` does not name it; StalePlanError,
    naming all that drifted, old and new; WorkloadError and TraceError where the user's code fails, or a graph does not
    train as its model does.
    """
    admit(plan.workload.jobs, plan.fingerprints, allow)
    data = {job.name: open_data(job) for job in plan.workload.jobs}
    drifted = list(drift(plan.fingerprints, fingerprints(plan.workload.jobs, data)))
    sources: dict[str, JobData | Agreeing] = {}
    graphs: dict[str, ShardedGraph] = {}
    traces: dict[object, Known] = {}
    shared: dict[tuple[str, tuple[int, ...]], ShardedGraph] = {}
    derived: dict[tuple[str, tuple[int, ...]], Layout] = {}
    layouts = layouts_of(plan)
    most_threads: dict[tuple[str, tuple[int, ...]], int] = {}
    for each in plan.workload.jobs:
        key = (layouts[each.name].graph, layouts[each.name].cuts)
        most_threads[key] = max(most_threads.get(key, 1), each.threads)
    left = not_audited(plan) if audit else set()
    for job in plan.workload.jobs:
        layout = layouts[job.name]
        batch = data[job.name].microbatch(0, 0)
        cause = same_graph_cause(job, batch)
        known = traces.get(cause)
        model, traced = build(job, batch, known=known if known is not None and known.serves(job, batch) else None)
        traces[cause] = Known.of(job, model, traced)
        sources[job.name] = Agreeing(job=job, data=data[job.name], graph=traced) if asks(traced) else data[job.name]
        found = graph_drift(plan.facts, job.name, traced.digest) or _cut_drift(job, traced, plan)
        if not found:
            key = (layout.graph, layout.cuts)
            if key not in shared:
                shared[key] = shard(traced, layout.cuts)
                derived[key] = layout_facts(traced, layout.graph, layout.cuts, (), threads=most_threads[key])
            graphs[job.name] = shared[key]
            found = size_drift(job.name, derived[key], layout, f"/facts/layouts/{plan.facts.layouts.index(layout)}")
        drifted += found
        if not drifted and layout.graph in left:
            left.remove(layout.graph)
            _audit(plan, job, data[job.name], traced, layout.cuts, traces[cause])
        if not drifted:
            store.add(job.name, graphs[job.name], state_of(job.optimizer, job.precision), model)
        del model
    if drifted:
        raise StalePlanError(drifted)
    return Prepared(data=sources, graphs=graphs)


def not_audited(plan: Plan) -> set[str]:
    """Graphs that the plan says nothing of, or that they were not audited."""
    known = {each.graph for each in plan.audits if each.verdict != "not audited"}
    return {each.graph for each in plan.facts.jobs} - known


def _audit(plan: Plan, job: Job, data: JobData, traced: TracedGraph, cuts: tuple[int, ...], known: Known) -> None:
    """Raises TraceError where a graph does not train as the job's model does, and a job of it does not accept that."""
    found = audit_graph(job, batches_of(data), traced, cuts, known=known)
    graph = next(each.graph for each in plan.facts.jobs if each.job == job.name)
    own = {each.job for each in plan.facts.jobs if each.graph == graph}
    strict = [each.name for each in plan.workload.jobs if each.name in own and each.audit != "tell"]
    if found.verdict in ("differs", "unsteady") and strict:
        raise TraceError(refusal(job, found, strict))


def _cut_drift(job: Job, traced: TracedGraph, plan: Plan) -> tuple[Finding, ...]:
    number, cuts = next((n, each.cuts) for n, each in enumerate(plan.decisions.cuts) if each.job == job.name)
    refused = [cut for cut in cuts if cut not in traced.cut_positions]
    if not refused:
        return ()
    cause = f"cuts of {job.name}: planned at {list(cuts)}, now {refused} cannot be cut at"
    return (stale(f"/decisions/cuts/{number}/cuts", cause),)


def size_drift(job: str, now: Layout, layout: Layout, pointer: str) -> tuple[Finding, ...]:
    """Facts that differ from those derived again, all but times: each with the planned and the present figure.

    Memory is held to what is derived, not to what a file says. `pointer`: of the layout in the plan.
    """
    planned, present = _figures(layout, pointer), _figures(now, pointer)
    return tuple(
        stale(at, f"{job}, {what}: planned {planned.get((at, what), 'none')}, now {present.get((at, what), 'none')}")
        for at, what in dict.fromkeys([*planned, *present])
        if planned.get((at, what)) != present.get((at, what))
    )


def _figures(layout: Layout, pointer: str) -> dict[tuple[str, str], object]:
    """(JSON pointer, what it is) -> figure."""
    found: dict[tuple[str, str], object] = {}
    for number, slab in enumerate(layout.slabs):
        for each in fields(slab):
            what = f"slab {slab.name}, {each.name.replace('_', ' ')}"
            found[f"{pointer}/slabs/{number}", what] = getattr(slab, each.name)
    for number, shard_facts in enumerate(layout.shards):
        for each in fields(shard_facts):
            if each.name != "times":
                what = f"shard {number}, {each.name.replace('_', ' ')}"
                found[f"{pointer}/shards/{number}", what] = getattr(shard_facts, each.name)
    return found
