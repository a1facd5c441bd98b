"""A plan file as a person edits it: line by line."""

from __future__ import annotations

import json


class Text:
    """A plan's text, edited line by line."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")

    def find(self, section: str = "cycle", **fields: object) -> int:
        """The first line of a section's list whose step has these fields."""
        first = next(number for number, line in enumerate(self.lines) if line.strip() == f'"{section}": [')
        for number in range(first + 1, len(self.lines)):
            line = self.lines[number].strip().rstrip(",")
            if line == "]":
                break
            step = json.loads(line)
            if all(step.get(name) == value for name, value in fields.items()):
                return number
        raise AssertionError(f"no {fields} in the {section}")

    def cut(self, number: int) -> str:
        """Delete a line, and the comma before it where it was its list's last."""
        line = self.lines.pop(number)
        if not line.endswith(","):
            self.lines[number - 1] = self.lines[number - 1].rstrip(",")
        return line

    def put(self, number: int, line: str) -> None:
        self.lines.insert(number, line)

    def sub(self, number: int, old: str, new: str) -> None:
        assert old in self.lines[number], self.lines[number]
        self.lines[number] = self.lines[number].replace(old, new, 1)

    def first(self, part: str) -> int:
        return next(number for number, line in enumerate(self.lines) if part in line)

    def __str__(self) -> str:
        return "\n".join(self.lines)
