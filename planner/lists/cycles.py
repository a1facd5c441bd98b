"""Decisions -> lists, with cycles as long as pays.

A training step lies within one list, so at the border of a cycle no job's forwards run beside another's
backwards, and one engine or the other waits. Cycles of several training steps have fewer borders:

    1 step    a FFFBBB   | FFFBBB   |          2 steps    a FFFBBBFFFBBB   |
              b   FFFBBB |   FFFBBB |                     b   FFFBBBFFFBBB |

The lists grow with them, so they are taken only where the whole plan becomes shorter, by the simulator's word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from hydraplan.planner.lists.contradictions import contradictions
from hydraplan.planner.lists.making import ListMaker, draft
from hydraplan.planner.lists.rates import MOST_PER_CYCLE
from hydraplan.plans.language.errors import InfeasibleError, InvalidPlanError
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Decisions, Phase, Placement
from hydraplan.plans.language.workload import Workload
from hydraplan.plans.prediction.simulate import simulate

FACTORS = (4, 3, 2)
"""The first that divides the number of the shortest cycles."""
MOST_LINES = 4000
"""Where cycles of the largest factor would have more lines than this together, none is tried."""
WORTH = 0.01
"""Part of the makespan that longer lists have to save."""


def make_lists(
    workload: Workload,
    facts: Facts,
    decisions: Decisions,
    maker: ListMaker | None = None,
    makespan_us: Callable[[Decisions, tuple[Phase, ...]], int] | None = None,
) -> tuple[Phase, ...]:
    """The lists of a plan. Pure: the same input gives the same lists.

    `maker`: one of this workload and these cuts, with what it has found already. `makespan_us`: the simulator's word
    on lists, where it is remembered. Raises InvalidPlanError where the decisions contradict the workload,
    InfeasibleError (with the bytes that are missing) where a placement does not fit its device in any order.
    """
    maker = ListMaker(workload, facts, decisions.cuts) if maker is None else maker
    findings = list(contradictions(workload, maker.layouts, decisions))
    if findings:
        raise InvalidPlanError(findings)
    short = tuple(phase for decision in decisions.phases for phase in maker.phases_of(decision.placements))
    if not longer_cycles(sum(len(phase.cycle) for phase in short), 1):
        return short
    long = _longer(maker, decisions)
    if long is None:
        return short
    if makespan_us is None:
        makespan_us = partial(_makespan_us, workload, facts)
    saved = 1 - makespan_us(decisions, long) / makespan_us(decisions, short)
    return long if saved > WORTH else short


def _makespan_us(workload: Workload, facts: Facts, decisions: Decisions, phases: tuple[Phase, ...]) -> int:
    return simulate(draft(workload, facts, decisions, phases)).makespan_us


def longer_cycles(lines: int, steps: int) -> tuple[int, ...]:
    """How many of the shortest cycles one cycle may hold; `lines` of all cycles together, `steps`: most of one job in
    one of them."""
    return tuple(each for each in FACTORS if steps * each <= MOST_PER_CYCLE) if lines * FACTORS[0] <= MOST_LINES else ()


def _longer(maker: ListMaker, decisions: Decisions) -> tuple[Phase, ...] | None:
    """The lists with longer cycles wherever jobs share a device; None: there are no such cycles, or they do not
    fit."""
    phases: list[Phase] = []
    longer = False
    for decision in decisions.phases:
        for repeat, running in maker.cycles_of(decision.placements):
            factor = _factor(repeat, running)
            longer |= factor > 1
            steps = [replace(placement, steps=placement.steps * factor) for placement in running]
            try:
                phases.append(maker.phase(steps, repeat // factor))
            except InfeasibleError:
                return None
    return tuple(phases) if longer else None


def _factor(repeat: int, running: Sequence[Placement]) -> int:
    shared = max(Counter(placement.device for placement in running).values(), default=0) > 1
    most = max((placement.steps for placement in running), default=1)
    fits = (each for each in longer_cycles(0, most) if repeat % each == 0)
    return next(fits, 1) if shared else 1


__all__ = ["longer_cycles", "make_lists"]
