"""Before anything trains: open the data, build each real model once, hold both against the plan, fill the store.

    what may be imported -> code that has changed -> what may be called       (nothing of the user's code has run yet)
    data sets -> fingerprints -> drift?
    job by job: build -> trace -> digest -> drift?  -> shard -> sizes -> drift?  -> host store -> free

Models are built one at a time; all that has drifted is reported at once, and nothing has trained then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
    layouts = layouts_of(plan)
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
            graphs[job.name] = shared[key]
            found = size_drift(job.name, shared[key], layout, f"/facts/layouts/{plan.facts.layouts.index(layout)}")
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


def size_drift(job: str, graph: ShardedGraph, layout: Layout, pointer: str) -> tuple[Finding, ...]:
    """Facts that the graph, as it is cut now, contradicts: each with the planned and the present figure.

    Of a job with lengths a figure is the largest of any bucket. `pointer`: of the layout in the plan.
    """
    planned: dict[str, object] = {}
    now: dict[str, object] = {}
    for slab in layout.slabs:
        name = f"slab {slab.name}"
        planned[f"{name}, readers"] = slab.readers
        planned[f"{name}, parameter bytes"] = slab.parameter_bytes
        planned[f"{name}, trained bytes"] = slab.trainable_bytes
        planned[f"{name}, buffer bytes"] = slab.buffer_bytes
    for each in graph.slabs:
        name = f"slab {each.name}"
        now[f"{name}, readers"] = each.readers
        now[f"{name}, parameter bytes"] = each.parameter_bytes
        now[f"{name}, trained bytes"] = each.trainable_bytes
        now[f"{name}, buffer bytes"] = each.buffer_bytes
    for number, facts in enumerate(layout.shards):
        name = f"shard {number}"
        planned[f"{name}, reads"] = facts.reads
        planned[f"{name}, gradients to"] = facts.gradients_to
        planned[f"{name}, activation bytes"] = facts.activation_bytes
        planned[f"{name}, activation gradient bytes"] = facts.activation_gradient_bytes
        planned[f"{name}, batch bytes"] = facts.batch_bytes
        planned[f"{name}, buffer bytes"] = facts.buffer_bytes
        planned[f"{name}, gradient bytes"] = facts.gradient_bytes
    for number in range(len(graph.activations)):
        name = f"shard {number}"
        now[f"{name}, reads"] = graph.reads[number]
        now[f"{name}, gradients to"] = graph.gradients_to[number]
        now[f"{name}, activation bytes"] = max(each.activations[number].size_bytes for each in graph.buckets)
        now[f"{name}, activation gradient bytes"] = max(
            each.activation_gradients[number].size_bytes for each in graph.buckets
        )
        now[f"{name}, batch bytes"] = max(each.batch[number].size_bytes for each in graph.buckets)
        now[f"{name}, buffer bytes"] = graph.buffers[number].size_bytes
        now[f"{name}, gradient bytes"] = tuple(
            (slab, sites.size_bytes) for slab, sites in graph.parameter_gradients[number]
        )
    at = {f"slab {slab.name}": f"{pointer}/slabs/{number}" for number, slab in enumerate(layout.slabs)}
    at |= {f"shard {number}": f"{pointer}/shards/{number}" for number in range(len(layout.shards))}
    return tuple(
        stale(
            at.get(what.split(",")[0], pointer),
            f"{job}, {what}: planned {planned.get(what, 'none')}, now {now.get(what, 'none')}",
        )
        for what in dict.fromkeys([*planned, *now])
        if planned.get(what) != now.get(what)
    )
