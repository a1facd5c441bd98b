"""Custom autograd functions: each `Function.apply` of a model is one node of its graph, with its own backward.

    y, n = Clip.apply(x, 0.5)        ->      clip = Applied(Clip)(x, 0.5);  clip[0];  clip[1]

torch.export would dissolve the call into the operators of its forward, and training would silently use their
derivatives in place of the user's. So `apply` is recorded while a model is traced, and the node's target calls
it again wherever the node runs: on fake tensors (for costs and strides) and on real ones. A method bound long before
(`clip = Clip.apply` at the top of a module) holds torch's function itself: that gets other code meanwhile.

torch's own checkpointing dissolves: what a backward computes again is the plan's decision.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock, get_ident
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.autograd import Function
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, track_tensor_tree
from torch.fx.node import base_types
from torch.nn.modules._functions import BackwardHookFunction
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.checkpoint import CheckpointFunction

from hydraplan.planner.frontend.tracing.descriptions import described, short_digest
from hydraplan.planner.frontend.tracing.examination import examine
from hydraplan.planner.frontend.tracing.refusals import UntraceableError

_TORCHS: FunctionType = Function.__dict__["apply"].__func__
_APPLY: Callable[..., Any] = FunctionType(
    _TORCHS.__code__, _TORCHS.__globals__, _TORCHS.__name__, _TORCHS.__defaults__, _TORCHS.__closure__
)
"""torch's own, whatever code its function has now."""
_DERIVATIVES = ("grad", "backward")
_HOOKS = ("register_hook", "register_post_accumulate_grad_hook")


# -- recording ----------------------------------------------------------------------------------------


class _Mark(HigherOrderOperator):
    """Target of a custom function's node in an exported graph; what to call is in the node's meta."""

    def __init__(self) -> None:
        super().__init__("hydraplan_apply")  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a mark is replaced when the graph is normalised")


MARK = _Mark()


@contextmanager
def recorded() -> Iterator[None]:
    """While torch.export traces: custom functions become marked nodes; hooks on gradients, and derivatives that a
    forward takes, are refused."""
    hooks = {name: getattr(Tensor, name) for name in _HOOKS}
    derivatives = {name: getattr(torch.autograd, name) for name in _DERIVATIVES}
    for name, real in derivatives.items():
        setattr(torch.autograd, name, _underivable(name, real))
    for name, real in hooks.items():
        setattr(Tensor, name, _refusing(real))
    try:
        with _other_code():
            yield
    finally:
        for name, real in hooks.items():
            setattr(Tensor, name, real)
        for name, real in derivatives.items():
            setattr(torch.autograd, name, real)


@contextmanager
def _other_code() -> Iterator[None]:
    """Whoever calls torch's `Function.apply`, however it was bound, comes to `_record`."""
    code = _TORCHS.__code__
    _TORCHS.__code__ = _Recording.apply.__code__
    try:
        yield
    finally:
        _TORCHS.__code__ = code


Note: TypeAlias = Callable[[type[Function], Any, Any], None]
"""Called with a custom function, what it was given and what it made."""
_NOTES: dict[int, Note] = {}
"""Thread -> who is told of the functions that it applies."""


@contextmanager
def applications_noted(note: Note) -> Iterator[None]:
    """While a model runs untraced on fake tensors: `note` is told of each custom function that is applied."""
    _NOTES[get_ident()] = note
    try:
        with _other_code():
            yield
    finally:
        del _NOTES[get_ident()]


def _noted(cls: type[Function], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    note = _NOTES.get(get_ident())
    if note is None:
        return _APPLY(cls, *args, **kwargs)
    if cls is CheckpointFunction:
        return args[0](*args[2:])
    result = _APPLY(cls, *args, **kwargs)
    note(cls, (args, kwargs), result)
    return result


class _Recording:
    """The code that torch's `Function.apply` has meanwhile; its globals are torch's."""

    def apply(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - a class, as for torch's
        from hydraplan.planner.frontend.tracing.functions import _record

        __class__  # type: ignore[name-defined]  # noqa: B018 - as many free variables as torch's function has: it names its class too
        return _record(cls, *args, **kwargs)  # type: ignore[arg-type]


def _underivable(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def derive(*args: Any, **kwargs: Any) -> Any:
        if get_proxy_mode() is None:
            return real(*args, **kwargs)
        raise UntraceableError(
            f"the forward calls torch.autograd.{name}, whose derivatives no graph holds",
            "write the derivative as operators, or use a torch.autograd.Function",
        )

    return derive


def _refusing(real: Callable[..., Any]) -> Callable[..., Any]:
    def register(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if get_proxy_mode() is None:
            return real(self, *args, **kwargs)
        raise UntraceableError("a hook on a tensor's gradient, which no graph holds", "use a torch.autograd.Function")

    return register


def _record(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    tracing = get_proxy_mode()
    if tracing is None:  # other threads, and what runs inside of an operator
        return _noted(cls, args, kwargs)
    if cls is CheckpointFunction:
        return args[0](*args[2:])
    if cls.__module__ == CheckpointFunction.__module__:
        return _APPLY(cls, *args, **kwargs)
    if cls is BackwardHookFunction:
        raise UntraceableError("the module has backward hooks, which no graph holds", "use a torch.autograd.Function")
    leaves, spec = tree_flatten((args, kwargs))
    versions = [leaf._version for leaf in leaves if isinstance(leaf, Tensor)]
    with disable_proxy_modes_tracing():
        result = _APPLY(cls, *args, **kwargs)
    if versions != [leaf._version for leaf in leaves if isinstance(leaf, Tensor)]:
        raise UntraceableError(
            f"the forward of {cls.__qualname__} writes to its arguments", "let it write to a clone, and return that"
        )
    tracer: Any = tracing.tracer
    given = tuple(tracer.unwrap_proxy(leaf) for leaf in leaves if _in_graph(leaf))
    proxy = tracer.create_proxy("call_function", MARK, given, {}, name=cls.__name__)
    rest = {number: leaf for number, leaf in enumerate(leaves) if not _in_graph(leaf)}
    proxy.node.meta["applied"] = Applied(function=cls, spec=spec, rest=rest)
    return track_tensor_tree(result, proxy, constant=None, tracer=tracer)


def _in_graph(leaf: object) -> bool:
    """Whether torch.fx knows a value as an argument of a node."""
    return leaf is None or isinstance(leaf, Tensor) or type(leaf) in base_types


# -- a node's target ----------------------------------------------------------------------------------


class Applied:
    """A custom function as a node's target, called with the leaves of its arguments that torch.fx knows."""

    __module__ = __name__

    def __init__(
        self,
        *,
        function: type[Function],
        spec: TreeSpec,
        rest: Mapping[int, object],
        cloned: frozenset[int] = frozenset(),
        ran: str = "",
    ) -> None:
        self.function = function
        self.spec = spec
        self.rest = rest
        """The other leaves, by number among all of them, ascending."""
        self.cloned = cloned
        """Arguments that the function's context holds by itself, where no handle would find them in the arena."""
        self.ran = ran
        """Operators that it runs: part of what it is."""
        text = f"{described(function)} {spec} {described(dict(rest))} {sorted(cloned)} {ran}"
        self.digest = short_digest(text)
        self.__name__ = f"{function.__name__}_{self.digest}"

    def __call__(self, *given: Any) -> Any:
        leaves = [leaf.clone() if number in self.cloned else leaf for number, leaf in enumerate(given)]
        for number, leaf in self.rest.items():
            leaves.insert(number, leaf)
        args, kwargs = tree_unflatten(leaves, self.spec)
        return _APPLY(self.function, *args, **kwargs)

    def __repr__(self) -> str:
        """Differs for functions of one process that are not equal, though one text describes them (a factory's)."""
        return f"{self.__name__}_{_number(self)}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Applied):
            return False
        return (self.digest, self.function, self.rest) == (other.digest, other.function, other.rest)

    def __hash__(self) -> int:
        return hash(self.digest)


_KNOWN: dict[str, list[weakref.ref[Applied]]] = defaultdict(list)
_KNOWN_LOCK = Lock()


def _number(applied: Applied) -> int:
    with _KNOWN_LOCK:
        known = _KNOWN[applied.digest]
        for number, reference in enumerate(known):
            if reference() == applied:
                return number
        known.append(weakref.ref(applied))
        return len(known) - 1


# -- normalising --------------------------------------------------------------------------------------


def applied(node: Node) -> Applied:
    """What a marked node calls, examined on fake tensors; UntraceableError where a shard could not run it exactly."""
    mark: Applied = node.meta["applied"]
    given = [each.meta["val"] if isinstance(each, Node) else each for each in node.args]
    name = mark.function.__qualname__
    found = examine(mark, given, name=name)
    return Applied(
        function=mark.function,
        spec=mark.spec,
        rest=mark.rest,
        cloned=frozenset(found.held),
        ran=found.ran,
    )
