"""What a forward can keep in Python from one step to the next: all that the model and the user's modules hold.

    the model           attributes of its parts, however deep; its parameters' own memory and flags; hooks; the parts
    the loss            its closure, its attributes
    user's modules      their globals, their classes' and functions' attributes

A snapshot says what is there, so that two can be compared, and puts it back in the same objects.
"""

from __future__ import annotations

import random
import sys
import sysconfig
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from itertools import count, cycle
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NOTHING = "nothing"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout, range)
_OTHERS = frozenset({*sys.stdlib_module_names, "torch", "numpy", "hydraplan", "sympy", "_pytest", "pytest"})
"""Packages whose objects keep nothing of a user's forward, but for modules and containers."""
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_CONTAINERS = (list, tuple, deque, set, frozenset)
_REGISTRIES = ("_modules", "_parameters", "_buffers")
"""Of a module: what they hold goes by the module's own names."""
_MOST = 200_000
"""Objects that are looked at: state beyond is for the audit."""
_MOST_BYTES = 1 << 20
"""Of an array whose bytes are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that differs between two snapshots."""

    path: str
    before: str
    now: str
    owner: object
    """What holds it; it is read again to find the line that changes it."""
    registered: bool
    """A part, parameter or buffer of a module."""

    def __str__(self) -> str:
        return f"{self.path} ({self.before} before, {self.now} after)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    owner: Any
    content: Any
    """A shallow copy of what it held."""
    path: str


class Snapshot:
    """The state that is reachable from some roots, by path."""

    def __init__(self, roots: Mapping[str, object]) -> None:
        self.values: dict[str, tuple[str, object]] = {}
        """Path -> what lies there, and what holds it."""
        self.tensors: dict[str, Tensor] = {}
        self._holders: list[_Holder] = []
        self._data: list[tuple[nn.Parameter, Tensor, bool]] = []
        self._seen: set[int] = set()
        self._registries: dict[int, str] = {}
        todo: deque[tuple[str, Any, object]] = deque((path, root, None) for path, root in roots.items())
        while todo and len(self._seen) < _MOST:
            todo.extend(self._look(*todo.popleft()))

    def changes(self, later: Snapshot) -> list[Change]:
        """What differs in a later snapshot of the same roots, tensors by their forms."""
        registries = {*self._registries, *later._registries}
        return [
            Change(
                path=path,
                before=self.values.get(path, (NOTHING, None))[0],
                now=later.values.get(path, (NOTHING, None))[0],
                owner=(self.values.get(path) or later.values[path])[1],
                registered=id((self.values.get(path) or later.values[path])[1]) in registries,
            )
            for path in dict.fromkeys([*self.values, *later.values])
            if self.values.get(path, (None,))[0] != later.values.get(path, (None,))[0]
        ]

    def restore(self) -> None:
        """Put all back, in the same objects."""
        for each in self._holders:
            _refill(each.owner, each.content)
        for parameter, data, requires_grad in self._data:
            if parameter.untyped_storage()._cdata != data.untyped_storage()._cdata or parameter.shape != data.shape:
                parameter.data = data
            parameter.requires_grad_(requires_grad)

    def _look(self, path: str, value: Any, owner: object) -> Iterator[tuple[str, Any, object]]:
        """Note a value; what it holds is yielded."""
        if isinstance(value, Tensor):
            self.values[path] = (_form(value), owner)
            self.tensors[path] = value
            if isinstance(value, nn.Parameter) and id(value) not in self._seen:
                self._seen.add(id(value))
                self._data.append((value, value.data, value.requires_grad))
            return
        plain = _plain(value)
        if plain is not None:
            self.values[path] = (plain, owner)
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        content = _content(value)
        if content is None:
            self.values[path] = (f"a {type(value).__qualname__}", owner)
            return
        self._holders.append(_Holder(owner=value, content=content, path=path))
        named = content.items() if isinstance(content, dict) else enumerate(content)
        if isinstance(value, nn.Module):
            self._registries |= {id(content[name]): name for name in _REGISTRIES if name in content}
        registry = id(value) in self._registries
        if isinstance(value, (list, deque, dict)) and not registry:
            self.values[f"len({path})"] = (str(len(value)), value)
        for name, each in list(named):
            yield f"{path}.{name}" if registry else _joined(path, name, value), each, value


def read(owner: object) -> list[str]:
    """What an object holds at its top, to see when that changes."""
    content = _content(owner)
    values = content.values() if isinstance(content, dict) else content or ()
    return [_form(each) + f" {id(each)}" if isinstance(each, Tensor) else str(_plain(each)) for each in list(values)]


def roots_of(model: nn.Module, loss: object) -> dict[str, object]:
    """Where to look: the model, its loss, and the globals of the modules that their code lies in."""
    names = {type(part).__module__ for part in model.modules()}
    for function in (loss, *(cell.cell_contents for cell in getattr(loss, "__closure__", None) or ())):
        names.add(str(getattr(function, "__module__", "")))
    names |= {name for name, module in list(sys.modules.items()) if _is_users(name, module)}
    found: dict[str, object] = {"self": model, "loss": loss}
    for name in sorted(names):
        if name.partition(".")[0] not in _OTHERS and name in sys.modules:
            found[name] = _Globals(sys.modules[name])
    return found


class _Globals:
    """What a module's names hold that may be state: not what it has imported."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def content(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self.module).items()
            if not name.startswith("__") and (not _has_home(value) or value.__module__ == self.module.__name__)
        }


def _has_home(value: object) -> bool:
    return isinstance(value, (FunctionType, type))


def _is_users(name: str, module: object) -> bool:
    file = getattr(module, "__file__", None)
    if not file or name.partition(".")[0] in _OTHERS or name == "conftest" or not isinstance(module, ModuleType):
        return False
    return not file.startswith(_LIBRARIES)


def _joined(path: str, name: object, owner: object) -> str:
    if isinstance(owner, (list, tuple, deque, CellType, set, frozenset)):
        return f"{path}[{name}]"
    if isinstance(owner, dict):
        return f"{path}[{name!r}]" if isinstance(name, (str, int, tuple, float)) else f"{path}[{type(name).__name__}]"
    if isinstance(owner, nn.Module) and name in _REGISTRIES:
        return path
    return f"{path}.{name}"


# -- what a value is ------------------------------------------------------------------------------------


def _form(tensor: Tensor) -> str:
    if not isinstance(tensor, nn.Parameter):
        return f"a tensor of {tensor.dtype} {tuple(tensor.shape)}"
    kind = "trained" if tensor.requires_grad else "frozen"
    return f"a {kind} Parameter of {tensor.dtype} {tuple(tensor.shape)} at {tensor.untyped_storage()._cdata:x}"


def _plain(value: Any) -> str | None:
    """What a value is, where it holds no others."""
    if isinstance(value, (*_PLAIN, Enum, np.generic, count, cycle)):
        return repr(value)
    if isinstance(value, (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)):
        return f"a {type(value).__qualname__} at {_digest(_generator_state(value))}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape} {_digest(value) if value.nbytes <= _MOST_BYTES else ''}"
    if isinstance(value, (BuiltinFunctionType, ModuleType)):
        return f"{type(value).__name__} {getattr(value, '__name__', '')}"
    return None


def _digest(value: object) -> str:
    content = value.tobytes() if isinstance(value, np.ndarray) and value.dtype != object else repr(value).encode()
    return blake2b(content, digest_size=6).hexdigest()


def _generator_state(generator: Any) -> object:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator):
        return (generator.initial_seed(), generator.get_state().tolist())
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator._bit_generator
    state = bits.state
    return {**state, "state": {name: np.asarray(each).tolist() for name, each in state["state"].items()}}


def _content(value: Any) -> Any:
    """A shallow copy of what a value holds; None: nothing that is looked at."""
    if isinstance(value, _Globals):
        return value.content()
    if isinstance(value, dict):  # one of a library's own may make what is asked for, and tell of it by its own items
        return dict(dict.items(value))
    for kind in _CONTAINERS:
        if isinstance(value, kind):
            iterate: Any = kind.__iter__
            return list(iterate(value))
    if isinstance(value, CellType):
        try:
            return [value.cell_contents]
        except ValueError:  # not filled yet
            return []
    if isinstance(value, MethodType):
        return {"__self__": value.__self__, "__func__": value.__func__}
    if isinstance(value, FunctionType):
        if value.__module__.partition(".")[0] in _OTHERS - {"hydraplan"}:
            return None
        cells = dict(zip(value.__code__.co_freevars, value.__closure__ or (), strict=True))
        return {**vars(value), **cells, "__defaults__": value.__defaults__, "__kwdefaults__": value.__kwdefaults__}
    if isinstance(value, type):
        return None if value.__module__.partition(".")[0] in _OTHERS else _class_attributes(value)
    if isinstance(value, nn.Module):
        attributes = dict(vars(value))
        if type(value).__module__.partition(".")[0] not in _OTHERS:
            attributes["__class__"] = type(value)
        return attributes
    if type(value).__module__.partition(".")[0] in _OTHERS:
        return None
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    found = {name: getattr(value, name) for name in slots if name != "__dict__" and hasattr(value, name)}
    return {**found, **getattr(value, "__dict__", {})} or None


def _class_attributes(kind: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("__")
        and not isinstance(value, (FunctionType, classmethod, staticmethod, property, type))
    }


def _refill(owner: Any, content: Any) -> None:
    if isinstance(owner, dict):
        kind = OrderedDict if isinstance(owner, OrderedDict) else dict
        if not _same_items(dict(dict.items(owner)), content):
            kind.clear(owner)
            for name, value in content.items():
                kind.__setitem__(owner, name, value)
    elif isinstance(owner, (list, deque)):
        if len(owner) != len(content) or any(one is not other for one, other in zip(owner, content, strict=True)):
            owner.clear()
            owner.extend(content)
    elif isinstance(owner, set):
        if owner != set(content):
            owner.clear()
            owner.update(content)
    elif isinstance(owner, CellType):
        if content:
            owner.cell_contents = content[0]
    elif isinstance(owner, _Globals):
        _refill_names(owner.module, owner.content(), content)
    elif isinstance(owner, FunctionType):
        _refill_names(owner, vars(owner), {name: content[name] for name in content if not _is_of_code(owner, name)})
    elif isinstance(owner, type):
        _refill_names(owner, _class_attributes(owner), content)
    elif isinstance(owner, nn.Module):
        kept = {name: value for name, value in content.items() if name != "__class__"}
        if not _same_items(vars(owner), kept):
            vars(owner).clear()
            vars(owner).update(kept)
    elif not isinstance(owner, (tuple, frozenset, MethodType)):
        _refill_names(owner, _content(owner) or {}, content)


def _is_of_code(function: FunctionType, name: str) -> bool:
    return name in ("__defaults__", "__kwdefaults__") or name in function.__code__.co_freevars


def _refill_names(owner: Any, now: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    change: Callable[..., None] = setattr if isinstance(owner, (type, ModuleType, FunctionType)) else object.__setattr__
    for name in [name for name in now if name not in content]:
        delattr(owner, name)
    for name, value in content.items():
        if name not in now or now[name] is not value:
            change(owner, name, value)


def _same_items(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return list(one) == list(other) and all(one[name] is other[name] for name in one)
