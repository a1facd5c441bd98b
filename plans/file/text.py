"""A plan as text and back: strict JSON, one step, job, device, shard, slab or placement a line.

`loads` refuses what it does not know and says everything that is wrong at once; `dumps` gives the same bytes
for equal plans. Equal: `loads(dumps(plan)).plan == plan`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isinf
from typing import Any

from pydantic import ValidationError

from hydraplan.plans.file.complaints import depth_finding, findings_of, oddity_finding, syntax_finding
from hydraplan.plans.file.models import MAPPINGS, MOST_DIGITS, OPERATIONS, file_model, to_row
from hydraplan.plans.file.positions import Lines
from hydraplan.plans.language.errors import InvalidPlanError
from hydraplan.plans.language.facts import Facts, Layout
from hydraplan.plans.language.plan import FORMAT, Decisions, Phase, PhaseDecision, Plan, Predictions
from hydraplan.plans.language.rows import PLAIN, field_names
from hydraplan.plans.language.workload import Cluster, Workload

WIDTH = 2_000
"""Longer lines are broken where that is possible: a reader's patience, and some tools' limits."""
WRAP = 100
"""Characters of a line of numbers."""

_LONG = re.compile(rf"\d{{{MOST_DIGITS + 20},}}")
"""Digits of a number that no float holds; read as 0, and told."""
_SPREAD = (Plan, Workload, Cluster, Facts, Layout, Decisions, PhaseDecision, Phase, Predictions)
"""Written over several lines; every other object is one line."""
_STEP_ORDER = ("device", "op", "job", "slab", "shard", "microbatch", "what", "microbatches", "keep", "step")
_LEFT_OUT: dict[str, object] = {"keep": False, "step": 0}
"""Fields of a step that are not written at these values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A plan as it was read from a file."""

    plan: Plan
    lines: Lines
    """JSON pointer -> line of the file."""
    notes: Mapping[str, str]
    """JSON pointer of an object -> its note."""


def loads(text: str) -> Document:
    """Read a plan. Raises InvalidPlanError with everything in the text that is not a plan's."""
    lines = Lines(text)
    readable = _LONG.sub("0", text) if _LONG.search(text) else text
    data, odd_somewhere = _as_json(readable)
    odd = [oddity_finding(oddity) for oddity in lines.oddities] if odd_somewhere or readable is not text else []
    said = {finding.pointer for finding in odd}
    try:
        model = file_model().model_validate_json(readable)
    except ValidationError as error:
        findings = [finding for finding in findings_of(error, data, lines) if finding.pointer not in said]
        findings = sorted(odd + findings, key=lambda finding: finding.line or 0)
        raise InvalidPlanError(findings) from None
    if odd:
        raise InvalidPlanError(odd)
    notes: dict[str, str] = {}
    plan: Plan = to_row(model, "", notes)
    return Document(plan=plan, lines=lines, notes=notes)


def _as_json(text: str) -> tuple[object, bool]:
    """The text as JSON's own values, and whether something in it is odd: a key twice, or a number that JSON has not.

    Raises InvalidPlanError where it is no JSON."""
    odd: list[object] = []

    def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            odd.append(pairs)
        return found

    def finite(digits: str) -> float:
        value = float(digits)
        if isinf(value):
            odd.append(value)
        return value

    try:
        data = json.loads(text, object_pairs_hook=distinct, parse_float=finite, parse_constant=odd.append)
    except json.JSONDecodeError as error:
        raise InvalidPlanError([syntax_finding(error)]) from None
    except RecursionError:
        raise InvalidPlanError([depth_finding(text)]) from None
    return data, bool(odd)


def dumps(plan: Plan, notes: Mapping[str, str] | None = None) -> str:
    """Write a plan, with notes on the objects at these pointers, where the plan has them."""
    return "\n".join(_Writer(notes or {}).spread(plan, "", "")) + "\n"


def jsonable(row: object) -> dict[str, Any]:
    """One object of the plan as the file's, for instance a step for a message or a report."""
    return _Writer({}).flat(row, "")


class _Writer:
    def __init__(self, notes: Mapping[str, str]) -> None:
        self.notes = notes

    def spread(self, row: object, pointer: str, indent: str) -> Iterator[str]:
        """The lines of an object, a field each; the last one without a comma."""
        parts: list[tuple[str, object]] = [(name, getattr(row, name)) for name in field_names(row)]
        if isinstance(row, Plan):
            parts.insert(0, ("format", FORMAT))
        if pointer in self.notes:
            parts.append(("note", self.notes[pointer]))
        yield indent + "{"
        inner = indent + "  "
        for number, (name, value) in enumerate(parts):
            lines = list(self.value(name, value, f"{pointer}/{name}", inner))
            lines[0] = f"{inner}{_compact(name)}: {lines[0].lstrip()}"
            lines[-1] += "," if number + 1 < len(parts) else ""
            yield from lines
        yield indent + "}"

    def value(self, name: str, value: object, pointer: str, indent: str) -> Iterator[str]:
        if isinstance(value, _SPREAD):
            yield from self.spread(value, pointer, indent)
        elif isinstance(value, tuple) and value and field_names(value[0]):
            yield indent + "["
            for number, item in enumerate(value):
                lines = list(self.value("", item, f"{pointer}/{number}", indent + "  "))
                lines[-1] += "," if number + 1 < len(value) else ""
                yield from lines
            yield indent + "]"
        elif field_names(value):
            line = indent + _compact(self.flat(value, pointer))
            if len(line) <= WIDTH or type(value) in OPERATIONS:  # a step is a line, whatever its note
                yield line
            else:
                yield from self.spread(value, pointer, indent)
        else:
            line = indent + _compact(self.plain(name, value, pointer))
            if len(line) <= WIDTH or not isinstance(value, tuple) or name in MAPPINGS:
                yield line
            else:
                yield from _wrapped(value, indent)

    def flat(self, row: object, pointer: str) -> dict[str, Any]:
        """An object as JSON's own types."""
        result = {}
        for name in field_names(row):
            value = getattr(row, name)
            result[name] = value if type(value) in PLAIN else self.plain(name, value, f"{pointer}/{name}")
        operation = OPERATIONS.get(type(row))
        if operation is not None:
            result["op"] = operation[0]
            if operation[1] is not None:
                result["what"] = operation[1]
            result = {
                name: result[name]
                for name in _STEP_ORDER
                if name in result and not (name in _LEFT_OUT and result[name] == _LEFT_OUT[name])
            }
        if pointer in self.notes:
            result["note"] = self.notes[pointer]
        return result

    def plain(self, name: str, value: object, pointer: str) -> object:
        if field_names(value):
            return self.flat(value, pointer)
        if isinstance(value, tuple):
            if name in MAPPINGS:
                return {key: self.plain("", each, pointer) for key, each in value}
            return [self.plain("", each, f"{pointer}/{number}") for number, each in enumerate(value)]
        return value


_compact = json.JSONEncoder(allow_nan=False).encode


def _wrapped(values: tuple[object, ...], indent: str) -> Iterator[str]:
    """A long list of numbers or names, several a line."""
    yield indent + "["
    line = indent + " "
    for number, value in enumerate(values):
        part = " " + _compact(value) + ("," if number + 1 < len(values) else "")
        if len(line) + len(part) > WRAP and line.strip():
            yield line
            line = indent + " "
        line += part
    yield line
    yield indent + "]"
