"""Questions of a forward about values, answered while it is traced: `if mask.all()`, `bool((positions == 0).all())`.

A plain loop answers them batch by batch, and takes one way or another; a graph has one way. What is asked about
follows from nodes that the trace has made already:

    arange -> diff -> cumsum -> (== 0).all()       from nothing but shapes: computed here, true of every batch
    attention_mask -> sum -> == 16                 from the batch: computed from the job's first microbatch, and kept as
                                                   an Answer, which every other microbatch has to agree with
    hidden -> max -> > 10                          from what is trained: no answer, the trace stops

transformers asks so whether sequences are packed, and whether a mask hides anything; which kernel attention runs
depends on it, and so do the bits.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses import FakeTensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from hydraplan.planner.frontend.tracing.modes import ENTER_AUTOCAST
from hydraplan.planner.frontend.tracing.operators import draws_random_numbers
from hydraplan.planner.frontend.tracing.refusals import where
from hydraplan.planner.frontend.tracing.traced import Answer, Source
from hydraplan.planner.frontend.users.usercode import RAISED
from hydraplan.plans.language.errors import TraceError

QUESTIONS: dict[Any, Callable[[Tensor], Any]] = {
    Tensor.__bool__: bool,
    Tensor.__int__: int,
    Tensor.__float__: float,
    Tensor.__index__: operator.index,
    Tensor.item: Tensor.item,
    Tensor.is_nonzero: bool,
    torch.is_nonzero: bool,
    Tensor.tolist: Tensor.tolist,
}
"""What a forward calls, and what gives the same of a real tensor."""
_NOT_USERS = ("torch", "hydraplan", "contextlib", "functools")


@dataclass(slots=True)
class Asked:
    """The answers that were given in one trace, in the order of the questions."""

    answers: list[Answer] = field(default_factory=list)


@contextmanager
def answering(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[Asked]:
    """While torch.export traces a loss on fake tensors in the place of `values`: its questions are answered."""
    asked = Asked()
    mode = _Answering(module, values, asked)
    noting = module.register_forward_pre_hook(mode.note_batch)
    try:
        with mode:
            yield asked
    finally:
        noting.remove()


ANSWERS = "answers"
"""Of an exported program's graph module, in its `meta`: what was answered for it."""
REMEDY = (
    "one graph goes one way: have all microbatches answer alike, or take the question out of the forward (a model of "
    'transformers: attn_implementation = "eager" asks nothing of a mask; where no batch is padded, leave the mask out)'
)


def disagreeing(answers: Sequence[Answer], batch: Mapping[str, Tensor]) -> Answer | None:
    """The first answer that a microbatch would not give; None: it gives them all."""
    with torch.no_grad():
        for each in answers:
            if each.ask(each.question(*(batch[name] for name in each.names))) != each.value:
                return each
    return None


def refuse_disagreeing(answers: Sequence[Answer], batch: Mapping[str, Tensor], what: str) -> None:
    """TraceError, naming line and remedy, where a microbatch, told as `what`, gives another answer."""
    found = disagreeing(answers, batch)
    if found is not None:
        raise TraceError(
            f"{where(found.source)}: the forward asks about values of {', '.join(found.names)}: the first microbatch "
            f"says {found.value}, and {what} {not found.value}; {REMEDY}"
        )


class _Answering(TorchFunctionMode):
    """Sees every call of torch's functions and of tensors' methods."""

    def __init__(self, module: nn.Module, values: Mapping[str, Tensor], asked: Asked) -> None:
        super().__init__()
        self._modules = {id(each): path for path, each in module.named_modules()}
        self._values, self._asked = values, asked
        self._keys: dict[Node, str] = {}

    def note_batch(self, _: nn.Module, given: tuple[Mapping[str, Tensor]]) -> None:
        """Which of the graph's inputs are the batch's."""
        for key, value in given[0].items():
            node = _node_of(value)
            if node is not None:
                self._keys[node] = key

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        ask = QUESTIONS.get(func)
        if ask is not None and args and not given:
            answer = self._answer(args[0], ask, by_bool=ask is bool)
            if answer is not None:
                return answer.value
        return func(*args, **given)

    def _answer(self, tensor: Tensor, ask: Callable[[Tensor], Any], *, by_bool: bool) -> Answer | None:
        """The answer, where it follows from the batch alone, or from nothing; of the batch only yes or no: a number
        would be another for nearly every batch."""
        node = _node_of(tensor)
        question = None if node is None else _question(node, self._keys, _root())
        if question is None:
            return None
        names = tuple(str(each.target) for each in question.graph.nodes if each.op == "placeholder")
        if names and not by_bool and tensor.dtype is not torch.bool:
            return None
        try:
            with _disable_current_modes(), torch.no_grad():
                answer = Answer(
                    question=question,
                    names=names,
                    ask=ask,
                    value=ask(question(*(self._values[name] for name in names))),
                    source=self._source(),
                )
        except RAISED:  # a node that has no kernel for real tensors, or a value that nothing answers
            return None
        if names:
            self._asked.answers.append(answer)
        return answer

    def _source(self) -> Source:
        """The line that asks, and the module that it is in."""
        module, location = None, ""
        frame = sys._getframe(1)
        while frame is not None and module is None:
            users = str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _NOT_USERS
            if users and not location:
                location = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            owner = frame.f_locals.get("self")
            if users and isinstance(owner, nn.Module):
                module = self._modules.get(id(owner))
            frame = frame.f_back  # type: ignore[assignment]
        return Source(module=(module or "").removeprefix("model").removeprefix("."), location=location)


def _node_of(tensor: Tensor) -> Node | None:
    mode = get_proxy_mode()
    if mode is None:
        return None
    slot: Any = get_proxy_slot(tensor, mode.tracer, None)
    return None if slot is None else slot.proxy.node


def _root() -> nn.Module:
    """What holds the constants of the graph that is being made."""
    mode = get_proxy_mode()
    root = getattr(mode.tracer, "root", None) if mode is not None else None
    return root if isinstance(root, nn.Module) else nn.Module()


def _question(asked: Node, keys: Mapping[Node, str], root: nn.Module) -> GraphModule | None:
    """The part of the graph made so far that `asked` follows from, as a function of the batch's values; None: it
    follows from something else too, is drawn, or was written to."""
    needed: set[Node] = set()
    waiting = [asked]
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        if node not in keys and not _computes(node):
            return None
        needed.add(node)
        waiting += node.all_input_nodes
    if _written(asked.graph, needed) or (_in_autocast(asked.graph) and any(map(_is_rounded, needed))):
        return None
    graph = Graph()
    copies = {node: graph.placeholder(key) for node, key in keys.items() if node in needed}
    constants: dict[str, Tensor] = {}
    for node in asked.graph.nodes:
        if node.op == "get_attr" and node in needed:
            value = getattr(root, str(node.target), None)
            if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
                return None
            constants[str(node.target)] = value
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[asked])
    return GraphModule(constants, graph)


def _computes(node: Node) -> bool:
    if node.op == "call_function" and isinstance(node.target, OpOverload):
        return not draws_random_numbers(node)
    return node.op == "get_attr" or (node.op == "call_function" and node.target is operator.getitem)


def _written(graph: Graph, needed: set[Node]) -> bool:
    """Whether any node writes to memory that may be that of a needed one."""
    return any(
        isinstance(node.target, OpOverload)
        and node.target._schema.is_mutable
        and (node in needed or any(each in needed for each in node.all_input_nodes))
        for node in graph.nodes
        if node.op == "call_function"
    )


def _in_autocast(graph: Graph) -> bool:
    return any(node.target is ENTER_AUTOCAST for node in graph.nodes)


def _is_rounded(node: Node) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point()
