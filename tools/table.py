"""How wide a table's columns are: as wide as what is in them, or narrower where a terminal is.

job            graph              finishes at         names are never broken, nor are words of figures;
slim-lr0.003   GPT2LMHeadMo           11.8 s          titles and other text give way
               del-1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP = 3
"""Between two columns."""
EDGE = 1
LEAST = 8
"""Characters that text is broken into at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    title: str
    figures: bool = False
    """Right-aligned; never broken within a word."""
    names: bool = False
    """Never broken at all."""


def text(title: str) -> Column:
    return Column(title=title)


def figures(title: str) -> Column:
    return Column(title=title, figures=True)


def names(title: str) -> Column:
    return Column(title=title, names=True)


def natural(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """Widths of the columns at which nothing is broken."""
    return [max(len(column.title), *map(len, cells)) for column, cells in _with_cells(columns, rows)]


def total(widths: Sequence[int]) -> int:
    """Characters of a line of the table."""
    return sum(widths) + GAP * (len(widths) - 1) + 2 * EDGE


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Widths of the columns that fit into lines of `width` characters; None: there are none.

    Titles give way first, then what is widest.
    """
    widths = natural(columns, rows)
    inside = [max(map(len, cells)) for _, cells in _with_cells(columns, rows)]
    least = [_least(column, cells) for column, cells in _with_cells(columns, rows)]
    while total(widths) > width:
        narrower = [number for number in range(len(columns)) if widths[number] > least[number]]
        if not narrower:
            return None
        widths[max(narrower, key=lambda number: (widths[number] > inside[number], widths[number]))] -= 1
    return widths


def _with_cells(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[tuple[Column, list[str]]]:
    for number, column in enumerate(columns):
        yield column, [row[number] for row in rows]


def _least(column: Column, cells: Sequence[str]) -> int:
    longest = max(len(word) for each in (column.title, *cells) for word in each.split())
    if column.names:
        return max(longest, *map(len, cells))
    return longest if column.figures else min(longest, LEAST)


def records(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The table's rows as a few lines each: `title value, title value, ...`, broken between these alone."""
    lines: list[str] = []
    for row in rows:
        line = ""
        for column, cell in zip(columns, row, strict=True):
            part = f"{column.title} {cell}".strip()
            if not cell:
                continue
            if line and len(line) + len(part) + 2 >= width:
                lines.append(f"{line},")
                line = f"   {part}"
            else:
                line += f", {part}" if line else f" {part}"
        lines.append(line)
    return lines
