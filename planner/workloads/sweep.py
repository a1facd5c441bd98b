"""The `sweep` table of a job: the grid of its values, each point a job table of its own with a readable name.

    sweep = { "optimizer.lr" = [1e-3, 3e-4], batch_size = [8, 16] }

    small -> small-lr0.001-bs8, small-lr0.001-bs16, small-lr0.0003-bs8, small-lr0.0003-bs16

The first key varies slowest, so the order of the file is the order of the jobs.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from hydraplan.planner.workloads.tables import SHORTHAND, JobTable, Problem, dotted, spelled_out

Key: TypeAlias = tuple[str, ...]
"""A dotted key, split."""

SHORT = {"batch_size": "bs", "microbatches": "mb"}
"""Names of keys within a job's name, where they are not the key's last part."""
NOT_SWEPT = ("name", "sweep")
LONGEST = 32
"""Characters that a value adds to a name, at most."""
MOST_JOBS = 10_000
"""A larger grid is a slip: a list of thousands of values, or too many keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One job of a sweep, as a table without `sweep`."""

    table: dict[str, Any]
    swept: tuple[tuple[Key, int], ...] = ()
    """(key, index of its value in the key's list)."""

    def path(self, location: tuple[str | int, ...], base: str) -> str:
        """Where the value at `location` of the table was written in the file."""
        for key, index in self.swept:
            if location[: len(key)] == key:
                return f'{base}.sweep."{".".join(key)}"[{index}]'
        return dotted(location, base)


def expand(raw: Mapping[str, Any], base: str) -> tuple[list[SweepPoint], list[Problem]]:
    """The points of a job table's sweep; the table itself where it has none."""
    table = {key: value for key, value in raw.items() if key != "sweep"}
    if "sweep" not in raw:
        return [SweepPoint(table=table)], []
    sweep = raw["sweep"]
    if not isinstance(sweep, dict) or not sweep:
        advice = 'write a table of lists, such as { "optimizer.lr" = [1e-3, 3e-4] }'
        return [SweepPoint(table=table)], [Problem(path=f"{base}.sweep", text=f"{sweep!r} is no sweep; {advice}")]
    axes = dict(_axes(sweep))
    problems = [problem for key, values in axes.items() for problem in _check_axis(key, values, base)]
    if not problems and math.prod(len(values) for values in axes.values()) > MOST_JOBS:
        problems = [Problem(path=f"{base}.sweep", text=f"the grid has more than {MOST_JOBS} jobs; sweep fewer values")]
    if problems:
        return [SweepPoint(table=table)], problems
    return list(_points(table, axes)), []


def _axes(sweep: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """`"optimizer.lr" = [..]` and `optimizer.lr = [..]` (which TOML nests) are the same key."""
    for name, values in sweep.items():
        key = (*above, *name.split("."))
        if isinstance(values, dict):
            yield from _axes(values, key)
        else:
            yield key, values


def _check_axis(key: Key, values: Any, base: str) -> Iterator[Problem]:
    path = f'{base}.sweep."{".".join(key)}"'
    known = [name for name in JobTable.model_fields if name not in NOT_SWEPT]
    if key[0] not in known:
        near = get_close_matches(key[0], known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"sweep one of {', '.join(known)}"
        yield Problem(path=path, text=f"{key[0]!r} cannot be swept; {advice}")
    elif len(key) > 1 and key[0] not in (*SHORTHAND, "lengths"):
        yield Problem(path=path, text=f"{key[0]} has no keys below it; sweep {key[0]!r} itself")
    elif len(key) > 2:
        yield Problem(path=path, text=f"only arguments themselves can be swept, such as {key[0]}.{key[1]}")
    if not isinstance(values, list) or not values:
        yield Problem(path=path, text=f"{values!r} is not a list of values, such as [1, 2]")
        return
    for index, value in enumerate(values):
        if any(other == value and type(other) is type(value) for other in values[:index]):
            yield Problem(path=f"{path}[{index}]", text=f"{value!r} stands in the list before already; remove one")


def _points(table: Mapping[str, Any], axes: Mapping[Key, list[Any]]) -> Iterator[SweepPoint]:
    shorts = [SHORT.get(key[-1], key[-1]) for key in axes]
    labels = [short if shorts.count(short) == 1 else ".".join(key) for key, short in zip(axes, shorts, strict=True)]
    for chosen in itertools.product(*(enumerate(values) for values in axes.values())):
        point = copy.deepcopy(dict(table))
        for key, (_, value) in zip(axes, chosen, strict=True):
            _set(point, key, copy.deepcopy(value))
        if isinstance(point.get("name"), str):
            parts = [_part(label, index, value) for label, (index, value) in zip(labels, chosen, strict=True)]
            point["name"] = "-".join([point["name"], *parts])
        yield SweepPoint(table=point, swept=tuple((key, index) for key, (index, _) in zip(axes, chosen, strict=True)))


def _set(table: dict[str, Any], key: Key, value: Any) -> None:
    if len(key) == 1:
        table[key[0]] = value
        return
    inner = table.get(key[0], {})
    if isinstance(inner, str):
        inner = spelled_out(key[0], inner)
    if isinstance(inner, dict):
        table[key[0]] = inner | {key[1]: value}


def _part(label: str, index: int, value: Any) -> str:
    """What a value adds to its job's name: `lr0.001`, `bs8`, `betas0.9_0.95`, `SGD`, `no-amsgrad`, `model1`."""
    match value:
        case bool():
            return label if value else f"no-{label}"
        case int() | float():
            return label + _short(_number(value), index)
        case str():
            return _short(re.sub(r"[^A-Za-z0-9._]+", "_", value).strip("_"), index) or f"{label}{index}"
        case list() if all(isinstance(each, int | float) for each in value):
            return label + _short("_".join(_number(each) for each in value), index)
        case _:
            return f"{label}{index}"


def _number(value: float) -> str:
    """`0.001`, `1e30`: a name has no plus sign."""
    return repr(value).replace("+", "")


def _short(text: str, index: int) -> str:
    """A long text's beginning, and which of the sweep's values it is."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}-no{index}"
