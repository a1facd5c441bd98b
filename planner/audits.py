"""Which graphs of a plan are audited, where, and what the plan says of each.

    graph -> what its audit would take (counted work at assumed rates: no clock has a say) -> under 30 s in all?
          -> ask it where the graph is, side by side -> equal, told, or a refusal
                                                     \\-> not audited, and why

A graph is audited with the job that it was traced from, under that job's cuts, seed and data.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from hydraplan.planner.costs.nodes import node_costs
from hydraplan.planner.costs.operators import Work, seconds
from hydraplan.planner.frontend.auditing.audit import STEPS, Audited, Batches, audit, batches_of, refusal
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.processes.elsewhere import Question
from hydraplan.planner.study import Report, Study
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Audit
from hydraplan.plans.language.quantities import format_bytes
from hydraplan.plans.language.workload import Job, Profile, Workload

When: TypeAlias = Literal["always", "auto", "never"]

MOST_SECONDS = 30
"""Of all audits of a plan, where they are done by themselves."""
LATER = "hydraplan execute --audit does it before training"
ASSUMED = Profile(
    name="audit",
    flops_per_s=10_000_000_000,
    bytes_per_s=3_000_000_000,
    functions_per_s=60_000_000,
    node_ns=20_000,
    copy_bytes_per_s=3_000_000_000,
    update_bytes_per_s=3_000_000_000,
)
"""A slow core: what an audit is estimated by, on whatever machine."""
MADE_BYTES_PER_S = 200_000_000
"""Initialising parameters."""
FORWARDS, BACKWARDS = 2.5, 2
"""Of a microbatch: eager's, the shards', and half of these again."""
PASSES = 16
"""Times that parameters are read or written in a step: updates and comparisons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What an audit is estimated to take."""

    seconds: float
    bytes: int


def extent(graph: TracedGraph, *, parameter_bytes: int, state_copies: int, microbatches: int) -> Extent:
    """Of an audit of the graph with a job of so many microbatches."""
    making = 2 * parameter_bytes / MADE_BYTES_PER_S + STEPS * PASSES * parameter_bytes / ASSUMED.bytes_per_s
    held = parameter_bytes * (2 * (2 + state_copies) + 2 + microbatches)
    if making > MOST_SECONDS:  # whatever its steps take
        return Extent(seconds=making, bytes=held)
    costs = node_costs(graph)
    forward, backward = sum((each.forward for each in costs), Work()), sum((each.backward for each in costs), Work())
    step = microbatches * (FORWARDS * seconds(forward, ASSUMED) + BACKWARDS * seconds(backward, ASSUMED))
    return Extent(seconds=making + STEPS * step, bytes=held + 3 * sum(each.output_bytes for each in costs))


def audited(graph: TracedGraph, *, job: Job, batches: bytes, cuts: Sequence[int]) -> Audited:
    """Audit a graph where it is; `batches`: packed."""
    return audit(job, torch.load(io.BytesIO(batches), weights_only=True), graph, cuts)


def packed(batches: Batches) -> bytes:
    """Batches as another process can be told of them, without sharing memory."""
    memory = io.BytesIO()
    torch.save([[dict(each) for each in step] for step in batches], memory)
    return memory.getvalue()


def audits(
    workload: Workload, known: Study, cuts: Mapping[str, Sequence[int]], when: When, report: Report
) -> tuple[Audit, ...]:
    """An audit of each graph, done or not. Raises TraceError where a graph does not train as its model does, and a job
    of it does not accept that."""
    if when == "never":
        text = f"it was not asked for; {LATER}"
        return tuple(Audit(graph=name, verdict="not audited", text=text) for name in known.graphs)
    jobs = {name: graph.job for name, graph in known.graphs.items()}
    refused = _refused(workload, known, jobs, when, report)
    chosen = [name for name in known.graphs if name not in refused]
    asked = {
        name: Question(
            f"audit {jobs[name].name}",
            audited,
            dict(job=jobs[name], batches=packed(batches_of(known.data[jobs[name].name])), cuts=cuts[jobs[name].name]),
        )
        for name in chosen
    }
    # A process that was forked has one thread.
    apart = [name for name in chosen if jobs[name].threads == 1]
    outcomes = dict(zip(apart, known.answers([(name, asked[name]) for name in apart], report), strict=True))
    for name in chosen:
        if name not in outcomes:
            report(asked[name].what)
            outcomes[name] = known.graphs[name].answered(asked[name])
    done = {name: verdict_of(workload, known, name, jobs[name], outcomes[name].result()) for name in chosen}
    return tuple(
        done[name] if name in done else Audit(graph=name, verdict="not audited", text=refused[name])
        for name in known.graphs
    )


def _refused(workload: Workload, known: Study, jobs: Mapping[str, Job], when: When, report: Report) -> dict[str, str]:
    """Graphs that are not audited, and why."""
    questions = [
        (
            name,
            Question(
                f"estimate the audit of {job.name}",
                extent,
                dict(
                    parameter_bytes=known.facts[name].parameter_bytes,
                    state_copies=state_of(job.optimizer, job.precision).copies,
                    microbatches=job.microbatches,
                ),
            ),
        )
        for name, job in jobs.items()
    ]
    extents = {
        name: outcome.result() for (name, _), outcome in zip(questions, known.answers(questions, report), strict=True)
    }
    room, refused, spent = workload.cluster.host_memory_bytes, {}, 0.0
    for name in sorted(extents, key=lambda name: (extents[name].seconds, name)):
        each: Extent = extents[name]
        if each.bytes > room:
            refused[name] = f"it needs about {format_bytes(each.bytes)}, and the host has {format_bytes(room)}"
            continue
        spent += each.seconds
        if when == "auto" and spent > MOST_SECONDS:
            refused[name] = (
                f"it is estimated at {each.seconds:.0f} s, and the audits of a plan may take {MOST_SECONDS} s in all; "
                f"hydraplan plan --audit always does it, and {LATER}"
            )
    return refused


def verdict_of(workload: Workload, known: Study, graph: str, job: Job, found: Audited) -> Audit:
    """What a plan says of an audit. Raises TraceError where it refuses."""
    if found.verdict == "equal":
        return Audit(graph=graph, verdict="equal", jobs=(job.name,))
    if found.verdict == "inexact":
        return Audit(graph=graph, verdict="not audited", text=found.text)
    strict = [each.name for each in workload.jobs if known.graph_of[each.name] == graph and each.audit != "tell"]
    if strict:
        raise TraceError(refusal(job, found, strict))
    return Audit(graph=graph, verdict="told", jobs=(job.name,), text=found.text)
