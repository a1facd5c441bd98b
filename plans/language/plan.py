"""A plan: everything that `hydraplan execute` needs besides the user's own code.

workload      what to train, where
facts         sizes and costs, keyed by graph and cut
decisions     what the solver (or a person) chose
phases        the lists made from the decisions: only these execute
predictions   what the simulator says of the lists
fingerprints  what the plan was made from
audits        whether each graph trains as its model does
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.steps import Step
from hydraplan.plans.language.workload import Workload

FORMAT = "hydraplan-plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Where a job's graph is cut, for the whole plan: the host store is laid out by it."""

    job: str
    cuts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How one job runs in one phase. What is not named is streamed, recomputed, updated on the host."""

    job: str
    device: str
    steps: int
    """Training steps of the job in this phase."""
    resident: tuple[str, ...] = ()
    """Slabs whose parameters stay on the device (and optimizer state, where updated there)."""
    keep: tuple[int, ...] = ()
    """Shards whose forward keeps its activations for the backward."""
    device_updates: tuple[str, ...] = ()
    """Slabs that are updated on the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDecision:
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    cuts: tuple[Cuts, ...]
    phases: tuple[PhaseDecision, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the plan: prologue, `repeat` times the cycle, epilogue."""

    repeat: int
    prologue: tuple[Step, ...]
    cycle: tuple[Step, ...]
    epilogue: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePrediction:
    device: str
    arena_bytes: int
    workspace_bytes: int
    kept_bytes: int
    peak_bytes: int
    compute_us: int
    load_us: int
    spill_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPrediction:
    job: str
    finish_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    makespan_us: int
    lower_bound_us: int
    gap: float
    host_peak_bytes: int
    host_update_us: int
    devices: tuple[DevicePrediction, ...]
    jobs: tuple[JobPrediction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverRecord:
    """How the decisions were found."""

    name: str
    """Whose schedule it is: `highs` or `cbc`, the solver's, rounded to whole steps; `highs+search` or `cbc+search`,
    found by small changes of the list schedule, which beat the solver's; `list`, the list schedule, not beaten;
    or `edited`, by hand."""
    status: str
    """Of the LP that proves the bound: `optimal`, or `stopped` at a limit; or what was done to the decisions since."""
    objective_us: int
    """Of the solver's own schedule, before it is rounded to whole steps."""
    bound_us: int
    gap: float
    list_schedule_us: int
    """Simulated makespan of the list schedule that the solver started from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Something that the plan depends on, with its digest or version."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What came of training the real model of a graph beside its cut graph, two steps each, to the bit."""

    graph: str
    verdict: Literal["equal", "told", "not audited"]
    """`told`: they differ, and the jobs accept that."""
    jobs: tuple[str, ...] = ()
    """Whose models were trained, with their seeds, data and cuts; what else shares the graph has other values."""
    text: str = ""
    """Where and how they differ; why it was not done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    workload: Workload
    facts: Facts
    facts_digest: str
    """Digest of the facts as the planner wrote them: they are measured, not chosen."""
    decisions: Decisions
    lists_from: str
    """Digest of the decisions that the lists were made from."""
    lists_digest: str
    """Digest of the lists as the planner wrote them; differs once they are edited by hand."""
    phases: tuple[Phase, ...]
    predictions: Predictions
    solver: SolverRecord
    fingerprints: tuple[Fingerprint, ...] = field(default=())
    audits: tuple[Audit, ...] = field(default=())
    """By graph; those that are not named were not audited."""
