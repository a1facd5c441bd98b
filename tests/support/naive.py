"""Naive hydraplans: each lacks one mechanism of exactness, as written by who has not thought of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.fx import Node

from hydraplan.planner.frontend.shards import cell, sharded, slices
from hydraplan.planner.frontend.shards.build import Known
from hydraplan.planner.frontend.shards.gradients import GradientFlow
from hydraplan.planner.frontend.shards.program import BackwardResult, BuiltModel, ForwardResult
from hydraplan.planner.frontend.shards.slices import Slice
from hydraplan.planner.frontend.tracing import cuts, keyed, normalize, operators, trace
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.workload import Job
from hydraplan.runtime import prepare

Patch = pytest.MonkeyPatch


# -- gradients ------------------------------------------------------------------------------------------


def last_gradient_wins(patch: Patch) -> None:
    """A skip's gradient is what the shard next to its producer makes: what came from far ahead is overwritten."""
    real = cell.EagerShard.backward
    patch.setattr(cell.EagerShard, "backward", lambda self, **given: real(self, **given | {"running": {}}))


def sums_added_afterwards(patch: Patch) -> None:
    """A shard makes its own part of a skip's gradient, and adds it to that of the later shards."""
    real = cell.EagerShard.backward

    def backward(self: cell.EagerShard, *, running: Mapping[int, Mapping[str, Tensor]], **given: Any) -> BackwardResult:
        result = real(self, running={}, **given)
        summed = {
            producer: {
                name: running[producer][name] + value if name in running.get(producer, {}) else value
                for name, value in values.items()
            }
            for producer, values in result.activation_gradients.items()
        }
        return replace(result, activation_gradients=summed)

    patch.setattr(cell.EagerShard, "backward", backward)


def one_output_has_a_gradient(patch: Patch) -> None:
    """A shard is a layer: its last output is what the next one learns from."""
    real = cell.EagerShard.backward

    def backward(self: cell.EagerShard, *, output_gradients: Mapping[str, Tensor], **given: Any) -> BackwardResult:
        last = [name for name in self.part.outputs if name in output_gradients][-1:]
        return real(self, output_gradients={name: output_gradients[name] for name in last}, **given)

    patch.setattr(cell.EagerShard, "backward", backward)


def one_output_at_a_time(patch: Patch) -> None:
    """A backward for each output or loss, the gradients added up afterwards."""
    real = torch.autograd.grad

    def grad(ends: Sequence[Any], wanted: Any, incoming: Sequence[Tensor], **options: Any) -> tuple[Tensor | None, ...]:
        total: list[Tensor | None] = [None] * len(wanted)
        for end, gradient in zip(ends, incoming, strict=True):
            for number, made in enumerate(real([end], wanted, [gradient], retain_graph=True, **options)):
                before = total[number]
                total[number] = made if before is None else before if made is None else before + made
        return tuple(total)

    patch.setattr(torch.autograd, "grad", grad)


def zero_gradients(patch: Patch) -> None:
    """A parameter that no gradient reached is given zeros: its weights decay."""
    real = cell.EagerShard._sorted

    def sort(self: cell.EagerShard, found: tuple[Tensor | None, ...]) -> BackwardResult:
        values = [self.part.arguments[number].value for number in self._gradient_leaves]
        made = (torch.zeros(each.shape) if one is None else one for one, each in zip(found, values, strict=True))
        return real(self, tuple(made) if found else ())

    patch.setattr(cell.EagerShard, "_sorted", sort)


def one_leaf_for_all_uses(patch: Patch) -> None:
    """autograd adds up the uses of a parameter within a shard: with microbatches, in another order for other cuts."""
    patch.setattr(slices, "site_name", lambda parameter, reader: f"{parameter}@everywhere")


def first_reader_trains(patch: Patch) -> None:
    """A weight belongs to the first shard that reads it, and learns from what that shard does with it."""
    real = sharded.gradient_flow

    def flow(parts: Sequence[Slice], loss: str) -> GradientFlow:
        found, owned, flows = real(parts, loss), set[str](), []
        for part, each in zip(parts, found.flows, strict=True):
            own = {site.name for site in part.sites if site.parameter not in owned}
            owned |= {site.parameter for site in part.sites}
            flows.append(replace(each, sites=tuple(name for name in each.sites if name in own)))
        return replace(found, flows=tuple(flows))

    patch.setattr(sharded, "gradient_flow", flow)


def gates_computed_again(patch: Patch) -> None:
    """What is cheap is computed again by whoever reads it, whether it has a gradient or not: here the whole router."""
    real, cheap = cuts._is_cheap, cuts._is_cheap_input
    router = ("embedding", "flatten", "linear", "softmax", "topk", "getitem", "getitem_1")
    patch.setattr(cuts, "_is_cheap", lambda node, *rest: node.name in router or real(node, *rest))
    reads = ("p_model_embed", "p_model_router")
    patch.setattr(cuts, "_is_cheap_input", lambda node, *rest: node.name.startswith(reads) or cheap(node, *rest))


# -- values over cuts -----------------------------------------------------------------------------------


def all_values_alike(patch: Patch) -> None:
    """Whatever enters a shard takes part in autograd."""
    patch.setattr(cell, "_leaf", lambda argument, requires_grad: argument.data.requires_grad_(True))


def bytes_for_booleans(patch: Patch) -> None:
    """What crosses a cut are numbers."""

    def plain(value: Tensor) -> Tensor:
        return value.to(torch.uint8) if value.dtype == torch.bool else value

    real = cell.EagerShard._arguments

    def arguments(
        self: cell.EagerShard, parameters: Any, inputs: Mapping[int, Mapping[str, Tensor]], *rest: Any
    ) -> Any:
        given = {shard: {name: plain(each) for name, each in values.items()} for shard, values in inputs.items()}
        return real(self, parameters, given, *rest)

    patch.setattr(cell.EagerShard, "_arguments", arguments)


def dense_values(patch: Patch) -> None:
    """What crosses a cut is made contiguous."""
    real = cell.EagerShard.forward

    def forward(self: cell.EagerShard, **given: Any) -> ForwardResult:
        result = real(self, **given)
        return replace(result, activations={name: each.contiguous() for name, each in result.activations.items()})

    patch.setattr(cell.EagerShard, "forward", forward)


def inputs_by_form(patch: Patch) -> None:
    """A shard reads the batch's value of the shape and type that it needs: the first one."""
    real = cell.EagerShard._arguments

    def arguments(self: cell.EagerShard, parameters: Any, inputs: Any, batch: Mapping[str, Tensor], *rest: Any) -> Any:
        firsts: dict[object, Tensor] = {}
        found = {name: firsts.setdefault((each.shape, each.dtype), each) for name, each in sorted(batch.items())}
        return real(self, parameters, inputs, found, *rest)

    patch.setattr(cell.EagerShard, "_arguments", arguments)


# -- what forwards write --------------------------------------------------------------------------------


def cuts_anywhere(patch: Patch) -> None:
    """Also between the creation of memory and the last write to it."""
    patch.setattr(cuts, "_forbidden", lambda *_: set())


def writes_that_no_view_sees(patch: Patch) -> None:
    """An in-place operator is its functional form, whoever else looks at the memory."""
    real = normalize._make_functional
    patch.setattr(
        normalize,
        "_make_functional",
        lambda node, evaluation, sharers, order: real(node, evaluation, defaultdict(list), order),
    )


def buffers_that_stay(patch: Patch) -> None:
    """Buffers are constants."""
    real = cell.EagerShard.forward

    def forward(self: cell.EagerShard, *, buffers: Mapping[str, Tensor], **given: Any) -> ForwardResult:
        result = real(self, buffers=buffers, **given)
        return replace(result, buffers={name: buffers[name].clone() for name in result.buffers})

    patch.setattr(cell.EagerShard, "forward", forward)


def buffers_of_a_module(patch: Patch) -> None:
    """Buffers lie in a module, as in PyTorch, and each forward updates them: also one that runs again."""
    real, held = cell.EagerShard._arguments, dict[str, Tensor]()

    def arguments(
        self: cell.EagerShard, parameters: Any, inputs: Any, batch: Any, buffers: Mapping[str, Tensor]
    ) -> Any:
        if not any(isinstance(each, FakeTensor) for each in buffers.values()):
            buffers = {name: held.setdefault(name, each.clone()) for name, each in buffers.items()}
        return real(self, parameters, inputs, batch, buffers)

    patch.setattr(cell.EagerShard, "_arguments", arguments)
    patch.setattr(slices, "_copied", lambda graph, value: value)


def operators_only_make_values(patch: Patch) -> None:
    """An operator that nobody reads from is left out, though it writes."""
    patch.setattr(operators, "written_arguments", lambda *_: ())


# -- what forwards read ---------------------------------------------------------------------------------


def _without(patch: Patch, role: str) -> None:
    """What the model is prepared with is zeros where it is of this role, and not in its state_dict."""
    real = prepare.build

    def bare(job: Job, batch: Mapping[str, Tensor], *, known: Known | None) -> tuple[BuiltModel, TracedGraph]:
        model, graph = real(job, batch, known=known)
        saved = set(model.saved_names.values())
        lost = {each.name for each in graph.placeholders if each.role == role} - saved
        tensors = {name: torch.zeros_like(each) if name in lost else each for name, each in model.tensors.items()}
        return replace(model, tensors=tensors), graph

    patch.setattr(prepare, "build", bare)


def buffers_of_the_state_dict(patch: Patch) -> None:
    """Buffers come from the model's state_dict: those that are not persistent are empty."""
    _without(patch, "buffer")


def constants_of_the_state_dict(patch: Patch) -> None:
    """All that a graph reads comes from the model's state_dict: what its code makes is empty."""
    _without(patch, "constant")


# -- how forwards run -----------------------------------------------------------------------------------


def forwards_without_grad_mode(patch: Patch) -> None:
    """A forward whose activations nobody keeps runs as in inference."""
    real = cell.EagerShard.forward

    def quiet(self: cell.EagerShard, arguments: list[Tensor], key: CellKey) -> Any:
        leaves = [argument.data for argument in arguments]
        with torch.no_grad():
            return self.part.code.function(keyed.Draws(key, self.part.draws), leaves[0].device, *leaves), leaves

    def forward(self: cell.EagerShard, *, keep: bool, **given: Any) -> ForwardResult:
        with pytest.MonkeyPatch.context() as inner:
            if not keep:
                inner.setattr(cell.EagerShard, "_run", quiet)
            return real(self, keep=keep, **given)

    patch.setattr(cell.EagerShard, "forward", forward)


def recompute_draws_on(patch: Patch) -> None:
    """A node's generator goes on where it was: a forward that runs again draws other numbers than the first."""
    real, begun = keyed.Draws.generator, dict[object, torch.Generator]()

    def generator(self: keyed.Draws, slot: int, device: torch.device) -> torch.Generator:
        return begun.setdefault((self.key, self.numbers[slot]), real(self, slot, device))

    patch.setattr(keyed.Draws, "generator", generator)


def functions_dissolved(patch: Patch) -> None:
    """torch.export dissolves the forward of an autograd function, and its backward is lost."""
    patch.setattr(trace, "recorded", nullcontext)


def contexts_that_hold_the_arena(patch: Patch) -> None:
    """What an operator's context holds by name is not copied: its memory has other owners by the backward."""
    patch.setattr(normalize, "note_held_arguments", lambda _: None)


# -- what a device holds --------------------------------------------------------------------------------


def cuts_between_modules(patch: Patch) -> None:
    """A layer is the smallest thing that can be moved."""
    real = cuts.cut_positions

    def positions(nodes: Sequence[Node], *rest: Any) -> tuple[int, ...]:
        layers = [node.meta["source"].module.split(".")[0] for node in nodes]
        return tuple(each for each in real(nodes, *rest) if layers[each] != layers[each - 1])

    patch.setattr(trace, "cut_positions", positions)
