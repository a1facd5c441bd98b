"""Whether jobs fit at all, and in how little memory: asked where no cuts made for the budgets led to lists.

    tight cuts, the same whatever the budgets -> lists of the job alone, streamed -> the least budget that holds them

What a job needs does not depend on what there is, so a job that fits a budget fits every larger one, and the budget
that a refusal names is found by bisection, to `TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hydraplan.planner.cutting.partition import Tight, tight
from hydraplan.planner.layouts import facts_under
from hydraplan.planner.processes.elsewhere import Question
from hydraplan.planner.scheduling.instance import holds
from hydraplan.planner.scheduling.options import Pricer, smallest_budget
from hydraplan.planner.study import Report, Study, firsts, quietly
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.quantities import format_bytes
from hydraplan.plans.language.workload import Device, Job, Workload

TOLERANCE = 256
"""Part of a budget to which the least one is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    budget_bytes: int
    """With which the job alone was found to have lists, streamed."""
    cuts: tuple[int, ...]
    largest: str
    """What of the model needs the most, in words."""


def needs(workload: Workload, known: Study, report: Report = quietly) -> dict[str, Need]:
    """Job -> what it needs of a device; jobs that differ in nothing that takes memory share the answer."""
    copies = {job.name: state_of(job.optimizer, job.precision).copies for job in workload.jobs}

    def cause_of(job: Job) -> tuple[object, ...]:
        return known.graph_of[job.name], job.microbatches, copies[job.name], job.precision, job.threads

    asked = firsts(workload.jobs, cause_of)
    questions = [
        (
            known.graph_of[job.name],
            Question(
                f"cut {job.name} as tightly as it can be",
                tight,
                dict(cluster=workload.cluster, microbatches=job.microbatches, state_copies=copies[job.name]),
            ),
        )
        for job in asked.values()
    ]
    outcomes = known.answers(questions, report)
    device = max(workload.cluster.devices, key=lambda each: each.budget_bytes)
    found = {}
    for (cause, job), outcome in zip(asked.items(), outcomes, strict=True):
        alone = replace(workload, cluster=replace(workload.cluster, devices=(device,)), jobs=(job,))
        found[cause] = _need(alone, known, device, outcome.result(), copies[job.name])
    return {job.name: found[cause_of(job)] for job in workload.jobs}


def _need(alone: Workload, known: Study, device: Device, cuts: Tight, copies: int) -> Need:
    (job,) = alone.jobs
    best: Need | None = None
    for positions in cuts.cuts:
        facts = facts_under(alone, known, {job.name: positions}, quietly)
        (layout,) = facts.layouts

        def held(budget_bytes: int) -> bool:
            return holds(alone, facts, layout, job, replace(device, budget_bytes=budget_bytes))  # noqa: B023

        if best is not None and not held(best.budget_bytes - best.budget_bytes // TOLERANCE):
            continue
        enough = smallest_budget(Pricer(alone.cluster, replace(device, budget_bytes=1), job, layout, copies))
        while not held(enough):
            enough += enough // 8 + 1
        too_little = 0
        while enough - too_little > enough // TOLERANCE + 1:
            middle = (enough + too_little) // 2
            if held(middle):
                enough = middle
            else:
                too_little = middle
        if best is None or enough < best.budget_bytes:
            best = Need(budget_bytes=enough, cuts=positions, largest=cuts.largest)
    assert best is not None
    return best


def refusal_of(workload: Workload, short: Sequence[tuple[Job, Need]]) -> InfeasibleError:
    """Of the first of the jobs that fit no device, with its figures; `each` has one of every such job."""
    device = max(workload.cluster.devices, key=lambda each: each.budget_bytes)
    refusals = [_refusal(job, need, device) for job, need in short]
    first = refusals[0]
    others = [job.name for job, _ in short[1:]]
    verb = "does" if len(others) == 1 else "do"
    also = f"; {', '.join(others)} {verb} not fit either" if others else ""
    told = InfeasibleError(
        f"{first}{also}", device=first.device, missing_bytes=first.missing_bytes, job=first.job, largest=first.largest
    )
    told.each = tuple(refusals)
    return told


def _refusal(job: Job, need: Need, device: Device) -> InfeasibleError:
    missing = need.budget_bytes - device.budget_bytes
    return InfeasibleError(
        f"{job.name} fits no device: {device.name} has {format_bytes(device.budget_bytes)}, {format_bytes(missing)} "
        f"short of the {need.budget_bytes} bytes with which it can be planned; raise the budget, or use more "
        f"microbatches ({need.largest}, needs about {format_bytes(need.budget_bytes)})",
        device=device.name,
        missing_bytes=missing,
        job=job.name,
        largest=need.largest,
    )
