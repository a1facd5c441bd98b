"""Where in a JSON text each value stands, as a map from JSON pointer to line; and what Python's reader lets pass.

The text must have been read without a syntax error. (The one Python package with this task, json_source_map,
forgets duplicate keys, which are among what is looked for here, and has not been maintained since 2021.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]+|\n')


DEEPEST = 60
"""Brackets within brackets: a plan has a dozen, a workload fewer."""
LONGEST = 40
"""Characters of a number that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """A duplicate key, or a number that JSON does not have."""

    pointer: str
    line: int
    key: str | None
    """The duplicate key; None: a number."""
    text: str
    first_line: int
    """Where the key stands first."""


def escape(part: str) -> str:
    """One part of a JSON pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")


def line_nested_deeper(text: str, depth: int) -> int:
    """The line in which a text nests deeper than `depth` for the first time; 1: it does not."""
    line, open_now = 1, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "\n":
            line += 1
        elif token in "[{":
            open_now += 1
            if open_now > depth:
                return line
        elif token in "]}":
            open_now -= 1
    return 1


def nearest_line(lines: Mapping[str, int], pointer: str) -> int:
    """The line of a value, or of the innermost one around it that the text has."""
    while pointer and pointer not in lines:
        pointer = pointer.rpartition("/")[0]
    return lines.get(pointer, 1)


class Lines(Mapping[str, int]):
    """JSON pointer -> line, from 1; read from the text when first asked."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[str, int] | None = None
        self._oddities: list[Oddity] = []

    def __getitem__(self, pointer: str) -> int:
        return self._scanned()[pointer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scanned())

    def __len__(self) -> int:
        return len(self._scanned())

    def nearest(self, pointer: str) -> int:
        """The line of a value, or of the innermost one around it that the text has."""
        return nearest_line(self, pointer)

    @property
    def oddities(self) -> list[Oddity]:
        self._scanned()
        return self._oddities

    def _scanned(self) -> dict[str, int]:
        if self._lines is None:
            self._lines = {}
            self._scan(self._lines)
        return self._lines

    def _scan(self, lines: dict[str, int]) -> None:
        line = 1
        path = [""]
        """Pointer of each open container."""
        index: list[int | None] = []
        """Of each open container: the next element's number; None for an object."""
        key: str | None = None
        for match in _TOKEN.finditer(self._text):
            token = match.group()
            if token == "\n":
                line += 1
            elif token in "]}":
                index.pop()
                path.pop()
            elif token == "," or token == ":":
                continue
            elif index and index[-1] is None and key is None:
                key = json.loads(token)
                pointer = f"{path[-1]}/{escape(str(key))}"
                if pointer in lines:
                    self._oddities.append(
                        Oddity(pointer=pointer, line=line, key=key, text=token, first_line=lines[pointer])
                    )
                lines[pointer] = line
            else:
                pointer = path[-1]
                if key is not None:
                    pointer += f"/{escape(key)}"
                    key = None
                elif index:
                    number = index[-1]
                    assert number is not None
                    pointer += f"/{number}"
                    index[-1] = number + 1
                lines.setdefault(pointer, line)
                if token in "[{":
                    path.append(pointer)
                    index.append(0 if token == "[" else None)
                elif _not_a_number(token):
                    text = token if len(token) <= LONGEST else f"a number of {len(token)} digits"
                    self._oddities.append(Oddity(pointer=pointer, line=line, key=None, text=text, first_line=line))


def _not_a_number(token: str) -> bool:
    """NaN, Infinity, or a number beyond what a float holds, which Python reads as infinity."""
    if token[0] == '"' or token in ("true", "false", "null"):
        return False
    return token.lstrip("-") in ("NaN", "Infinity") or float(token) in (float("inf"), float("-inf"))
