"""What a plan may import and call: asked twice, before anything is imported and before anything is called.

A plan may come from someone else, and names callables with their arguments. It may name those

    in the working directory                     held to the plan's digests of their source
    in installed distributions                   that the plan names, with their version
    of transformers, as `transformers:Class`     a model class
    of torch                                     a module, a data set
    of hydraplan                                 its modules of models and data

and nothing else, but what the person who runs it allows by name (`--allow package.module:callable`). Where a name
leads counts, and so does where the object that it gives was made: `from os import system` in a module makes its
`module:system` a part of Python still.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator, Sequence
from types import MethodType
from typing import Any

from hydraplan.planner.frontend.users.imports import load
from hydraplan.planner.frontend.users.origins import Origin, origin_of
from hydraplan.plans.language.calls import Call, imported
from hydraplan.plans.language.errors import Finding, InvalidPlanError
from hydraplan.plans.language.plan import Fingerprint
from hydraplan.plans.language.workload import Job

OPEN = frozenset(
    f"hydraplan.tools.{each}" for each in ("demo.data", "families.models", "fuzz.models", "libraries.models")
)
"""Modules of our own that hold models and data; the others read and write files."""
OPEN_TARGETS = frozenset(
    f"hydraplan.tools.bench.{each}" for each in ("checkpoint:Rows", "soak:net", "soak:rows", "soak:loss")
)
"""Some more, in modules that do other things too."""
TRANSFORMERS, TORCH = "transformers", "torch"
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""Values of a configuration that may name a kernel on the hub: code that transformers would fetch and run."""


def refuse_before_import(jobs: Sequence[Job], planned: Sequence[Fingerprint], allow: Collection[str]) -> None:
    """Raises InvalidPlanError with every target that may not even be imported. Imports nothing."""
    named = {each.name for each in planned}
    _raise(
        finding
        for call in imported(jobs)
        if call.target.path not in allow
        for finding in _before(call, origin_of(call.module), named)
    )


def refuse_before_call(jobs: Sequence[Job], planned: Sequence[Fingerprint], allow: Collection[str]) -> None:
    """Imports all targets, and raises InvalidPlanError with each that may not be called, by what it is and by where it
    was made. Raises WorkloadError where one cannot be imported."""
    named = {each.name for each in planned}
    _raise(
        finding
        for call in imported(jobs)
        for found in (load(call.target.path),)
        if call.target.path not in allow
        for finding in _after(call, found, named)
    )


def to_allow(jobs: Sequence[Job], planned: Sequence[Fingerprint]) -> tuple[str, ...]:
    """The targets that execution refuses unless they are allowed by name. Imports them."""
    named = {each.name for each in planned}
    paths = {
        call.target.path: None
        for call in imported(jobs)
        if [*_before(call, origin_of(call.module), named)] or [*_after(call, load(call.target.path), named)]
    }
    return tuple(paths)


def homes(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The modules that the targets name, and those that what they give was made in. Imports them."""
    found = {call.module: None for call in imported(jobs)}
    for call in imported(jobs):
        found[home(load(call.target.path))] = None
    return tuple(found)


def home(found: Any) -> str:
    """The module in which a callable was made: of a function or class itself, of an object its class."""
    while isinstance(found, functools.partial | MethodType):
        found = found.func if isinstance(found, functools.partial) else found.__func__
    if not (inspect.isroutine(found) or isinstance(found, type)):
        made = inspect.unwrap(found)  # a cache around a function, and the like
        found = made if made is not found else type(found)
    module = getattr(found, "__module__", None)
    return module if isinstance(module, str) else type(found).__module__


def _before(call: Call, origin: Origin, named: Collection[str]) -> Iterator[Finding]:
    yield from _by_origin(call, origin, named, f"{call.target.path} ")
    for name, value in call.target.arguments:
        if name in IMPLEMENTATIONS and isinstance(value, str) and "/" in value:
            yield _finding(call, f"{name} {value!r} would fetch code and run it", f"{call.pointer}/arguments/{name}")


def _after(call: Call, found: Any, named: Collection[str]) -> Iterator[Finding]:
    where = home(found)
    if where != call.module:
        of = f"{call.target.path} is {where}.{getattr(found, '__qualname__', type(found).__qualname__)}, which "
        refused = [*_by_origin(call, origin_of(where), named, of)]
        if refused:
            yield from refused
            return
    for package in (TRANSFORMERS, TORCH):
        if package in (call.module.partition(".")[0], where.partition(".")[0]) and not _is_one_of(package, found):
            what = "no model class of transformers" if package == TRANSFORMERS else "no module and no data set of torch"
            yield _finding(call, f"{call.target.path} is {what}")
            return


def _is_one_of(package: str, found: Any) -> bool:
    if not isinstance(found, type):
        return False
    if package == TRANSFORMERS:
        from transformers import PreTrainedModel

        return issubclass(found, PreTrainedModel)
    from torch import nn
    from torch.utils.data import Dataset

    return issubclass(found, nn.Module | Dataset)


def _by_origin(call: Call, origin: Origin, named: Collection[str], what: str) -> Iterator[Finding]:
    """A refusal by where a module lies. Of modules that are absent importing them tells more."""
    match origin.kind:
        case "python":
            yield _finding(call, f"{what}comes with Python ({origin.module})")
        case "own" if origin.module not in OPEN and call.target.path not in OPEN_TARGETS:
            yield _finding(call, f"{what}is part of hydraplan itself, and no model and no data")
        case "elsewhere":
            yield _finding(call, f"{what}lies in {origin}, outside of the working directory and of what is installed")
        case "distribution" if not set(origin.distributions) & {*named}:
            yield _finding(call, f"{what}comes from {origin}, which the plan does not name")


def _finding(call: Call, cause: str, pointer: str | None = None) -> Finding:
    return Finding(
        pointer=pointer or f"{call.pointer}/path",
        line=None,
        cause=f"{call.role} of {call.job}: {cause}",
        remedy=f"where you trust it with these arguments, add --allow {call.target.path}",
    )


def _raise(findings: Iterator[Finding]) -> None:
    found = tuple(findings)
    if found:
        raise InvalidPlanError(found)
