"""The plan file's objects as pydantic models, made from the plan's own dataclasses; used at the border alone.

Every object of the file may have a `note`. Where file and dataclass differ:

    file                                               dataclass
    {"op": "spill", "what": "gradients", ...}          SpillGradients(...)
    {"lr": 0.1}                                        (("lr", 0.1),)           arguments, sorted by name
    {"3": 1024}                                        (("3", 1024),)           bytes by slab
    {"labels": -100}                                   (("labels", -100),)      padding by key, sorted
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

from hydraplan.plans.language import steps
from hydraplan.plans.language.names import NAME
from hydraplan.plans.language.plan import FORMAT, Plan
from hydraplan.plans.language.steps import Step

Row: TypeAlias = type
"""One of the plan's dataclasses."""

_literal: Any = Literal
_list: Any = list
_dict: Any = dict
_tuple: Any = tuple
_union: Any = Union
_annotated: Any = Annotated
# These make types from values, which a type checker cannot follow.

OPERATIONS: dict[Row, tuple[str, str | None]] = {
    steps.Load: ("load", None),
    steps.Spill: ("spill", None),
    steps.SpillGradients: ("spill", "gradients"),
    steps.Drop: ("drop", None),
    steps.FetchBatch: ("fetch", "batch"),
    steps.Fetch: ("fetch", None),
    steps.Save: ("save", None),
    steps.Forward: ("forward", None),
    steps.Backward: ("backward", None),
    steps.Update: ("update", None),
}
"""Step -> its `op`, and its `what` where that is fixed."""

AT_LEAST_ONE = {
    "batch_size",
    "budget_bytes",
    "bytes_per_s",
    "copy_bytes_per_s",
    "flops_per_s",
    "host_memory_bytes",
    "load_bytes_per_s",
    "microbatches",
    "repeat",
    "spill_bytes_per_s",
    "steps",
    "threads",
    "update_bytes_per_s",
    "update_workers",
}
LARGEST = 2**63 - 1
"""Of all whole numbers but arguments: what a machine word holds, and what torch takes."""
MOST_DIGITS = 300
"""Of a whole number that is an argument."""
AT_MOST = {"threads": 1024, "update_workers": 1024}
"""More threads than any machine has."""
BACKING = r"^(cpu|cuda:[0-9]{1,4})$"
PATTERNS: dict[tuple[str, str], str] = {
    ("Job", "name"): NAME,
    ("Device", "name"): NAME,
    ("Device", "backing"): BACKING,
}
"""(dataclass, field) -> what the text has to match."""
MAPPINGS = {"arguments", "gradient_bytes", "pad"}
"""Fields that are pairs in the dataclass and an object in the file."""
BY_NAME = {"arguments", "pad"}
"""Those whose pairs are sorted by name, whatever their order in the file."""


class FileObject(BaseModel):
    """What every object of the file shares."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    note: Annotated[str, Field(description="Free text; kept, never read.")] = ""


@cache
def model_of(row: Row) -> type[FileObject]:
    """The model of a dataclass."""
    described = _descriptions(row)
    hints = get_type_hints(row)
    parts: dict[str, Any] = {}
    operation = OPERATIONS.get(row)
    if operation is not None:
        parts["op"] = (_literal[operation[0]], ...)
        if operation[1] is not None:
            parts["what"] = (_literal[operation[1]], ...)
    for part in fields(row):
        default: Any = ... if part.default is MISSING else part.default
        if operation is not None and operation[0] == "spill" and part.name == "what":
            default = ...  # it tells the two kinds of spill apart
        pattern = PATTERNS.get((row.__name__, part.name))
        annotation = _annotated[
            _annotation(part.name, hints[part.name]), Field(description=described.get(part.name), pattern=pattern)
        ]
        parts[part.name] = (annotation, default)
    return create_model(row.__name__, __base__=FileObject, __doc__=inspect.getdoc(row), **parts)


@cache
def file_model() -> type[FileObject]:
    """The model of a whole file."""
    plan = model_of(Plan)
    form = _annotated[_literal[FORMAT], Field(description="Name and version of this format.")]
    return create_model("PlanFile", __base__=plan, __doc__="A hydraplan plan.", format=(form, ...))


def _annotation(name: str, hint: Any) -> Any:
    if hint == Step:
        return _step_annotation()
    if name == "arguments":
        return dict[str, ArgumentValue]
    origin, arguments = get_origin(hint), get_args(hint)
    if name in MAPPINGS:
        _, value = get_args(arguments[0])
        return _dict[str, value if name == "pad" else _annotation("", value)]
    if isinstance(hint, type) and is_dataclass(hint):
        return model_of(hint)
    if origin is tuple and arguments[-1] is ...:
        return _list[_annotation("", arguments[0])]
    if origin is tuple:
        return _tuple[tuple(_annotation("", each) for each in arguments)]
    if origin in (Union, UnionType):
        return _union[tuple(_annotation(name, each) for each in arguments)]
    if hint is int:
        return _annotated[int, Field(ge=1 if name in AT_LEAST_ONE else 0, le=AT_MOST.get(name, LARGEST))]
    return hint


def _step_annotation() -> Any:
    kinds: dict[str, list[Any]] = {}
    for row, (operation, _) in OPERATIONS.items():
        kinds.setdefault(operation, []).append(model_of(row))
    choices = [
        members[0] if len(members) == 1 else _annotated[_union[tuple(members)], Field(discriminator="what")]
        for members in kinds.values()
    ]
    return _annotated[_union[tuple(choices)], Field(discriminator="op")]


def _plain(value: Any) -> Any:
    """An argument is null, true, false, a number, text, or a list of such."""
    if isinstance(value, dict):
        raise PydanticCustomError("argument", "an argument cannot be an object")
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        raise PydanticCustomError("argument_size", "an argument of more digits than a number may have")
    return value


ArgumentValue = Annotated[
    Any,
    AfterValidator(_plain),
    WithJsonSchema({"type": ["null", "boolean", "integer", "number", "string", "array"]}),
]


@cache
def _descriptions(row: Row) -> dict[str, str]:
    """Field -> the docstring that follows it."""
    tree = ast.parse(inspect.getsource(sys.modules[row.__module__]))
    body: Iterable[ast.stmt] = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == row.__name__
    )
    result: dict[str, str] = {}
    name: str | None = None
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            continue
        if name and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            result[name] = inspect.cleandoc(str(statement.value.value))
        name = None
    return result


# -- between models and dataclasses -------------------------------------------------------------------


@cache
def _rows() -> dict[str, Row]:
    """Model's name -> dataclass, of all that a plan can hold."""
    rows: dict[str, Row] = {"PlanFile": Plan}
    todo: list[Any] = [Plan, *OPERATIONS]
    while todo:
        hint = todo.pop()
        if is_dataclass(hint) and isinstance(hint, type):
            rows[hint.__name__] = hint
            todo += [each for name, each in get_type_hints(hint).items() if name != "arguments" and each != Step]
        else:
            todo += [each for each in get_args(hint) if not isinstance(each, str)]
    return rows


def to_row(model: FileObject, pointer: str, notes: dict[str, str]) -> Any:
    """The dataclass that a model stands for. Notes go into `notes`, by the JSON pointer of their object."""
    if model.note:
        notes[pointer] = model.note
    row = _rows()[type(model).__name__]
    return row(
        **{
            name: _to_value(name, getattr(model, name), f"{pointer}/{name}", notes)
            for name in [part.name for part in fields(row)]
        }
    )


def _to_value(name: str, value: Any, pointer: str, notes: dict[str, str]) -> Any:
    if isinstance(value, FileObject):
        return to_row(value, pointer, notes)
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], FileObject):
            return tuple(to_row(each, f"{pointer}/{number}", notes) for number, each in enumerate(value))
        return tuple(_to_value("", each, pointer, notes) for each in value)
    if isinstance(value, dict):
        pairs = ((key, _to_value("", each, pointer, notes)) for key, each in value.items())
        return tuple(sorted(pairs, key=lambda pair: pair[0]) if name in BY_NAME else pairs)
    return value
