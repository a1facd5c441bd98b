"""Whether a plan can be trusted: every finding at once, each with its place in the file, cause and remedy.

    1. what it names exists               plans.checking.references
    2. lists are of the decisions         digests
    3. the lists can be run, and train every job by exactly its steps: each cell once forward and, where it
       has one, once backward, in order, on the newest parameters         plans.analysis.flow
    4. no place ever holds more than it has                               plans.analysis.memory

Each stage needs the ones before; within a stage all is said. Edited lists are accepted where all this holds;
their predictions are then to be made again (`plans.prediction.simulate.predict`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hydraplan.plans.analysis.arena import Arenas, allocate
from hydraplan.plans.analysis.flow import Flow, trace
from hydraplan.plans.analysis.memory import device_memory, host_peak_bytes
from hydraplan.plans.checking.references import PLAN_FROM, reference_findings
from hydraplan.plans.file.positions import nearest_line
from hydraplan.plans.file.text import Document
from hydraplan.plans.language.digests import decisions_edited, facts_edited, lists_edited
from hydraplan.plans.language.errors import Finding, InvalidPlanError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.quantities import format_bytes
from hydraplan.plans.prediction.simulate import Simulation

__all__ = ["check", "lists_edited", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What a plan's lists do, and where its objects lie."""

    flow: Flow
    arenas: Arenas


def check(
    plan: Plan, lines: Mapping[str, int] | None = None, simulation: Simulation | None = None
) -> tuple[Finding, ...]:
    """All that is wrong with a plan; nothing: it can be executed.

    `lines`: JSON pointer -> line of its file. `simulation`: of its lists, where there is one already."""
    findings = _findings(plan, simulation)
    return tuple(findings if lines is None else _placed(findings, lines))


def verify(document: Document) -> Traced:
    """Raises InvalidPlanError with all that is wrong with a plan that was read from a file. Returns what its lists do,
    which a simulation begins with."""
    traced = _traced(document.plan)
    if isinstance(traced, Traced):
        findings = _memory_findings(document.plan, traced.flow, traced.arenas)
    else:
        findings = traced
    if not isinstance(traced, Traced) or findings:
        raise InvalidPlanError(_placed(findings, document.lines))
    return traced


def _placed(findings: Sequence[Finding], lines: Mapping[str, int]) -> list[Finding]:
    """With their lines, in the order of the file."""
    placed = (replace(finding, line=nearest_line(lines, finding.pointer)) for finding in findings)
    return sorted(placed, key=lambda finding: finding.line or 0)


def _findings(plan: Plan, simulation: Simulation | None) -> list[Finding]:
    traced = _traced(plan, simulation)
    return _memory_findings(plan, traced.flow, traced.arenas) if isinstance(traced, Traced) else traced


def _traced(plan: Plan, simulation: Simulation | None = None) -> Traced | list[Finding]:
    """What a plan's lists do; findings where they cannot be run, or are not of its decisions and facts."""
    findings = reference_findings(plan)
    if facts_edited(plan):
        findings.append(_facts_finding())
    if decisions_edited(plan):
        # The lists will be made anew: what is wrong with the old ones does not matter.
        kept = [finding for finding in findings if not finding.pointer.startswith("/phases")]
        return [_decisions_finding(), *kept]
    if findings:
        return findings
    if simulation is not None:
        return Traced(flow=simulation.flow, arenas=simulation.arenas)
    flow = trace(plan)
    if flow.problems:
        return [problem.finding() for problem in flow.problems]
    return Traced(flow=flow, arenas=allocate(plan, flow))


def _facts_finding() -> Finding:
    return Finding(
        pointer="/facts",
        line=None,
        cause="the facts were edited: sizes and costs are derived from the models, and memory is proved from them",
        remedy=f"restore them, or {PLAN_FROM}",
    )


def _decisions_finding() -> Finding:
    return Finding(
        pointer="/decisions",
        line=None,
        cause="the decisions were edited; the lists were made from others",
        remedy=PLAN_FROM,
    )


def _memory_findings(plan: Plan, flow: Flow, arenas: Arenas) -> list[Finding]:
    findings: list[Finding] = []
    memory = device_memory(plan, flow, arenas)
    for number, device in enumerate(plan.workload.cluster.devices):
        used = memory[device.name]
        if used.peak_bytes > device.budget_bytes:
            findings.append(
                Finding(
                    pointer=f"/workload/cluster/devices/{number}",
                    line=None,
                    cause=f"{device.name} needs {_short(used.peak_bytes, device.budget_bytes)}: "
                    f"arena {format_bytes(used.arena_bytes)}, "
                    f"largest workspace {format_bytes(used.workspace_bytes)}, "
                    f"kept activations {format_bytes(used.kept_bytes)}",
                    remedy="drop slabs earlier, load them later, keep less, or move cells to another device",
                )
            )
    host_bytes, has_bytes = host_peak_bytes(plan, arenas), plan.workload.cluster.host_memory_bytes
    if host_bytes > has_bytes:
        findings.append(
            Finding(
                pointer="/workload/cluster/host_memory_bytes",
                line=None,
                cause=f"the host needs {_short(host_bytes, has_bytes)}: parameters and optimizer state of all jobs, "
                "what waits there between devices, and the largest model while it is built",
                remedy="train fewer jobs, or give the host more memory",
            )
        )
    return findings


def _short(needed: int, available: int) -> str:
    missing = needed - available
    return f"{format_bytes(needed)} and has {format_bytes(available)} ({format_bytes(missing)} short, {missing} bytes)"
