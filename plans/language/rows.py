"""The plan's dataclasses as rows of named fields."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

PLAIN: frozenset[type] = frozenset({int, str, bool})
"""What most fields of steps hold, of which most of a plan consists: the same in a file."""


def field_names(row: object) -> tuple[str, ...]:
    """In the order of the class; of what is no dataclass none."""
    kind: Any = type(row)  # mypy takes a class for unhashable
    return _names(kind)


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()
