"""Strict JSON of whatever numbers: it has no NaN and no infinity, so these become the strings that `float` reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def strict(value: object) -> object:
    """The same value with "NaN", "Infinity" and "-Infinity" for the floats that JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, Mapping):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    return value


def dumps_strict(value: object, *, indent: int | None = None) -> str:
    separators = (",", ":") if indent is None else None
    return json.dumps(strict(value), indent=indent, separators=separators, allow_nan=False)
