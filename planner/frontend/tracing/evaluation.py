"""Run an uncut graph on fake tensors: what each node makes, whether it requires grad, what memory it shares.

evaluate            the fake values, into each node's meta
    _by_form        one run of an operator serves all its calls on equal forms (the equal blocks of a model)
    _all_at_once    the whole graph in one autograd graph, where in-place operators tie values together
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from hydraplan.planner.frontend.models.model import TRACED_ON
from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.planner.frontend.tracing.modes import PLAIN, Scoped
from hydraplan.planner.frontend.tracing.operators import mutated_inputs, written_arguments
from hydraplan.planner.frontend.tracing.refusals import UntraceableError, because, where
from hydraplan.planner.frontend.tracing.traced import Context, Placeholder
from hydraplan.planner.frontend.users.usercode import RAISED
from hydraplan.plans.language.errors import TraceError

_DRAWS = keyed.Draws(CellKey(seed=0, step=0, microbatch=0), (0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the uncut graph makes; the values themselves are in the nodes' meta: "val" and "requires_grad"."""

    storages: Mapping[Node, frozenset[int]]
    """Node -> the storages that its result lies in."""
    same: Mapping[Node, Node]
    """Node that returns an input as it is -> that input."""


def evaluate(graph: Graph, placeholders: Mapping[str, Placeholder]) -> Evaluation:
    """Set "val" and "requires_grad" of every node's meta, as in a run of the uncut graph in grad mode."""
    for node in graph.nodes:
        if node.op == "placeholder":
            node.meta["val"] = node.meta["val"].detach()
            _flag(node, (placeholders[node.name].trainable,))
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    writes = any(True for node in nodes for _ in mutated_inputs_of(node))
    with _mode_of(graph), torch.enable_grad():
        return _all_at_once(graph) if writes else _by_form(graph)


def mutated_inputs_of(node: Node) -> list[Node]:
    """As `mutated_inputs`, for keyed nodes too (their operator is an argument)."""
    if node.target is not keyed.call:
        return list(mutated_inputs(node))
    form, _, *args = node.args
    assert isinstance(form, OpOverload)
    return [each for each in written_arguments(form, args, node.kwargs) if isinstance(each, Node)]


def call(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a graph's node makes of arguments, under its modes."""
    context: Context = node.meta["context"]
    prefix: tuple[Any, ...] = (_DRAWS, 0) if node.target in keyed.KEYED else ()
    if context == PLAIN:
        return _callable(node)(*prefix, *args, **kwargs)
    return Scoped(_callable(node), context)(torch.device(TRACED_ON), *prefix, *args, **kwargs)


def _called(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """TraceError where fake tensors do not allow what the tracer did (values that shapes depend on), and for what has
    no strides, so that no arena could hold it."""
    try:
        made = call(node, args, kwargs)
        if any(each.layout is not torch.strided for each in tensors_in(made)):
            raise UntraceableError(f"{node.target} makes a sparse tensor", "use dense tensors")
        return made
    except RAISED as error:  # any operator, the user's own too
        raise TraceError(f"{where(node.meta['source'])}: {because(error)}") from error


def mapped(arguments: Any, change: Callable[[Node], Any]) -> Any:
    """A node's arguments with something else for each node in them."""
    return map_arg(arguments, change)


def tensors_in(value: Any) -> Iterable[Tensor]:
    """All tensors of a node's result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def _flag(node: Node, flags: tuple[bool, ...]) -> None:
    """Note which of the node's tensors require grad."""
    node.meta["flags"] = flags
    node.meta["requires_grad"] = any(flags)


def _callable(node: Node) -> Callable[..., Any]:
    assert callable(node.target)
    return node.target


def _mode_of(graph: Graph) -> Any:
    """The fake tensor mode of the graph's placeholders."""
    return next(node.meta["val"].fake_mode for node in graph.nodes if node.op == "placeholder")


def _map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return tuple(_map_tensors(each, change) for each in value) if isinstance(value, list | tuple) else value


# -- the whole graph ------------------------------------------------------------------------------------


def _all_at_once(graph: Graph) -> Evaluation:
    values: dict[Node, Any] = {}
    same: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = node.meta["val"].detach().requires_grad_(node.meta["requires_grad"])
        elif node.op == "call_function":
            args, kwargs = mapped((node.args, node.kwargs), lambda each: values[each])
            values[node] = _called(node, args, kwargs)
            for each in node.all_input_nodes:
                if values[each] is values[node]:
                    same[node] = each
    # Flags only now: an in-place operator changes those of what it writes to, and of its views.
    for node, value in values.items():
        node.meta["val"] = _map_tensors(value, lambda tensor: tensor.detach())
        _flag(node, tuple(tensor.requires_grad for tensor in tensors_in(value)))
    storages = {
        node: frozenset(tensor.untyped_storage()._cdata for tensor in tensors_in(value))
        for node, value in values.items()
    }
    return Evaluation(storages=storages, same=same)


# -- operator by operator -------------------------------------------------------------------------------


class _Form(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device


class _Made(NamedTuple):
    """What an operator makes of inputs of given forms."""

    value: Any
    """Fake tensors that stand for all results of that form."""
    flags: tuple[bool, ...]
    shares: frozenset[int]
    """Numbers of the inputs whose memory the result shares."""
    is_input: int | None
    """Number of the input that it returns as it is."""
    fresh: bool
    """Whether part of the result is new memory."""


def _by_form(graph: Graph) -> Evaluation:
    """No node writes, so an operator's result depends on the forms of its inputs alone, not on their history."""
    numbers = count()
    known: dict[object, _Made] = {}
    storages: dict[Node, frozenset[int]] = {}
    same: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            storages[node] = frozenset({next(numbers)})
        elif node.op == "call_function":
            inputs = node.all_input_nodes
            key = _key(node, inputs)
            made = known.get(key)
            if made is None:
                made = known[key] = _make(node, inputs)
            node.meta["val"] = made.value
            _flag(node, made.flags)
            shared = frozenset(each for number in made.shares for each in storages[inputs[number]])
            storages[node] = shared | ({next(numbers)} if made.fresh else frozenset())
            if made.is_input is not None:
                same[node] = inputs[made.is_input]
    return Evaluation(storages=storages, same=same)


def _key(node: Node, inputs: list[Node]) -> object:
    position = {each: number for number, each in enumerate(inputs)}
    args = mapped((node.args, node.kwargs), lambda each: _Input(position[each]))
    forms = tuple(repr(_map_tensors(each.meta["val"], _form)) + str(each.meta["flags"]) for each in inputs)
    return (node.target, repr(args), node.meta["context"], forms)


class _Input(NamedTuple):
    number: int


def _form(tensor: Tensor) -> _Form:
    return _Form(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype, tensor.device)


def _make(node: Node, inputs: list[Node]) -> _Made:
    given = {each: _stand_in(each) for each in inputs}
    args, kwargs = mapped((node.args, node.kwargs), lambda each: given[each])
    value = _called(node, args, kwargs)
    made = {tensor.untyped_storage()._cdata for tensor in tensors_in(value)}
    memory = [{tensor.untyped_storage()._cdata for tensor in tensors_in(given[each])} for each in inputs]
    return _Made(
        value=_map_tensors(value, lambda tensor: tensor.detach()),
        flags=tuple(tensor.requires_grad for tensor in tensors_in(value)),
        shares=frozenset(number for number, each in enumerate(memory) if each & made),
        is_input=next((number for number, each in enumerate(inputs) if given[each] is value), None),
        fresh=bool(made.difference(*memory)),
    )


def _stand_in(node: Node) -> Any:
    """Fresh leaves of the forms and flags of what the node makes."""
    flags = iter(node.meta["flags"])
    return _map_tensors(node.meta["val"], lambda tensor: tensor.detach().requires_grad_(next(flags)))
