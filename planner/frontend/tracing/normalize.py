"""From what torch.export makes to a graph that can be cut: a list of passes over one torch.fx graph.

    flatten         tied weights get one placeholder; changes of no_grad and autocast become per-node contexts;
                    custom autograd functions become callable targets
    settle          what assigns a buffer anew moves to where it is assigned (`planner.frontend.tracing.buffers`)
    functionalize   in-place operators that nobody else can see become functional ones
    key_randomness  random nodes draw from keyed generators
    evaluate        fake values, and each value's requires_grad in the uncut graph
    settle_strides  where fake values have other strides than real ones, the real ones
    merge_same      a node that returns its input as it is (a conversion to what it is already) is that input
    sweep           what the loss does not depend on goes (assertions, unused masks, unread weights)

EXACTNESS.md, rules 2, 3, 5 and 10.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import has_free_symbols

from hydraplan.planner.frontend.tracing import functions, keyed
from hydraplan.planner.frontend.tracing.buffers import settle_assignments, writes_to_outside
from hydraplan.planner.frontend.tracing.dtypes import mixed_types
from hydraplan.planner.frontend.tracing.evaluation import Evaluation, evaluate, mapped, mutated_inputs_of
from hydraplan.planner.frontend.tracing.examination import note_held_arguments
from hydraplan.planner.frontend.tracing.modes import Modes, entered
from hydraplan.planner.frontend.tracing.operators import (
    RECURRENT,
    argument,
    base_name,
    draws_random_numbers,
    functional_form,
    generator_form,
    mutated_inputs,
)
from hydraplan.planner.frontend.tracing.refusals import CONVERT, because, where
from hydraplan.planner.frontend.tracing.traced import Context, Placeholder, Source
from hydraplan.planner.frontend.tracing.unsuited import refuse_unsuited
from hydraplan.planner.frontend.users.usercode import RAISED
from hydraplan.plans.language.errors import TraceError

FRAME = re.compile(r'File "([^"]+)", line (\d+)')
FUNCTORCH = ("torch._functorch", "torch._C._functorch")
"""Modules of functions that begin and end a transformation, and are nodes of a graph."""


def normalize(graph: Graph, placeholders: Mapping[str, Placeholder], prefix: str) -> tuple[Graph, Evaluation]:
    """The normalised graph of an exported one, evaluated.

    `placeholders` describes each placeholder node of `graph` by the node's name; tied ones share their
    description, whose `node` is the one to keep. `prefix` is left out of module paths.
    """
    flat = _Flattening(placeholders, prefix).run(graph)
    refuse_unknown_sizes(flat)
    refuse_unsuited(flat)
    settle_assignments(flat, placeholders)
    refuse_updates(flat, placeholders)
    functionalize(flat, placeholders)
    key_randomness(flat)
    evaluation = evaluate(flat, placeholders)
    if settle_strides(flat):
        evaluation = evaluate(flat, placeholders)
    merge_same(evaluation)
    sweep(flat, evaluation)
    refuse_mixed_types(flat)
    refuse_trained_buffers(flat, evaluation)
    note_held_arguments(flat)
    for number, node in enumerate(each for each in flat.nodes if each.op == "call_function"):
        if node.target in keyed.KEYED:
            node.meta["draw"] = number
    return flat, evaluation


# -- flatten ------------------------------------------------------------------------------------------


class _Flattening:
    def __init__(self, placeholders: Mapping[str, Placeholder], prefix: str) -> None:
        self.placeholders = placeholders
        self.prefix = prefix
        self.graph = Graph()

    def run(self, graph: Graph) -> Graph:
        here: dict[Node, Any] = {}
        for node in graph.nodes:
            if node.op == "placeholder" and self.placeholders[node.name].node == node.name:
                made = self.graph.placeholder(node.name)
                made.meta["val"] = node.meta["val"]
                here[node] = made
        by_name = {node.name: made for node, made in here.items()}
        modes = Modes()
        for node in graph.nodes:
            if node.op == "placeholder":
                here[node] = by_name[self.placeholders[node.name].node]
            elif node.op == "output":
                (loss,) = node.args[0]
                self.graph.output((here[loss],))
            elif node.op == "get_attr":
                continue  # the body of an operator that is refused where it is called
            else:
                assert node.op == "call_function", f"torch.export makes no {node.op}"
                if not modes.change(node):
                    here[node] = self.copy(node, here, modes.context)
        return self.graph

    def copy(self, node: Node, here: dict[Node, Any], context: Context) -> Any:
        if isinstance(node.target, HigherOrderOperator) and node.target is not functions.MARK:
            raise TraceError(
                f"{where(self.source(node))}: the operator {node.target} holds a graph of its own, which has no cuts: "
                "write it with plain operators (torch.where for torch.cond, scaled_dot_product_attention with a mask)"
            )
        if str(getattr(node.target, "__module__", "")).startswith(FUNCTORCH):
            raise TraceError(
                f"{where(self.source(node))}: the forward uses torch.func (vmap, grad, jvp), whose state spans many "
                "operators, so that no cut could part them: write it with operators over whole batches"
            )
        made = self.graph.node_copy(node, lambda each: here[each])
        if node.target is functions.MARK:
            made.target = self.applied(node)
        if made.target is torch.ops.aten.detach_.default:
            made.target = torch.ops.aten.detach.default
        made.meta = {"val": node.meta.get("val"), "source": self.source(node), "context": context}
        return made

    def applied(self, node: Node) -> functions.Applied:
        try:
            return functions.applied(node)
        except RAISED as error:  # the user's own backward runs here
            raise TraceError(f"{where(self.source(node))}: {because(error)}") from error

    def source(self, node: Node) -> Source:
        return source_of(node, self.prefix)


def source_of(node: Node, prefix: str) -> Source:
    """Where an exported graph's node comes from; `prefix` is left out of the module's path."""
    path = ""
    for each in node.meta.get("nn_module_stack", {}).values():
        path = each[0]
    path = path.removeprefix(prefix).removeprefix(".")
    frames = [each for each in FRAME.findall(node.meta.get("stack_trace") or "") if not each[0].startswith("<")]
    return Source(module=path, location=":".join(frames[-1]) if frames else "")


def refuse_unknown_sizes(graph: Graph) -> None:
    """TraceError where a size depends on values: nobody could say ahead where what has it lies in memory.

    Where neither the loss nor a buffer needs it (assertions do), it goes.
    """
    unknown = [node for node in graph.nodes if node.op == "call_function" and has_free_symbols(node.meta["val"])]
    if not unknown:
        return
    needed: set[Node] = set()
    for node in reversed(list(graph.nodes)):
        if node.op == "output" or node in needed or (node.op == "call_function" and any(mutated_inputs(node))):
            needed |= {node, *node.all_input_nodes}
        elif node.op == "call_function":
            graph.erase_node(node)
    for node in unknown:
        if node in needed:
            raise TraceError(
                f"{where(node.meta['source'])}: sizes or numbers depend on values of tensors (by {node.target}), and "
                "nobody can plan ahead: use torch.where or masks, or move it into the data set; experts have grouped_mm"
            )


# -- in-place operators -------------------------------------------------------------------------------


def refuse_updates(graph: Graph, placeholders: Mapping[str, Placeholder]) -> None:
    """TraceError where the forward writes to a parameter, a constant or its batch (views of it: `functionalize`)."""
    for node in graph.nodes:
        for target in mutated_inputs(node) if node.op == "call_function" else ():
            if target.op == "placeholder" and placeholders[target.name].role != "buffer":
                raise update_error(node, placeholders[target.name])


def update_error(node: Node, written: Placeholder) -> TraceError:
    """The error for a forward that updates a parameter, a constant or its batch."""
    owner = written.name.rpartition(".")[0]
    what = f"{written.role} {written.name!r}" + (f" of module {owner!r}" if owner else "")
    return TraceError(
        f"{where(node.meta['source'])}: the forward updates {what} (by {node.target}); only buffers can be updated: "
        "register it as a buffer, or write to a copy"
    )


def refuse_mixed_types(graph: Graph) -> None:
    """TraceError where an operator would refuse, when it runs, what the model gives to it."""
    for node in graph.nodes:
        mixed = mixed_types(node) if node.op == "call_function" else None
        if mixed is not None:
            raise TraceError(f"{where(node.meta['source'])}: {mixed}, and takes only one type: {CONVERT}")


def functionalize(graph: Graph, placeholders: Mapping[str, Placeholder]) -> None:
    """Replace in-place operators where no other name of the memory is read later; those on buffers stay.

    TraceError for those on what else is read from outside.
    """
    writers = [node for node in graph.nodes if node.op == "call_function" and any(True for _ in mutated_inputs(node))]
    if not writers:
        return
    evaluation = evaluate(graph, placeholders)
    order = {node: number for number, node in enumerate(graph.nodes)}
    sharers: dict[int, list[Node]] = defaultdict(list)
    for node, storages in evaluation.storages.items():
        for storage in storages:
            sharers[storage].append(node)
    for node in writers:
        for target in mutated_inputs(node):
            for storage in evaluation.storages[target]:
                for sharer in sharers[storage]:
                    if sharer.op == "placeholder" and placeholders[sharer.name].role != "buffer":
                        raise update_error(node, placeholders[sharer.name])
    for node in writers:
        if not writes_to_outside(node, evaluation, sharers):
            _make_functional(node, evaluation, sharers, order)


def _make_functional(
    node: Node, evaluation: Evaluation, sharers: Mapping[int, list[Node]], order: Mapping[Node, int]
) -> None:
    functional = functional_form(node.target)
    targets = list(mutated_inputs(node))
    if functional is None or len(targets) != 1 or targets[0] is not node.args[0]:
        return
    assert isinstance(node.target, OpOverload)
    (target,) = targets
    if node.meta["requires_grad"] and base_name(node)[:-1] not in keyed.FORMS and draws_random_numbers(node):
        return  # uniform_ of a value with gradient gives it zeros; uniform has no derivative
    # Who shares the memory before the write and is read after it, sees the write. (What is made of the result
    # later shares it too, and will share the functional operator's.)
    aliases = {sharer for storage in evaluation.storages[target] for sharer in sharers[storage]} - {target}
    later = [
        user for alias in aliases if order[alias] < order[node] for user in alias.users if order[user] > order[node]
    ]
    args = tuple(argument(node, each.name) for each in node.target._schema.arguments if not each.kwarg_only)
    if later or not _same_form(functional, args, node):
        return
    node.target, node.args = functional, args  # all of them: defaults of the two may differ
    for user in [user for user in target.users if order[user] > order[node]]:
        user.replace_input_with(target, node)


def _same_form(functional: OpOverload, args: tuple[Any, ...], node: Node) -> bool:
    """Whether the functional operator makes shape, strides and dtype of the value that the in-place one writes to."""
    args, kwargs = mapped((args, node.kwargs), lambda each: each.meta["val"])
    written = args[0]
    with written.fake_mode, entered(replace(node.meta["context"], grad=False), written.device.type):
        made = functional(*args, **kwargs)
    return bool(
        (made.shape, made.stride(), made.dtype, made.device)
        == (written.shape, written.stride(), written.dtype, written.device)
    )


def updated_buffers(graph: Graph, evaluation: Evaluation) -> frozenset[str]:
    """Names of the placeholder nodes whose memory the forward writes to."""
    written = {
        storage
        for node in graph.nodes
        if node.op == "call_function"
        for target in mutated_inputs_of(node)
        for storage in evaluation.storages[target]
    }
    return frozenset(
        node.name for node in graph.nodes if node.op == "placeholder" and evaluation.storages[node] & written
    )


def refuse_trained_buffers(graph: Graph, evaluation: Evaluation) -> None:
    """TraceError where what a buffer is updated by has a gradient: the next step could not run backward."""
    for node in graph.nodes:
        for target in mutated_inputs_of(node) if node.op == "call_function" else ():
            if target.op == "placeholder" and target.meta["requires_grad"]:
                raise TraceError(
                    f"{where(node.meta['source'])}: the forward updates buffer {target.name} with what is trained, and "
                    "keeps its gradient; update it under torch.no_grad(), or with a detached value"
                )


# -- randomness ---------------------------------------------------------------------------------------


def key_randomness(graph: Graph) -> None:
    """Rewrite random nodes to draw from keyed generators; TraceError for those that cannot."""
    for node in list(graph.nodes):
        if node.op == "call_function" and draws_random_numbers(node):
            _key(graph, node)


def _key(graph: Graph, node: Node) -> None:
    assert isinstance(node.target, OpOverload)
    name = base_name(node)
    form = generator_form(node.target)
    if name in keyed.FORMS:
        node.target, node.args, node.kwargs = *_keyed_form(node, name), {}
    elif name.endswith("_") and name[:-1] in keyed.FORMS:
        # Others see the memory that it writes to: make the values, then write them there.
        with graph.inserting_before(node):
            made = graph.call_function(*_keyed_form(node, name[:-1]))
        made.meta = dict(node.meta)
        node.target, node.args, node.kwargs = torch.ops.aten.copy_.default, (node.args[0], made), {}
    elif node.target in RECURRENT:
        node.args = (node.target, *(argument(node, each) for each in keyed.RECURRENT_ARGUMENTS))
        node.target, node.kwargs = keyed.recurrent, {}
    elif form is not None:
        kwargs = {key: value for key, value in node.kwargs.items() if key != "generator"}
        device = node.meta["val"].device
        node.args, node.kwargs, node.target = (form, device, *node.args), kwargs, keyed.call
    else:
        raise TraceError(
            f"{where(node.meta['source'])}: the random operator {node.target} takes no generator, so that a "
            "plan could change what it draws: use dropout, or draw the numbers in the data set"
        )


def _keyed_form(node: Node, name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    function, names = keyed.FORMS[name]
    return function, (node.args[0], *(argument(node, each) for each in names))


# -- what is left over ---------------------------------------------------------------------------------


def settle_strides(graph: Graph) -> bool:
    """Let values of batch norm be dense, as they are in fact: fake ones keep whatever strides the input has.

    What reads such a value would seem to need less memory than it does (a matrix product copies what is not dense). On
    real tensors the added operator does nothing. Returns whether any was added.
    """
    strided = [
        node
        for node in graph.nodes
        if node.target is torch.ops.aten.batch_norm.default and not _is_dense(node.meta["val"])
    ]
    for node in strided:
        with graph.inserting_after(node):
            dense = graph.call_function(torch.ops.aten.contiguous.default, (node,))
        dense.meta = dict(node.meta)
        node.replace_all_uses_with(dense, delete_user_cb=lambda user, dense=dense: user is not dense)
    return bool(strided)


def _is_dense(value: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(value.dim())
    return value.is_contiguous() or (last is not None and value.is_contiguous(memory_format=last))


def merge_same(evaluation: Evaluation) -> None:
    """Let the users of a node that returns one of its inputs read that input.

    To autograd they are one value, whose gradient is one running sum; as two values that cross a cut they
    would be two sums, added up later.
    """
    for node, source in evaluation.same.items():
        while source in evaluation.same:
            source = evaluation.same[source]
        node.replace_all_uses_with(source)


def sweep(graph: Graph, evaluation: Evaluation) -> None:
    """Delete what neither the loss nor a buffer's new value depends on; a write counts for all that shares the memory
    and is read later."""
    needed: set[Node] = set()
    memory = {storage for node in graph.nodes if node.op == "placeholder" for storage in evaluation.storages[node]}
    for node in reversed(list(graph.nodes)):
        writes = node.op == "call_function" and any(
            evaluation.storages[target] & memory for target in mutated_inputs_of(node)
        )
        if node.op == "output" or node in needed or writes:
            for each in node.all_input_nodes:
                needed.add(each)
                memory |= evaluation.storages[each]
        else:
            graph.erase_node(node)
