"""Import what a workload names: `package.module:callable`, from installed packages or the working directory."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from hydraplan.planner.frontend.users.origins import OWN_PACKAGE, search_working_directory
from hydraplan.planner.frontend.users.usercode import RAISED, said
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Target, Value

OWN = f"{OWN_PACKAGE} is this project's own package: give your folder or module another name"
"""Ours is found first, so a user's module in a folder of that name is out of reach; the error says so."""


def load(path: str) -> Callable[..., Any]:
    """The callable that `path` names, such as `mylab.models:small_gpt`.

    The working directory is searched last: a user's folder never hides an installed package, nor ours.
    Raises WorkloadError where the path is malformed, the module is missing or fails to import, or the
    attribute is missing or cannot be called.
    """
    module_name, separator, attribute = path.partition(":")
    names = [*module_name.split("."), *attribute.split(".")]
    if not separator or not all(name.isidentifier() for name in names):
        raise WorkloadError(f"{path!r} names nothing to import: write package.module:callable")
    search_working_directory()
    found = _import(path, module_name)
    for depth, name in enumerate(attribute.split("."), start=1):
        try:
            found = getattr(found, name)
        except AttributeError:
            owner = ".".join([module_name, *attribute.split(".")[: depth - 1]])
            near = _nearest(name, vars(found) if hasattr(found, "__dict__") else ())
            if module_name.split(".")[0] == OWN_PACKAGE:
                near = f"; {OWN}"
            raise WorkloadError(f"{path!r}: {owner} has no {name!r}{near}") from None
    if not callable(found):
        raise WorkloadError(f"{path!r} is a {type(found).__name__}, not something to call: name a function or a class")
    return found  # type: ignore[no-any-return]


def arguments_of(target: Target) -> dict[str, Any]:
    """A target's arguments, lists as the user wrote them."""
    return {name: _plain(value) for name, value in target.arguments}


def _plain(value: Value) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _import(path: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(missing + "."):
            raise WorkloadError(
                f"{path!r}: module {module_name} imports {missing!r}, which is not installed: install it"
            ) from error
        hint = (
            OWN
            if missing.split(".")[0] == OWN_PACKAGE
            else f"install it, or run hydraplan in the folder that holds it (now {os.getcwd()})"
        )
        raise WorkloadError(f"{path!r}: there is no module {missing!r}: {hint}") from None
    except RAISED as error:
        raise WorkloadError(f"{path!r}: importing {module_name} failed: {said(error)}") from error


def _nearest(name: str, candidates: Iterable[str]) -> str:
    near = get_close_matches(name, [each for each in candidates if not each.startswith("__")], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
