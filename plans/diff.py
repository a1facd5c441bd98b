"""What differs between two plans, for people: fields by name, jobs and devices by theirs, lists by line.

workload: job b: steps 4 -> 8
decisions: phase 0: a: resident [] -> ["0"]
predictions: makespan_us 120 -> 96 (-20.0 %)
lists: phase 0, cycle: 2 lines deleted, 1 added, 1 moved
    - line 12: {"device": "cpu0", "op": "load", ...}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher

from hydraplan.plans.file.text import jsonable
from hydraplan.plans.language.plan import Phase, Plan
from hydraplan.plans.language.steps import Step

SHOWN = 12
"""Lines of one list that are told in full."""
LONG = 1_500
"""Of longer lists the lines are counted, whatever their order: aligning them takes quadratic time."""

_NAMES = ("name", "job", "device", "profile", "graph")
"""Fields that tell which of its kind an object is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    part: str
    """Part of the plan: workload, facts, decisions, lists, predictions, solver, fingerprints."""
    text: str

    def __str__(self) -> str:
        return f"{self.part}: {self.text}"


def diff(a: Plan, b: Plan) -> tuple[Difference, ...]:
    """All differences from one plan to another, in the order of the file; digests aside."""
    found: list[Difference] = []
    for part in ("workload", "facts", "decisions", "phases", "predictions", "solver", "fingerprints"):
        old, new = getattr(a, part), getattr(b, part)
        if part == "phases":
            found += [Difference(part="lists", text=text) for text in _phases(old, new)]
        else:
            found += [Difference(part=part, text=text) for text in _values("", old, new)]
    return tuple(found)


# -- fields -------------------------------------------------------------------------------------------


def _values(where: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    if is_dataclass(old) and type(old) is type(new):
        for field in fields(old):
            yield from _values(_inside(where, field.name), getattr(old, field.name), getattr(new, field.name))
    elif _rows(old) and _rows(new):
        assert isinstance(old, tuple) and isinstance(new, tuple)
        yield from _members(where, old, new)
    else:
        yield f"{where} {_shown(old)} -> {_shown(new)}{_percent(old, new)}"


def _members(where: str, old: Sequence[object], new: Sequence[object]) -> Iterator[str]:
    """Objects by name where they have one, by number otherwise."""
    before, after = _named(old), _named(new)
    for name, row in before.items():
        if name in after:
            yield from _values(_inside(where, name), row, after[name])
        else:
            yield f"{_inside(where, name)} deleted"
    for name in after:
        if name not in before:
            yield f"{_inside(where, name)} added"


def _named(rows: Sequence[object]) -> dict[str, object]:
    result: dict[str, object] = {}
    for number, row in enumerate(rows):
        name = next((str(getattr(row, field)) for field in _NAMES if hasattr(row, field)), str(number))
        result[name if name not in result else f"{name} ({number})"] = row
    return result


def _rows(value: object) -> bool:
    return isinstance(value, tuple) and all(is_dataclass(each) for each in value)


def _inside(where: str, name: str) -> str:
    return f"{where}: {name}" if where else name


def _shown(value: object) -> str:
    text = json.dumps(jsonable(value) if is_dataclass(value) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _percent(old: object, new: object) -> str:
    numbers = isinstance(old, int | float) and isinstance(new, int | float) and not isinstance(old, bool)
    if not numbers or not old:
        return ""
    assert isinstance(old, int | float) and isinstance(new, int | float)
    return f" ({100 * (new / old - 1):+.1f} %)"


# -- lists --------------------------------------------------------------------------------------------


def _phases(old: Sequence[Phase], new: Sequence[Phase]) -> Iterator[str]:
    for number, (before, after) in enumerate(zip(old, new, strict=False)):
        if before.repeat != after.repeat:
            yield f"phase {number}: repeat {before.repeat} -> {after.repeat}"
        for section in ("prologue", "cycle", "epilogue"):
            yield from _list(f"phase {number}, {section}", getattr(before, section), getattr(after, section))
    for number in range(len(new), len(old)):
        yield f"phase {number} deleted ({_lines(old[number])} lines)"
    for number in range(len(old), len(new)):
        yield f"phase {number} added ({_lines(new[number])} lines)"


def _lines(phase: Phase) -> int:
    return len(phase.prologue) + len(phase.cycle) + len(phase.epilogue)


def _list(where: str, old: tuple[Step, ...], new: tuple[Step, ...]) -> Iterator[str]:
    if old == new:
        return
    deleted, added = _edits(old, new)
    moved = (Counter(step for _, step in deleted) & Counter(step for _, step in added)).total()
    counts = {"deleted": len(deleted) - moved, "added": len(added) - moved, "moved": moved}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    lines = [f"{where}: lines {', '.join(parts) or 'in another order'}"]
    edits = [("-", number, step) for number, step in deleted] + [("+", number, step) for number, step in added]
    edits.sort(key=lambda edit: (edit[1], edit[0]))
    lines += [f"    {sign} {number}: {json.dumps(jsonable(step))}" for sign, number, step in edits[:SHOWN]]
    if len(edits) > SHOWN:
        lines.append(f"    ... and {len(edits) - SHOWN} more")
    yield "\n".join(lines)


def _edits(old: tuple[Step, ...], new: tuple[Step, ...]) -> tuple[list[tuple[int, Step]], list[tuple[int, Step]]]:
    """(line of the list, step) of what is only in the old list, and only in the new one, in this order."""
    first = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    last = 0
    while last < min(len(old), len(new)) - first and old[-1 - last] == new[-1 - last]:
        last += 1
    before, after = old[first : len(old) - last], new[first : len(new) - last]
    if max(len(before), len(after)) > LONG:
        gone, come = Counter(before) - Counter(after), Counter(after) - Counter(before)
        return _pick(before, first, gone), _pick(after, first, come)
    deleted: list[tuple[int, Step]] = []
    added: list[tuple[int, Step]] = []
    for kind, low, high, begin, end in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if kind != "equal":
            deleted += [(first + number, before[number]) for number in range(low, high)]
            added += [(first + number, after[number]) for number in range(begin, end)]
    return deleted, added


def _pick(steps: tuple[Step, ...], first: int, wanted: Counter[Step]) -> list[tuple[int, Step]]:
    """The first lines that hold the wanted steps, as often as wanted."""
    picked: list[tuple[int, Step]] = []
    for number, step in enumerate(steps):
        if wanted[step] > 0:
            wanted[step] -= 1
            picked.append((first + number, step))
    return picked
