"""Texts for the user's own Python objects that are part of a graph: equal for equal code and values, in any process.

What a graph's digest says of a custom function or operator, which torch.fx knows by address alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import Tensor


def described(value: object) -> str:
    """A value by what it holds; a function or class by its name and source."""
    return _described(value, ())


def short_digest(text: str) -> str:
    """Enough of a text's sha256 to tell it from all others in a graph."""
    return sha256(text.encode()).hexdigest()[:16]


def held(value: object) -> Iterator[Tensor]:
    """Tensors within a value: in containers, attributes of plain objects, and variables that functions close over."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            yield each
        else:
            todo += _parts(each)


def _parts(value: object) -> list[object]:
    if isinstance(value, ModuleType | type):
        return []
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return list(value)
    if isinstance(value, FunctionType):
        return _closed_over(value)
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    return list(getattr(value, "__dict__", {}).values())


def _described(value: object, within: tuple[int, ...]) -> str:
    if id(value) in within:
        return f"level {within.index(id(value))}"
    within = (*within, id(value))

    def each(part: object) -> str:
        return _described(part, within)

    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype}"
    if isinstance(value, type):
        return _of_class(value, each)
    if isinstance(value, staticmethod | classmethod | partial):
        inner = value.func if isinstance(value, partial) else value.__func__
        rest = (value.args, value.keywords) if isinstance(value, partial) else ()
        return f"{type(value).__name__} {each(inner)} {each(rest)}"
    if isinstance(value, FunctionType):
        return _of_function(value, each)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{each(name)}: {each(part)}" for name, part in value.items()) + "}"
    if isinstance(value, Set):
        return f"{type(value).__name__} {sorted(map(each, value))}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} [{', '.join(map(each, value))}]"
    if " at 0x" not in (text := repr(value)):
        return text
    return f"{type(value).__module__}.{type(value).__qualname__} {each(dict(getattr(value, '__dict__', {})))}"


def _of_class(value: type, each: Callable[[object], str]) -> str:
    """Its name, and the functions that it and its bases among the user's classes define."""
    name = f"{value.__module__}.{value.__qualname__}"
    if _is_library(value):
        return name
    functions = {
        key: part for key, part in vars(value).items() if isinstance(part, staticmethod | classmethod | FunctionType)
    }
    bases = [base for base in value.__bases__ if base is not object]
    return f"class {name} {each(bases)} {each(functions)}"


def _of_function(value: FunctionType, each: Callable[[object], str]) -> str:
    name = f"{value.__module__}.{value.__qualname__}"
    if _is_library(value):
        return name
    return f"{name} {_source(value)} {each(value.__defaults__)} {each(_closed_over(value))}"


def _is_library(value: Any) -> bool:
    """Of torch or Python: a plan's fingerprints hold their versions."""
    return str(value.__module__).split(".")[0] in ("torch", "builtins", "functools")


def _source(value: FunctionType) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # typed in, or made by exec: no file holds it
        return _bytecode(value.__code__)


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _closed_over(value: FunctionType) -> list[object]:
    found = []
    for cell in value.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    return found
