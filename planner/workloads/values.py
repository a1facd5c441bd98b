"""The values of a workload file's keys: text that becomes a number, and what a plan can hold."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hydraplan.plans.file.models import LARGEST, MOST_DIGITS
from hydraplan.plans.language.names import NAME
from hydraplan.plans.language.quantities import parse_bytes, parse_rate
from hydraplan.plans.language.workload import Pad, Value

LONGEST = 200
"""Characters of a value in a message."""


def shown(value: object) -> str:
    """A value as it is written; of a long one its beginning."""
    if isinstance(value, int) and value.bit_length() > 500:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _rate(value: object) -> object:
    return parse_rate(value) if isinstance(value, str) else value


def _argument(value: object) -> Value:
    """A value that a plan can hold: JSON's, lists as tuples, no tables, no NaN."""
    match value:
        case int() if abs(value) >= 10**MOST_DIGITS:
            raise ValueError(f"{shown(value)} is too large for any argument; write no more than {MOST_DIGITS} digits")
        case bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{value} cannot stand in a plan; write a finite number")
            return value
        case list():
            return tuple(_argument(each) for each in value)
        case dict():
            raise ValueError("a table cannot be an argument; write a callable of your own that makes it")
        case _:
            raise ValueError(f"a {type(value).__name__} cannot be an argument; write it as text")


def pad_value(value: object) -> Pad:
    match value:
        case bool() | int() if abs(value) <= LARGEST:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            raise ValueError(f"{shown(value)} cannot fill up an item; write a finite number, true or false")


Name = Annotated[str, Field(pattern=NAME)]
Size = Annotated[int, BeforeValidator(_bytes), Field(ge=1, le=LARGEST)]
Rate = Annotated[int, BeforeValidator(_rate), Field(ge=1, le=LARGEST)]
Argument = Annotated[Any, BeforeValidator(_argument)]
