"""Digests that tie a plan's lists to the decisions they were made from, and show that they were edited.

sha256 of canonical text: every field by name in the order of its class, so that two equal values have one
digest whatever the layout of the file that they came from.
"""

from __future__ import annotations

import hashlib
import json

from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Decisions, Phase, Plan
from hydraplan.plans.language.rows import PLAIN, field_names


def decisions_digest(decisions: Decisions) -> str:
    """Changes with anything that the lists are made from by the planner's choice."""
    return _digest(decisions)


def facts_digest(facts: Facts) -> str:
    """Changes with any size or cost."""
    return _digest(facts)


def lists_digest(phases: tuple[Phase, ...]) -> str:
    """Changes with any line of any list."""
    return _digest(phases)


def decisions_edited(plan: Plan) -> bool:
    """Whether the decisions are others than those that the lists were made from."""
    return decisions_digest(plan.decisions) != plan.lists_from


def facts_edited(plan: Plan) -> bool:
    """Whether the facts are others than those that the planner wrote."""
    return facts_digest(plan.facts) != plan.facts_digest


def lists_edited(plan: Plan) -> bool:
    """Whether the lists are others than those that the planner wrote."""
    return lists_digest(plan.phases) != plan.lists_digest


def _digest(value: object) -> str:
    text = json.dumps(_canonical(value), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _canonical(value: object) -> object:
    if type(value) in PLAIN:
        return value
    if names := field_names(value):
        return [type(value).__name__, *([name, _canonical(getattr(value, name))] for name in names)]
    if isinstance(value, tuple):
        return [_canonical(item) for item in value]
    return value
