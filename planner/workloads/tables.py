"""The tables of a workload file: each key with its meaning, checked by pydantic, each mistake told in our words.

What a field means and what may be written there is both the documentation of its key and what a mistake's message
says is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from hydraplan.planner.workloads.values import Argument, Name, Rate, Size, pad_value, shown
from hydraplan.plans.file.models import LARGEST
from hydraplan.plans.language.names import CALLABLE, NAME_IN_WORDS
from hydraplan.plans.language.optimizer import ARGUMENTS
from hydraplan.plans.language.workload import Arguments, Lengths, OnDifference, Precision, Target

Location = tuple[str | int, ...]
CALL = CALLABLE
SHORTHAND = ("model", "data", "loss", "optimizer")
"""Tables that may be written as a text alone."""


def spelled_out(table: str, text: str) -> dict[str, str]:
    """The table that a text alone stands for."""
    if table == "optimizer":
        return {"name": text}
    if table == "model" and not re.fullmatch(CALL, text):
        return {"checkpoint": text}
    return {"call": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a workload file."""

    path: str
    """Dotted TOML path, list positions from 0."""
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


NAMED = f"a unique {NAME_IN_WORDS.removeprefix('a ')}"
RATE = 'a rate such as "12GB/s"'


def key(meaning: str, allowed: str, **limits: Any) -> Any:
    """A field of a table: what its value means, and what may be written."""
    return Field(description=meaning, json_schema_extra={"allowed": allowed}, **limits)


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LinkTable(Table):
    """A bandwidth: a rate for both directions, or a table of both."""

    load: Rate | None = key("host to device (without it: as fast as copies are)", RATE, default=None)
    spill: Rate | None = key("device to host (without it: as fast as copies are)", RATE, default=None)

    @model_validator(mode="before")
    @classmethod
    def _from_rate(cls, value: object) -> object:
        return (
            {"load": value, "spill": value} if isinstance(value, str | int) and not isinstance(value, bool) else value
        )


class HostTable(Table):
    memory: Size = key("host memory that the run may take", 'a size such as "64GiB"')
    update_workers: int = key("threads that run optimizer updates", "a whole number from 1", default=1, ge=1, le=1024)
    profile: str | None = key("speeds of the host's updates", "as for cluster.profile", default=None)


class DeviceTable(Table):
    name: Name = key("numbered from 0 where count is given", NAMED)
    count: int | None = key("how many equal devices", "a whole number from 1", default=None, ge=1, le=4096)
    backing: str = key(
        "what the device is",
        '"cpu", "cuda:N" (several may share one), or "cuda" (the device\'s own number)',
        default="cpu",
        pattern=r"^(cpu|cuda(:[0-9]{1,4})?)$",
    )
    budget: Size = key("memory that the device may use", 'a size such as "11GiB"')
    link: str | None = key(
        "shared with the other devices that name it", "the name of a link in cluster.links", default=None
    )
    bandwidth: LinkTable | None = key(
        "of a link of its own",
        'a rate such as "12GB/s", or { load = "12GB/s", spill = "10GB/s" }',
        default=None,
    )
    profile: str | None = key("speeds of this device", "as for cluster.profile", default=None)


class ClusterTable(Table):
    profile: str | None = key(
        "speeds",
        'a file that `hydraplan profile -o FILE` wrote, or a catalogue entry such as "rtx-2080-ti"',
        default=None,
    )
    links: dict[Name, LinkTable] = key(
        "links that devices share", 'a table of rates such as { pcie = "24GB/s" }', default={}
    )
    host: HostTable = key("the host", "the table [cluster.host]")
    devices: list[DeviceTable] = key("the devices", "at least one table [[cluster.devices]]", min_length=1)


class TargetTable(Table):
    """A callable with its keyword arguments, or its path alone."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, Argument]

    call: str = key(
        "what to import and call; all other keys are its arguments",
        '"package.module:callable"',
        pattern=CALL,
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: object) -> object:
        return spelled_out("data", value) if isinstance(value, str) else value

    def target(self) -> Target:
        return Target(path=self.call, arguments=tuple(sorted((self.model_extra or {}).items())))


class ModelTable(Table):
    """A callable with its keyword arguments, or a local checkpoint; either's path alone."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, Argument]

    call: str | None = key(
        "what makes the model; all other keys are configuration values, or its arguments",
        '"transformers:ClassName", or "package.module:callable"',
        default=None,
        pattern=CALL,
    )
    checkpoint: str | None = key(
        "relative to the workload's folder; all other keys are configuration values that differ from the checkpoint's",
        "a folder that transformers saved a model in",
        default=None,
        min_length=1,
    )
    architecture: str | None = key(
        "a checkpoint's class; without it: as saved",
        "a class of transformers, or package.module:Class",
        default=None,
        pattern=r"^([A-Za-z_][\w.]*:)?[A-Za-z_][\w.]*$",
    )
    initialise: list[str] = key(
        "tensors that a checkpoint lacks, to start under the job's seed", "a list of their names", default=[]
    )
    ignore: list[str] = key("tensors of a checkpoint to leave out", "a list of their names", default=[])

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return spelled_out("model", value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> ModelTable:
        if (self.call is None) == (self.checkpoint is None):
            raise ValueError("give either `call` or `checkpoint`" + (", not both" if self.call else ""))
        if self.call is not None:
            idle = [name for name in ("architecture", "initialise", "ignore") if name in self.model_fields_set]
            if idle:
                raise ValueError(f"{', '.join(idle)} can be given with a checkpoint alone")
        return self

    def arguments(self) -> Arguments:
        return tuple(sorted((self.model_extra or {}).items()))


class OptimizerTable(Table):
    """An optimizer of torch with its arguments, or its name alone."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, Argument]

    name: Literal["SGD", "Adam", "AdamW"] = key(
        "a class of torch.optim; all other keys are its arguments", 'one of "SGD", "Adam", "AdamW"'
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return spelled_out("optimizer", value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_arguments(self) -> OptimizerTable:
        known = ARGUMENTS[self.name]
        wrong = [f"{name!r}{_nearest(name, known)}" for name in sorted(set(self.model_extra or {}) - known)]
        if wrong:
            raise ValueError(f"{self.name} takes no {', '.join(wrong)}; it takes {', '.join(sorted(known))}")
        return self

    def target(self) -> Target:
        return Target(path=self.name, arguments=tuple(sorted((self.model_extra or {}).items())))


class LengthsTable(Table):
    """Items of differing length: what they are padded to, and with what."""

    buckets: list[int] = key("lengths that batches are padded to", "a list of ascending whole numbers", min_length=1)
    pad: dict[str, Annotated[Any, BeforeValidator(pad_value)]] = key(
        "what fills up the items of each key that differ in length",
        "a table such as { input_ids = 0, labels = -100 }",
        min_length=1,
    )

    @model_validator(mode="after")
    def _ascending(self) -> LengthsTable:
        if self.buckets[0] < 1 or self.buckets != sorted(set(self.buckets)):
            raise ValueError(f"buckets {self.buckets} have to ascend, from 1; put them in order, each once")
        return self

    def lengths(self) -> Lengths:
        return Lengths(buckets=tuple(self.buckets), pad=tuple(sorted(self.pad.items())))


class JobTable(Table):
    name: Name = key("a sweep appends its values", NAMED)
    model: ModelTable = key(
        "what is trained",
        '{ call = "transformers:ClassName", ... } with configuration values, '
        '{ call = "package.module:callable", ... } with arguments, or "path/to/checkpoint"',
    )
    data: TargetTable = key("a map-style data set", '{ call = "package.module:callable", ... } that returns one')
    loss: TargetTable | None = key(
        "loss(model, batch); without it: model(**batch).loss", '{ call = "package.module:callable" }', default=None
    )
    optimizer: OptimizerTable = key("of torch.optim", '{ name = "AdamW", lr = 1e-3, ... }, or "SGD", "Adam"')
    steps: int | None = key("training steps; or give epochs", "a whole number from 1", default=None, ge=1, le=LARGEST)
    epochs: int | None = key(
        "passes over the data (an incomplete last batch is dropped); or give steps",
        "a whole number from 1",
        default=None,
        ge=1,
        le=LARGEST,
    )
    batch_size: int = key("samples in a training step", "a whole number from 1", ge=1, le=LARGEST)
    microbatches: int = key(
        "equal slices of a batch whose gradients add up",
        "a whole number that divides batch_size",
        default=1,
        ge=1,
        le=LARGEST,
    )
    seed: int = key(
        "of initial weights, dropout and data order", "a whole number from 0, below 2^63", default=0, ge=0, lt=2**63
    )
    threads: int = key(
        "CPU threads of one cell; part of the job's numerics", "a whole number from 1 to 1024", default=1, ge=1, le=1024
    )
    lengths: LengthsTable | None = key(
        "of items of differing length: a batch is padded to the smallest bucket that holds its longest item; "
        "without it: all items are of one size",
        "{ buckets = [64, 128], pad = { input_ids = 0, labels = -100 } }",
        default=None,
    )
    precision: Precision = key(
        "what is computed in which type",
        '"fp32"; "bf16" (parameters in bf16, with fp32 masters); or "autocast" (bf16 where it is safe)',
        default="fp32",
    )
    audit: OnDifference = key(
        "what to do where two steps of the cut graph differ from two of the model",
        '"refuse", or "tell" (plan it, and say so)',
        default="refuse",
    )
    base: bool = key(
        "of a peft model: save the model that it adapts too; without it: its adapters alone",
        "true or false",
        default=False,
    )


TableType = TypeVar("TableType", bound=Table)


def dotted(location: Iterable[str | int], base: str) -> str:
    """`jobs[0]` and ("model", "n_layer") -> `jobs[0].model.n_layer`."""
    path = base
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path


def check_table(
    kind: type[TableType], raw: object, base: str, path_of: Callable[[Location, str], str] = dotted
) -> tuple[TableType | None, list[Problem]]:
    """Check one table; returns it, or every mistake in it. `path_of` maps a location in it to the file's path."""
    try:
        return kind.model_validate(raw), []
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            location = tuple(part for part in detail["loc"] if part != "[key]")
            problems.append(Problem(path=path_of(location, base), text=_explain(kind, location, detail)))
        return None, problems


def _explain(kind: type[Table], location: Location, detail: Any) -> str:
    right = _right(kind, location)
    match detail["type"]:
        case "missing":
            return f"missing; write {right}"
        case "extra_forbidden":
            table = _table_at(kind, location[:-1])
            known = [*table.model_fields, *(["sweep"] if table is JobTable else [])]
            return "unknown key" + (_nearest(str(location[-1]), known) or f"; the keys here are {', '.join(known)}")
        case "value_error":
            return str(detail["ctx"]["error"])
        case _:
            return f"{shown(detail['input'])} is not allowed; write {right}"


def _right(kind: type[Table], location: Location) -> str:
    """What may be written at a location, and what it means, by the innermost field."""
    text, table = "a table", kind
    for part in location:
        field = table.model_fields.get(str(part))
        if field is not None:
            text = f"{_allowed(field)} ({field.description})"
            table = _inner(field.annotation) or table
    return text


def _allowed(field: FieldInfo) -> str:
    assert isinstance(field.json_schema_extra, dict)
    return str(field.json_schema_extra["allowed"])


def _table_at(kind: type[Table], location: Location) -> type[Table]:
    for part in location:
        field = kind.model_fields.get(str(part))
        if field is not None:
            kind = _inner(field.annotation) or kind
    return kind


def _inner(annotation: Any) -> type[Table] | None:
    """The table type within an annotation such as `list[DeviceTable]` or `LinkTable | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((found for each in getattr(annotation, "__args__", ()) if (found := _inner(each))), None)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def keys(kind: type[Table] = ClusterTable, base: str = "cluster") -> Iterator[tuple[str, str, str]]:
    """(key, meaning, what may be written) of every key of a table and of the tables in it, in order; the README lists
    them."""
    for name, field in kind.model_fields.items():
        inner = _inner(field.annotation)
        yield f"{base}.{name}", field.description or "", _allowed(field)
        if inner is not None and inner in (HostTable, DeviceTable, ModelTable):
            yield from keys(inner, f"{base}.{name}")
