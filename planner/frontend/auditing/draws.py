"""An eager run's random numbers: each random call draws as its node of the graph does.

    h = dropout(h, 0.1)        node 17 of the graph: keyed.dropout      the same function with the same key
    h = dropout(h, 0.1)        node 31                                  ...
    u = torch.rand(8)          node 40: keyed.call(aten.rand)           the operator with that node's generator

Operators that a graph has in a form of ours (dropouts, attention, recurrent layers) are taken over where the dispatcher
would decompose them, above autograd; all others where they draw, below it. Which node a call stands for follows from
its order, name, shape and line; what matches none was swept from the graph, since its loss does not depend on it.

torch's checkpointing runs a forward again in the backward, under the process-wide generator's state of before: every
call moves that generator to a state of its own, by which it is known again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode

from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.keyed import CellKey, Draws
from hydraplan.planner.frontend.tracing.operators import RECURRENT, generator_form, given, has_argument, is_random

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
SWEPT = -1
"""Number of the node that draws what no node draws."""
FIRST_STATE = 1 << 40
"""Seed of the process-wide generator before a forward's first random call."""


def random_nodes(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Those that draw, in graph order."""
    return tuple(node for node in nodes if node.target in keyed.KEYED)


class EagerDraws:
    """The random calls of one forward of the live model, and of its backward."""

    def __init__(self, nodes: Sequence[Node], key: CellKey) -> None:
        """`nodes`: the graph's random ones."""
        self._left = list(nodes)
        self._key = key
        self._forms = any(node.target is not keyed.call for node in nodes)
        self._calls = any(node.target is keyed.call for node in nodes)
        self._known: dict[int, Node | None] = {}
        self._thread = threading.get_ident()

    @property
    def left(self) -> tuple[Node, ...]:
        """Nodes that no call has stood for yet."""
        return tuple(self._left)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """While a forward and its backward run; in a graph that draws nothing, nothing is taken over."""
        with ExitStack() as stack:
            if self._forms or self._calls:
                torch.manual_seed(FIRST_STATE)
            if self._forms:
                stack.enter_context(self._taken_over())
            if self._calls:
                stack.enter_context(_Calls(self))
            yield

    def taken(self, operator: OpOverload, args: Sequence[Any], others: Mapping[str, Any]) -> Draws:
        """The random numbers of a call."""
        state = torch.default_generator.initial_seed()
        if state not in self._known:
            self._known[state] = self._matching(operator, args, others)
        torch.default_generator.manual_seed(state + 1)
        node = self._known[state]
        return Draws(self._key, (SWEPT if node is None else node.meta["draw"],))

    def _matching(self, operator: OpOverload, args: Sequence[Any], others: Mapping[str, Any]) -> Node | None:
        if not self._left:
            return None
        node = self._left[0]
        if _name(operator) == _drawn_by(node) and _alike(node, args, others) and _called_at(node):
            return self._left.pop(0)
        return None

    # -- operators that a graph has in a form of ours --------------------------------------------------

    @contextmanager
    def _taken_over(self) -> Iterator[None]:
        library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        try:
            for operator, run in self._replacements():
                library.impl(_full_name(operator).removeprefix("aten::"), run, "AutogradCPU")
            yield
        finally:
            library._destroy()

    def _replacements(self) -> Iterator[tuple[OpOverload, Callable[..., Any]]]:
        for name, (function, names) in keyed.FORMS.items():
            for each in (name, f"{name}_"):
                packet = getattr(torch.ops.aten, each, None)
                if packet is not None and _is_composite(packet.default):
                    yield packet.default, self._form(packet.default, function, names)
        for operator in RECURRENT:
            yield operator, self._recurrent(operator)

    def _form(self, operator: OpOverload, form: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
        def run(*args: Any, **others: Any) -> Any:
            if self._draws_nothing(operator, args, others):
                return operator._op_dk(COMPOSITE, *args, **others)
            draws = self.taken(operator, args, others)
            made = form(draws, 0, args[0], *(given(operator, args, others, each) for each in names))
            return args[0].copy_(made) if operator._schema.is_mutable else made

        return run

    def _recurrent(self, operator: OpOverload) -> Callable[..., Any]:
        def run(*args: Any, **others: Any) -> Any:
            if self._draws_nothing(operator, args, others):
                return operator._op_dk(COMPOSITE, *args, **others)
            draws = self.taken(operator, args, others)
            values = [given(operator, args, others, each) for each in keyed.RECURRENT_ARGUMENTS]
            # The layers are the operator itself, which is taken over here, and draws nothing then.
            return keyed.recurrent(draws, 0, operator, *values)

        return run

    def _draws_nothing(self, operator: OpOverload, args: Sequence[Any], others: Mapping[str, Any]) -> bool:
        return threading.get_ident() != self._thread or not is_random(operator, args, others)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives random operators the generator of their node, below autograd."""

    def __init__(self, draws: EagerDraws) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draws = draws

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        others = dict(kwargs or {})
        form = generator_form(func) if _draws_process_wide(func, args, others) else None
        if form is None:
            return func(*args, **others)
        draws = self._draws.taken(func, args, others)
        others.pop("generator", None)
        return form(*args, **others, generator=draws.generator(0, torch.device("cpu")))


def _draws_process_wide(operator: OpOverload, args: Sequence[Any], others: Mapping[str, Any]) -> bool:
    if not is_random(operator, args, others):
        return False
    if any(isinstance(each, torch.Generator) for each in (*args, *others.values())):
        return False
    return not (has_argument(operator, "dropout_p") and not given(operator, args, others, "dropout_p"))


def _full_name(operator: OpOverload) -> str:
    return str(operator.name())  # type: ignore[no-untyped-call]


def _is_composite(operator: OpOverload) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(_full_name(operator), "CompositeImplicitAutograd"))


# -- which node a call stands for -----------------------------------------------------------------------


def _name(operator: OpOverload) -> str:
    return operator._schema.name.split("::")[-1].removesuffix("_")


_FORM_NAMES = {function: name for name, (function, _) in keyed.FORMS.items()}


def _drawn_by(node: Node) -> str:
    if node.target in (keyed.call, keyed.recurrent):
        operator: Any = node.args[0]
        return _name(operator).removesuffix("_functional")
    return _FORM_NAMES[node.target]  # type: ignore[index]


def _alike(node: Node, args: Sequence[Any], others: Mapping[str, Any]) -> bool:
    """Whether a call's first argument has the form that the node's has."""
    skipped = 2 if node.target is keyed.call else 1 if node.target is keyed.recurrent else 0
    first = node.args[skipped] if len(node.args) > skipped else None
    if not args:
        return True
    if isinstance(first, Node) and isinstance(args[0], Tensor):
        return tuple(first.meta["val"].shape) == tuple(args[0].shape)
    if isinstance(first, list | tuple) and isinstance(args[0], list | tuple):
        return list(first) == list(args[0])
    return isinstance(first, Node) == isinstance(args[0], Tensor)


def _called_at(node: Node) -> bool:
    """Whether the node's line is among those that are being called now."""
    location = node.meta["source"].location
    if not location:
        return True
    file, _, line = location.rpartition(":")
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_lineno == int(line) and frame.f_code.co_filename == file:
            return True
        frame = frame.f_back
    return False
