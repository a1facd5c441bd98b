"""Plans of real models for the runtime's tests, without the planner: chosen cuts, times made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from support.toyplan import PROFILE, toy_cluster, toy_plan

from hydraplan.planner.costs.facts import layout_facts
from hydraplan.planner.frontend.models.fingerprints import fingerprints
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.digests import facts_digest
from hydraplan.plans.language.facts import CellTimes, Layout
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Job, Target, Workload


def lm_job(name: str = "a", **more: object) -> Job:
    """A small job; fields of `Job` as keywords."""
    fields: dict[str, object] = dict(
        name=name,
        model=Target(path="support.tinylm:skipper"),
        data=Target(path="support.tinylm:tokens"),
        loss=Target(path="support.tinylm:next_token_loss"),
        optimizer=Target(path="AdamW", arguments=(("lr", 1e-2),)),
        steps=4,
        batch_size=4,
        microbatches=1,
        seed=3,
        threads=1,
        precision="fp32",
    )
    return Job(**{**fields, **more})  # type: ignore[arg-type]


def gpt2(name: str = "a", **more: object) -> Job:
    config = dict(
        vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    model = Target(path="transformers:GPT2LMHeadModel", arguments=tuple(sorted(config.items())))
    return lm_job(name, model=model, loss=None, **more)


def traced_job(job: Job) -> TracedGraph:
    return trace(job, open_data(job).microbatch(0, 0))


def layout_of(traced: TracedGraph, cuts: tuple[int, ...], name: str, threads: int) -> Layout:
    """The layout of a cut graph; times are made up."""
    layout = layout_facts(traced, name, cuts, (), threads=threads)
    times = (CellTimes(profile=PROFILE, forward_us=500, backward_us=1000),)
    return replace(layout, shards=tuple(replace(each, times=times) for each in layout.shards))


def even_cuts(traced: TracedGraph, shards: int) -> tuple[int, ...]:
    allowed = traced.cut_positions
    return tuple(sorted({allowed[len(allowed) * number // shards] for number in range(1, shards)}))


def real_plan(jobs: Sequence[Job], *, cuts: Sequence[int] | None = None, shards: int = 3, **more: object) -> Plan:
    """A plan of jobs that share one graph; further arguments as `toy_plan`."""
    traced = traced_job(jobs[0])
    chosen = tuple(cuts) if cuts is not None else even_cuts(traced, shards)
    layout = layout_of(traced, chosen, "real", max(job.threads for job in jobs))
    cluster = toy_cluster(2, budget_bytes=1 << 28, bytes_per_s=10**9)
    workload = Workload(cluster=cluster, jobs=tuple(jobs))
    plan = toy_plan(workload, layout, state_copies=state_of(jobs[0].optimizer, jobs[0].precision).copies, **more)  # type: ignore[arg-type]
    (graph,) = plan.facts.graphs
    graph = replace(graph, digest=traced.digest, nodes=len(traced.nodes), cut_positions=tuple(traced.cut_positions))
    facts = replace(plan.facts, graphs=(graph,))
    data = {job.name: open_data(job) for job in jobs}
    return replace(plan, facts=facts, facts_digest=facts_digest(facts), fingerprints=fingerprints(jobs, data))
