"""Plans of real models for the runtime's tests, without the planner: chosen cuts, generous figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from support.toyplan import PROFILE, toy_cluster, toy_plan

from hydraplan.planner.frontend.models.fingerprints import fingerprints
from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.digests import facts_digest
from hydraplan.plans.language.facts import CellTimes, Layout, ShardFacts, SlabFacts
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Job, Target, Workload

ROOM = 1 << 22


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


def layout_of(graph: ShardedGraph, name: str) -> Layout:
    """The sizes of a sharded graph; costs are made up, workspace and kept bytes generous."""
    return Layout(
        graph=name,
        cuts=graph.cuts,
        shards=tuple(
            ShardFacts(
                slabs=tuple(
                    slab.name
                    for slab in sorted(graph.slabs, key=lambda slab: len(slab.readers))
                    if number in slab.readers
                ),
                reads=graph.reads[number],
                gradients_to=graph.gradients_to[number],
                gradient_bytes=tuple((slab, sites.size_bytes) for slab, sites in graph.parameter_gradients[number]),
                activation_bytes=graph.activations[number].size_bytes,
                activation_gradient_bytes=graph.activation_gradients[number].size_bytes,
                batch_bytes=graph.batch[number].size_bytes,
                forward_workspace_bytes=ROOM,
                backward_workspace_bytes=ROOM,
                recompute_workspace_bytes=ROOM,
                keep_workspace_bytes=ROOM,
                kept_bytes=ROOM,
                times=(CellTimes(profile=PROFILE, forward_us=500, backward_us=1000),),
            )
            for number in range(len(graph.programs))
        ),
        slabs=tuple(
            SlabFacts(
                name=slab.name,
                readers=slab.readers,
                parameter_bytes=slab.parameter_bytes,
                trainable_bytes=slab.trainable_bytes,
            )
            for slab in graph.slabs
        ),
    )


def even_cuts(traced: TracedGraph, shards: int) -> tuple[int, ...]:
    allowed = traced.cut_positions
    return tuple(sorted({allowed[len(allowed) * number // shards] for number in range(1, shards)}))


def real_plan(jobs: Sequence[Job], *, cuts: Sequence[int] | None = None, shards: int = 3, **more: object) -> Plan:
    """A plan of jobs that share one graph; further arguments as `toy_plan`."""
    traced = traced_job(jobs[0])
    chosen = tuple(cuts) if cuts is not None else even_cuts(traced, shards)
    layout = layout_of(shard(traced, chosen), "real")
    cluster = toy_cluster(2, budget_bytes=1 << 28, bytes_per_s=10**9)
    workload = Workload(cluster=cluster, jobs=tuple(jobs))
    plan = toy_plan(workload, layout, state_copies=state_of(jobs[0].optimizer, jobs[0].precision).copies, **more)  # type: ignore[arg-type]
    (graph,) = plan.facts.graphs
    graph = replace(graph, digest=traced.digest, nodes=len(traced.nodes), cut_positions=tuple(traced.cut_positions))
    facts = replace(plan.facts, graphs=(graph,))
    data = {job.name: open_data(job) for job in jobs}
    return replace(plan, facts=facts, facts_digest=facts_digest(facts), fingerprints=fingerprints(jobs, data))
