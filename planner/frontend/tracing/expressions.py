"""What a forward computes, as expressions: two runs are the same if their losses and buffers are.

    tanh(x @ w + b) * 0.9      mul(tanh(linear(batch x, w, b)), 0.9)     each distinct expression has a number
    tanh(x @ w + b) * 0.81     another one

Seen as calls of torch's functions on fake tensors, so that a run takes a tenth of what tracing does. What no loss and
no buffer depends on (a map of attention that is kept for a picture) is in no expression; a mask that is kept for the
next forward is the same expression there, as long as nothing in it changes from step to step.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from hydraplan.planner.frontend.tracing.flags import changes, flags
from hydraplan.planner.frontend.tracing.refusals import UntraceableError

_RANDOM = re.compile(
    r"rand|dropout|bernoulli|multinomial|poisson|rrelu|(normal|uniform|exponential|cauchy|geometric|log_normal)_?$"
    r"|attention|lstm|gru|rnn|gumbel|fractional"
)
_OF_FORM = re.compile(r"(zeros|ones|empty|full)_like|new_(zeros|ones|empty|full|tensor)|size|stride|dim|numel")
"""Functions that take a tensor for its form alone."""
_NORMS = ("batch_norm", "instance_norm")
"""Write to their second and third argument, and torch does not count it as a new version."""
SEED_REMEDY = (
    "leave it out: what a forward draws follows from the job's seed, the step and the microbatch; numbers that never "
    "change belong in a buffer, drawn where the model is made"
)
FLAG_REMEDY = (
    "leave it out of the forward and the loss, for all of the model runs under the flags that its process has; grad "
    "mode and torch.autocast can be entered"
)
CHANCE = (
    "the forward computes something else at each call, of equal values and states (the time, a random number of the "
    "system's, an order that changes)"
)
CHANCE_REMEDY = "make it depend on the batch, on the constructor, or on torch's random numbers alone"
PARAMETER_REMEDY = (
    "only buffers can be updated: register it as a buffer, or write to a copy; a weight that is computed in the "
    "forward is a value of its own (F.linear(x, F.normalize(self.weight)), torch.nn.utils.parametrize)"
)
_SEED = "the seed of the process-wide generator"


class Expression(NamedTuple):
    function: str
    of: tuple[Any, ...]
    """Numbers of expressions as `_Of`, anything else as text."""
    changes: bool
    """Whether it is another in each step by itself: a batch, a trained parameter, random numbers."""


class _Of(int):
    """The number of an expression."""


class Expressions(TorchFunctionMode):
    """The expressions of one run after another, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.table: list[Expression] = []
        self.outside = flags()
        self.autocast = _autocast()
        """As torch.autocast has set it."""
        self._number: dict[tuple[str, tuple[Any, ...]], _Of] = {}
        self._of: dict[int, tuple[Tensor, _Of]] = {}
        self._stored: dict[int, _Of] = {}
        """Storage -> the call that wrote to it last."""
        self._drawn: Counter[tuple[str, tuple[Any, ...]]] = Counter()
        self._unseen: defaultdict[int, int] = defaultdict(int)
        self._chain = 0
        self._parameters: dict[int, str] = {}
        """Storage -> the parameter that lies in it."""
        self._buffers: set[int] = set()
        self.calls: list[int] = []
        """The calls of a run, one after another."""
        self.stop_at: int | None = None
        """The call of a run at which it is not the run that it was before."""

    # -- what there is before a run --

    def name(self, tensor: Tensor, name: str, *, changes: bool) -> None:
        """A tensor that a run finds: a parameter, a buffer, a value of the batch, a constant."""
        self._of[id(tensor)] = (tensor, self._add(name, (), changes))

    def begin(self) -> None:
        """A next run: what the one before made of what changes from step to step is not what it would be now."""
        written = set(self._stored)
        changing = self._changing(written)
        for key, (tensor, number) in list(self._of.items()):
            if changing[number]:
                self._of[key] = (tensor, self._add("kept from the step before", (number,), True))
        self._stored.clear()
        self._drawn.clear()
        self._unseen.clear()
        self._chain = 0
        self.calls = []

    def _changing(self, written: set[int]) -> list[bool]:
        """Of each expression: whether it is of what changes from step to step. `written`: storages."""
        roots = {number for tensor, number in self._of.values() if tensor.untyped_storage()._cdata in written}
        changing: list[bool] = []
        for number, each in enumerate(self.table):
            of = any(changing[other] for other in each.of if isinstance(other, _Of))
            changing.append(each.changes or of or (not each.of and number in roots))
        return changing

    def name_buffer(self, buffer: Tensor, name: str) -> None:
        """A buffer, which a forward may write to."""
        self.name(buffer, f"buffer {name}", changes=False)
        self._buffers.add(buffer.untyped_storage()._cdata)

    def name_parameter(self, parameter: Tensor, name: str) -> None:
        """A parameter, which nothing may write to."""
        self.name(parameter, f"parameter {name}", changes=parameter.requires_grad)
        self._parameters[parameter.untyped_storage()._cdata] = name

    # -- a run --

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        tensors = list(_tensors((args, given)))
        versions = [_version(each) for each in tensors]
        before = [self.number(each) for each in tensors]
        result = func(*args, **given)
        made = list(_tensors(result))
        wrote = [each for each, version in zip(tensors, versions, strict=True) if _version(each) != version]
        if made or wrote:
            self._check_flags(func)
            self.note(_named(func), (args, given), tensors, before, made, wrote)
        return result

    def note(
        self,
        name: str,
        given: Any,
        tensors: list[Tensor],
        before: list[_Of],
        made: Iterable[Tensor],
        wrote: list[Tensor],
    ) -> None:
        """A call of a function: `tensors` are those in `given`, `before` their expressions, `wrote` what it wrote."""
        short = name.rpartition(".")[2]
        if any(each.untyped_storage()._cdata in self._buffers for each in wrote) and _in_checkpoint():
            raise UntraceableError(
                f"the forward updates a buffer inside of torch's checkpoint (by {name}), which a plain loop does "
                "once more in its backward",
                "leave the layer that has the buffer out of the checkpoint: what is computed again the plan decides",
            )
        if short in _NORMS:
            wrote = [*wrote, *tensors[1:3]]
        numbers = {id(each): number for each, number in zip(tensors, before, strict=True)}
        of = tuple(_parts(given, numbers, by_form=bool(_OF_FORM.fullmatch(short))))
        draws = bool(_RANDOM.search(short.lower()))
        if draws:
            self._drawn[name, of] += 1
            of = (*of, f"draw {self._drawn[name, of]}")
        call = self._add(name, of, draws)
        if self.table[call].changes:
            self._chain = call
        self.calls.append(call)
        if self.stop_at == len(self.calls) - 1:
            raise UntraceableError(CHANCE, CHANCE_REMEDY)
        for position, each in enumerate(made):
            self._of[id(each)] = (each, call if not position else self._add("result", (call, str(position)), False))
        for each in wrote:
            written = self._parameters.get(each.untyped_storage()._cdata)
            if written is not None:
                raise UntraceableError(f"the forward updates parameter {written!r} (by {name})", PARAMETER_REMEDY)
            self._stored[each.untyped_storage()._cdata] = call

    def note_function(self, cls: type[Function], given: Any, result: Any) -> None:
        """A custom autograd function was applied: of what it was given, and of what its forward computed."""
        tensors = list(_tensors(given))
        made = [each for each in _tensors(result) if not any(each is other for other in tensors)]
        inside = [self.number(each) for each in made]
        before = [self.number(each) for each in tensors]
        self.note(f"{cls.__module__}.{cls.__qualname__}.apply", (given, inside), tensors, before, made, [])

    def number(self, tensor: Tensor) -> _Of:
        """The expression of what a tensor holds now."""
        found = self._of.get(id(tensor))
        if found is None:  # made by what is no function of torch's: of all that was seen
            form = f"unseen {tuple(tensor.shape)} {tensor.dtype}"
            self._unseen[self._chain] += 1
            found = (tensor, self._add(form, (_Of(self._chain), str(self._unseen[self._chain])), False))
            self._of[id(tensor)] = found
        written = self._stored.get(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else None
        return found[1] if written is None else self._add("written", (found[1], written), False)

    def kept(self, number: int) -> list[str]:
        """What of an expression is kept from the step before, as text."""
        todo, seen, found = [number], {number}, []
        while todo:
            each = self.table[todo.pop()]
            if each.function == "kept from the step before":
                found.append(self.table[each.of[0]].function)
                continue
            more = [other for other in each.of if isinstance(other, _Of) and other not in seen]
            seen.update(more)
            todo += more
        return found

    def _add(self, function: str, of: tuple[Any, ...], changes: bool) -> _Of:
        number = self._number.get((function, of))
        if number is None:
            number = self._number[function, of] = _Of(len(self.table))
            changes = changes or any(self.table[each].changes for each in of if isinstance(each, _Of))
            self.table.append(Expression(function, of, changes))
        return number

    def _check_flags(self, func: Callable[..., Any]) -> None:
        now = flags()
        if now == self.outside and _autocast() == self.autocast:
            return
        raise changed_flags(self, f"{_named(func)} runs under")


def changed_flags(expressions: Expressions, what: str) -> UntraceableError:
    """What to say where flags are not those outside of the forward."""
    changed = changes(expressions.outside, flags())
    for each in changed:
        if each.name == _SEED:
            return UntraceableError(f"the forward seeds the process-wide generator ({each.now})", SEED_REMEDY)
    told = ", ".join(map(str, changed[:2])) or "an autocast that was set by torch.set_autocast_enabled or its like"
    return UntraceableError(f"{what} flags that no graph holds: {told}", FLAG_REMEDY)


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")


autocast_state = _autocast


def _in_checkpoint() -> bool:
    """Whether torch's activation checkpointing is among the callers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "torch.utils.checkpoint":
        frame = frame.f_back
    return frame is not None


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _named(func: Callable[..., Any]) -> str:
    owner = getattr(func, "__self__", None)
    name = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__", "__delete__"):
        return f"{name}.{getattr(owner, '__name__', '')}"
    return str(getattr(func, "__qualname__", name))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


def _parts(value: Any, numbers: Mapping[int, _Of], *, by_form: bool) -> Iterator[Any]:
    """What a call is given: expressions, and the rest as text."""
    if isinstance(value, Tensor):
        yield f"{tuple(value.shape)} {value.dtype}" if by_form else numbers[id(value)]
    elif isinstance(value, (list, tuple)):
        yield "("
        for each in value:
            yield from _parts(each, numbers, by_form=by_form)
        yield ")"
    elif isinstance(value, dict):
        for name, each in value.items():
            yield str(name)
            yield from _parts(each, numbers, by_form=by_form)
    elif isinstance(value, _Of):
        yield value
    elif isinstance(value, slice):
        yield "slice"
        yield from _parts((value.start, value.stop, value.step), numbers, by_form=by_form)
    elif isinstance(value, torch.Generator) or (callable(value) and not isinstance(value, (type, torch.dtype))):
        yield str(getattr(value, "__qualname__", type(value).__name__))
    else:
        yield repr(value)
