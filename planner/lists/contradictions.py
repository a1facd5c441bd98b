"""Decisions against the workload, its graphs and their facts: what does not agree, all of it at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from hydraplan.plans.language.errors import Finding, InvalidPlanError
from hydraplan.plans.language.facts import Facts, Layout
from hydraplan.plans.language.plan import Cuts, Decisions
from hydraplan.plans.language.workload import Workload


def layouts_by_job(facts: Facts, cuts: Iterable[Cuts]) -> dict[str, Layout]:
    """Raises InvalidPlanError where facts are missing for a job's cuts."""
    graphs = {job.job: job.graph for job in facts.jobs}
    known = {(layout.graph, layout.cuts): layout for layout in facts.layouts}
    result: dict[str, Layout] = {}
    findings: list[Finding] = []
    for number, cut in enumerate(cuts):
        layout = known.get((graphs.get(cut.job, ""), cut.cuts))
        if layout is None:
            findings.append(
                _finding(f"/decisions/cuts/{number}", f"no facts for {cut.job} under these cuts", "plan it anew")
            )
        else:
            result[cut.job] = layout
    if findings:
        raise InvalidPlanError(findings)
    return result


def contradictions(workload: Workload, layouts: Mapping[str, Layout], decisions: Decisions) -> Iterator[Finding]:
    """Everything in the decisions that does not agree with the workload or the cuts."""
    devices = {device.name for device in workload.cluster.devices}
    planned: dict[str, int] = defaultdict(int)
    for number, phase in enumerate(decisions.phases):
        seen: set[str] = set()
        for index, placement in enumerate(phase.placements):
            at = f"/decisions/phases/{number}/placements/{index}"
            layout = layouts.get(placement.job)
            if layout is None:
                yield _finding(f"{at}/job", f"no job {placement.job}", f"name one of {', '.join(sorted(layouts))}")
                continue
            if placement.job in seen:
                yield _finding(f"{at}/job", f"{placement.job} runs twice in one phase", "place it once in a phase")
            seen.add(placement.job)
            if placement.device not in devices:
                yield _finding(
                    f"{at}/device", f"no device {placement.device}", f"name one of {', '.join(sorted(devices))}"
                )
            if placement.steps < 1:
                yield _finding(f"{at}/steps", f"{placement.steps} steps", "give it a step, or take it out")
            planned[placement.job] += placement.steps
            slabs = {slab.name for slab in layout.slabs}
            shards = range(len(layout.shards))
            for field, names in (("resident", placement.resident), ("device_updates", placement.device_updates)):
                for name in names:
                    if name not in slabs:
                        yield _finding(
                            f"{at}/{field}", f"{placement.job} has no slab {name}", f"it has {', '.join(sorted(slabs))}"
                        )
            for shard in placement.keep:
                if shard not in shards:
                    yield _finding(
                        f"{at}/keep", f"{placement.job} has no shard {shard}", f"its shards are 0 to {len(shards) - 1}"
                    )
                elif not layout.shards[shard].has_backward:
                    yield _finding(
                        f"{at}/keep",
                        f"shard {shard} of {placement.job} has no backward to keep activations for",
                        "take it out",
                    )
    for job in workload.jobs:
        if planned[job.name] != job.steps:
            yield _finding(
                "/decisions/phases",
                f"the phases train {job.name} by {planned[job.name]} steps; its job says {job.steps}",
                "change the steps of a placement",
            )


def _finding(pointer: str, cause: str, remedy: str) -> Finding:
    return Finding(pointer=pointer, line=None, cause=cause, remedy=remedy)


__all__ = ["contradictions", "layouts_by_job"]
