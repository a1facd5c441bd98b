"""What a plan imports and calls, told before any of it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydraplan.planner.frontend.users.origins import origin_of
from hydraplan.plans.language.calls import calls
from hydraplan.plans.language.quantities import format_count
from hydraplan.plans.language.workload import Job

LONGEST = 400
"""Characters of a call that are shown."""
MOST_NAMED = 3
"""Jobs named in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRow:
    """A call that some jobs have in common."""

    role: str
    call: str
    """As Python would write it."""
    origin: str
    """Where its module lies here."""
    jobs: tuple[str, ...]


def code_rows(jobs: Sequence[Job]) -> tuple[CodeRow, ...]:
    """Every distinct call of the jobs, in their order. Nothing is imported."""
    shared: dict[tuple[str, str, str], list[str]] = {}
    for call in calls(jobs):
        shared.setdefault((call.role, call.text, call.module), []).append(call.job)
    return tuple(
        CodeRow(role=role, call=text, origin=str(origin_of(module)), jobs=tuple(names))
        for (role, text, module), names in shared.items()
    )


def shown_call(row: CodeRow) -> str:
    rest = len(row.call) - LONGEST
    return row.call if rest <= 0 else f"{row.call[:LONGEST]}... (and {format_count(rest, 'character')} more)"


def shown_jobs(row: CodeRow) -> str:
    rest = len(row.jobs) - MOST_NAMED
    return ", ".join(row.jobs[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def code_lines(jobs: Sequence[Job]) -> list[str]:
    """The same as lines of text."""
    return [f"  {row.role} of {shown_jobs(row)}: {shown_call(row)}   [{row.origin}]" for row in code_rows(jobs)]
