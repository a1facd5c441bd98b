"""Findings as they are gathered: a name that leads nowhere, or that stands twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hydraplan.plans.language.errors import Finding
from hydraplan.plans.language.names import did_you_mean


class Findings:
    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, pointer: str, cause: str, remedy: str) -> None:
        self.findings.append(Finding(pointer=pointer, line=None, cause=cause, remedy=remedy))

    def known(self, pointer: str, what: str, name: str, names: Iterable[str]) -> bool:
        """Whether a name is among those that there are."""
        names = list(names)
        if name not in names:
            self.add(pointer, f'there is no {what} "{name}"', did_you_mean(name, names))
        return name in names

    def once(self, pointer: str, what: str, names: Sequence[str], field: str = "name") -> None:
        """No name twice in a list of objects (`field` holds it), or of names (`field` is empty)."""
        seen: set[str] = set()
        for number, name in enumerate(names):
            if name in seen:
                place = f"{pointer}/{number}" + (f"/{field}" if field else "")
                self.add(place, f'{what} "{name}" a second time', "delete or rename it")
            seen.add(name)
