"""The two sides of an audit, each trained a microbatch at a time: the live model, and its graph as it is cut.

                eager                                        cut
    forward     the user's code, one live model              each shard's program, in order
    backward    loss.backward(1 / microbatches)              each shard's program, descending; some kept their forward,
                                                             some run it again
    update      torch's fused optimizer                      torch's fused optimizer

The shards run by the interface that the runtime runs them by (`planner.frontend.shards.program`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hydraplan.planner.frontend.auditing.draws import EagerDraws, random_nodes
from hydraplan.planner.frontend.models.loading import load_model, read_into
from hydraplan.planner.frontend.models.model import Loss, make_loss
from hydraplan.planner.frontend.shards.build import Known, build
from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.planner.frontend.tracing.trace import named_tensors, naming_model
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.lengths import length_of
from hydraplan.planner.frontend.users.seeding import seeded
from hydraplan.plans.analysis.objects import gradient_tree
from hydraplan.plans.language.workload import Job

Batch = Mapping[str, Tensor]
Sites = Mapping[tuple[int, str], Tensor]
"""(shard, use site) -> a microbatch's gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a microbatch's forward and backward have made."""

    loss: Tensor
    gradients: Mapping[str, Tensor]
    """By the name of the parameter; those that no gradient reaches are left out."""


class Optimizer:
    """torch's fused optimizer over named parameters; with fp32 masters where there are any."""

    def __init__(self, job: Job, parameters: Mapping[str, Tensor], masters: Mapping[str, Tensor]) -> None:
        self._parameters = dict(parameters)
        self._updated = {name: masters.get(name, value) for name, value in parameters.items()}
        self._masters = masters
        arguments: dict[str, object] = {name: _list(value) for name, value in job.optimizer.arguments}
        self._optimizer = None
        if parameters:
            self._optimizer = getattr(torch.optim, job.optimizer.path)(
                list(self._updated.values()), **{**arguments, "fused": True}
            )

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Update those that have a gradient."""
        for name, value in self._updated.items():
            gradient = gradients.get(name)
            value.grad = None if gradient is None else torch.empty_like(value).copy_(gradient)
        if self._optimizer is not None:
            self._optimizer.step()
        for name, value in self._updated.items():
            value.grad = None
            if name in self._masters:
                with torch.no_grad():
                    self._parameters[name].copy_(value)


def _list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class Eager:
    """The job's real model, live over all its steps."""

    def __init__(self, job: Job) -> None:
        with seeded(job.seed), naming_model(job):
            self.module: Loss = make_loss(job, load_model(job) if job.checkpoint is not None else None)
        self._job = job
        tensors = dict(named_tensors(self.module.model))
        for name, stored in self.module.stored.items():
            read_into(tensors[name], stored)
            if name in self.module.masters:
                read_into(self.module.masters[name], self.module.stored_masters.get(name, stored))
        self._parameters = {
            name: parameter for name, parameter in self.module.model.named_parameters() if parameter.requires_grad
        }
        masters = {name: value for name, value in self.module.masters.items() if name in self._parameters}
        self._optimizer = Optimizer(job, self._parameters, masters)

    def run(self, batch: Batch, key: CellKey, draws: EagerDraws) -> Ran:
        """Forward and backward, random calls as their nodes draw."""
        for parameter in self._parameters.values():
            parameter.grad = None
        with draws.in_force():
            loss = self.module(dict(batch))
            made = loss.detach().clone()
            if loss.requires_grad:
                loss.backward(torch.full_like(loss, 1 / self._job.microbatches))
        found = {name: each.grad for name, each in self._parameters.items() if each.grad is not None}
        return Ran(loss=made, gradients=found)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Of those that are trained, tied ones once."""
        return tuple(self._parameters)

    def update(self, gradients: Mapping[str, Tensor]) -> None:
        self._optimizer.step(gradients)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer under all its names, as they are now."""
        return {name: tensor.detach() for name, tensor in named_tensors(self.module.model)}

    def caches(self) -> set[str]:
        """Buffers that are not saved: what a forward keeps in one shows in the step that reads it, if it matters."""
        return {name for name, _ in named_tensors(self.module.model)} - set(self.module.model.state_dict())


class Cut:
    """The graph under a plan's cuts, and the tensors that its shards read."""

    def __init__(
        self, job: Job, batch: Batch, traced: TracedGraph, cuts: Sequence[int], known: Known | None = None
    ) -> None:
        """`traced`: the graph as it is planned; `known`: what constants it has, where that is known already."""
        constants = any(each.role == "constant" for graph in traced.buckets for each in graph.placeholders)
        if known is None and not constants:
            known = Known(graph=traced, constants={}, seed=job.seed)
        built, self.traced = build(job, batch, known=known)
        self.planned = traced
        self._job = job
        self.sharded = shard(self.traced, cuts)
        # Each at a place of its own, as in slabs; on one memory is what lies on one there.
        self.values: dict[str, Tensor] = {name: torch.empty_like(value) for name, value in built.tensors.items()}
        for name, value in self.values.items():
            value.requires_grad_(False)
            built.move(name, value)
        entries = {entry.name: entry for slab in self.sharded.slabs for entry in slab.entries}
        self.values |= {name: self.values[each.shares].detach() for name, each in entries.items() if each.shares}
        self._masters = {name: torch.empty_like(value) for name, value in built.masters.items()}
        for name, value in self._masters.items():
            built.move_master(name, value)
        self.unread = {name: value.detach().clone() for name, value in built.unread.items()}
        trained = {name: self.values[name] for name in entries if name in self.sharded.use_sites}  # in the slabs' order
        self._optimizer = Optimizer(job, trained, self._masters)
        self.name_of: Mapping[str, str] = {
            alias: each.name
            for graph in self.traced.buckets
            for each in graph.placeholders
            if each.role in ("parameter", "buffer")
            for alias in each.aliases
        }
        """Every name of a tensor of the model -> its name in the graph."""

    def graph_for(self, batch: Batch) -> tuple[TracedGraph, ShardedGraph]:
        """Those of the batch's bucket."""
        number = 0
        if self._job.lengths is not None:
            number = self._job.lengths.buckets.index(length_of(batch, self._job.lengths))
        return self.traced.buckets[number], self.sharded.buckets[number]

    def draws_for(self, batch: Batch, key: CellKey) -> EagerDraws:
        """What an eager run of the same microbatch draws by."""
        return EagerDraws(random_nodes(self.graph_for(batch)[0].nodes), key)

    def run(self, batch: Batch, key: CellKey) -> tuple[Ran, Sites]:
        """Forward and backward through all shards; every second one keeps, others in the next step."""
        _, graph = self.graph_for(batch)
        values: dict[int, Mapping[str, Tensor]] = {}
        given: dict[int, dict[str, Mapping[str, Tensor]]] = {}
        kept: dict[int, object] = {}
        for number, program in enumerate(graph.programs):
            names = [each.name for each in graph.buffers[number].tensors]
            given[number] = {
                "parameters": dict(self.values),
                "batch": batch,
                "buffers": {name: self.values[name] for name in names},
            }
            inputs = {producer: values[producer] for producer in graph.reads[number]}
            keep = (number + key.step) % 2 == 0
            made = program.forward(**given[number], inputs=inputs, key=key, keep=keep)
            values[number], kept[number] = made.activations, made.kept
            self.values.update(made.buffers)
        running: dict[int, dict[str, Tensor]] = {number: {} for number in values}
        sites: dict[tuple[int, str], Tensor] = {}
        for number in reversed(range(len(graph.programs))):
            if not graph.has_backward(number):
                continue
            back = graph.programs[number].backward(
                **given.pop(number),
                inputs={producer: values[producer] for producer in graph.reads[number]},
                key=key,
                kept=kept.pop(number),
                output_gradients=running[number],
                running={producer: running[producer] for producer in graph.gradients_to[number]},
                loss_seed=1 / self._job.microbatches,
            )
            for producer, gradients in back.activation_gradients.items():
                running[producer].update(gradients)
            for fresh in back.parameter_gradients.values():
                sites.update({(number, site): value for site, value in fresh.items()})
        (loss,) = values[len(graph.programs) - 1].values()
        return Ran(loss=loss, gradients=self._summed([sites])), sites

    def total(self, microbatches: Sequence[Sites]) -> dict[str, Tensor]:
        """A step's gradients: a tree over the microbatches by use site, then use sites in reverse graph order."""
        return self._summed(microbatches)

    def _summed(self, microbatches: Sequence[Sites]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, sites in self.sharded.use_sites.items():
            total: Tensor | None = None
            for site in sites:
                if all(site in each for each in microbatches):
                    summed = tree_sum([each[site] for each in microbatches])
                    total = summed if total is None else total + summed
            if total is not None:
                found[name] = total
        return found

    def update(self, gradients: Mapping[str, Tensor]) -> None:
        self._optimizer.step(gradients)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer under all its names, as they are now."""
        graph = {alias: self.values[name] for alias, name in self.name_of.items() if name in self.values}
        saved = {name: source for name, source in self.traced.saved_names.items() if source in self.values}
        return self.unread | {name: self.values[source] for name, source in saved.items()} | graph


def tree_sum(values: Sequence[Tensor]) -> Tensor:
    """The sum in the fixed binary tree of EXACTNESS.md, rule 14."""
    tree = gradient_tree(len(values))
    open_nodes: dict[tuple[int, int], Tensor] = {}
    for number, value in enumerate(values):
        node = (number, number + 1)
        while node in tree and tree[node][0] in open_nodes:
            sibling, node = tree[node]
            value = open_nodes.pop(sibling) + value
        open_nodes[node] = value
    return open_nodes[0, len(values)]
