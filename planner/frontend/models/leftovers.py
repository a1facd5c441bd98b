"""What planning leaves in the user's modules: nothing. A model that is only traced has tensors without values.

    _TABLES = {}                            a module's containers, and those of its classes
    @lru_cache                              functions that remember
    def positions(length): ...

    planned:   positions(64) gives a fake tensor, and the cache keeps it
    executed:  the real model would be given that one

So whatever a module or class kept meanwhile that holds a fake tensor is as it was before; caches that grew are emptied.
"""

from __future__ import annotations

import operator
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

from torch._subclasses import FakeTensor

_CONTAINERS = (dict, defaultdict, OrderedDict, list, set)
_CACHE = type(lru_cache(lambda: None))
_OTHERS = frozenset({*sys.stdlib_module_names, "torch", "numpy", "hydraplan", "sympy", "networkx", "_pytest", "pytest"})
"""Packages that keep nothing of a user's model."""
_DEPTH = 4
"""How deep a fake tensor is looked for: a list in a tuple in a dictionary."""


@contextmanager
def nothing_left() -> Iterator[None]:
    """In force while a model is made and traced under fake tensors."""
    before = list(_kept())
    try:
        yield
    finally:
        for restore in before:
            restore()


def _kept() -> Iterator[Callable[[], None]]:
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and module.__name__.partition(".")[0] not in _OTHERS:
            yield from _of_names(module)
            for owned in list(vars(module).values()):
                if isinstance(owned, type) and owned.__module__ == module.__name__:
                    yield from _of_names(owned)


def _of_names(owner: ModuleType | type) -> Iterator[Callable[[], None]]:
    """What puts the names of a module or class back, and the containers and caches that they name."""
    names = dict(vars(owner))
    yield lambda: _restore_names(owner, names)
    for value in names.values():
        function = getattr(value, "__func__", value)
        if isinstance(function, _CACHE):
            yield _cleared_if_grown(function)
        elif type(value) in _CONTAINERS:  # others may do more than hold when they are asked
            yield _restored(value)


def _restore_names(owner: ModuleType | type, names: Mapping[str, object]) -> None:
    for name, value in list(vars(owner).items()):
        if name not in names and _holds_fake(value):
            delattr(owner, name)
        elif name in names and value is not names[name] and _holds_fake(value):
            setattr(owner, name, names[name])


def _cleared_if_grown(cache: Any) -> Callable[[], None]:
    held = cache.cache_info().currsize

    def clear() -> None:
        if cache.cache_info().currsize > held:
            cache.cache_clear()

    return clear


def _restored(container: Any) -> Callable[[], None]:
    content: Any = list(container) if isinstance(container, (list, set)) else dict(container)

    def restore() -> None:
        if _is_as_it_was(container, content) or not _holds_fake(container):
            return
        container.clear()
        if isinstance(container, list):
            container.extend(content)
        else:
            container.update(content)

    return restore


def _is_as_it_was(container: Any, content: Any) -> bool:
    """Whether it holds the same objects in the same order."""
    if len(container) != len(content):
        return False
    now, then = (each.values() if isinstance(each, dict) else each for each in (container, content))
    return all(map(operator.is_, list(now), then))


def _holds_fake(value: object, depth: int = _DEPTH) -> bool:
    if isinstance(value, FakeTensor):
        return True
    if not depth or isinstance(value, (str, bytes, type, ModuleType)):
        return False
    if isinstance(value, Mapping):
        return any(_holds_fake(each, depth - 1) for each in list(value.values()))
    if isinstance(value, (list, tuple, set)):
        return any(_holds_fake(each, depth - 1) for each in list(value))
    return any(_holds_fake(each, depth - 1) for each in getattr(value, "__dict__", {}).values())
