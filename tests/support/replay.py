"""A tiny in-memory replay of shard programs, and the plain loop that it has to equal.

No lists: cells run in the simplest order, each on an arena of its own. Everything that crosses a cut moves through
copies with the same strides, at new addresses, as it does between memories; and a forward's arena is overwritten
after it, as by the next owners of its regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from support.models import batch_for
from torch import Tensor

from hydraplan.planner.frontend.models.model import make_loss
from hydraplan.planner.frontend.shards.build import build
from hydraplan.planner.frontend.shards.cell import extent_bytes
from hydraplan.planner.frontend.shards.program import BuiltModel, ShardedGraph
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.seeding import seeded
from hydraplan.plans.analysis.flow import gradient_tree
from hydraplan.plans.language.workload import Job

ARGUMENTS = {"lr": 0.01, "weight_decay": 0.1}


@dataclass(kw_only=True)
class Trained:
    """What a run ends with."""

    losses: list[Tensor]
    tensors: dict[str, Tensor]


def same_bits(left: Trained, right: Trained) -> bool:
    """Whether two runs' losses and tensors are equal to the bit."""
    return (
        len(left.losses) == len(right.losses)
        and left.tensors.keys() == right.tensors.keys()
        and all(torch.equal(a, b) for a, b in zip(left.losses, right.losses, strict=True))
        and all(torch.equal(value, right.tensors[name]) for name, value in left.tensors.items())
    )


def moved(tensor: Tensor) -> Tensor:
    """A copy elsewhere with the same strides (EXACTNESS.md, rule 8)."""
    extent = extent_bytes(tuple(tensor.shape), tensor.stride(), tensor.itemsize) // tensor.itemsize
    flat = tensor.detach().as_strided((extent,), (1,), tensor.storage_offset()).clone()
    return flat.as_strided(tensor.shape, tensor.stride(), 0)


def plain_loop(job: Job, steps: int) -> Trained:
    """The job's plain PyTorch loop: one microbatch a step, fused AdamW."""
    with seeded(job.seed):
        module = make_loss(job)
    parameters = [each for each in module.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True, **ARGUMENTS)
    losses = []
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = module(batch_for(job, step))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().clone())
    return Trained(losses=losses, tensors=dict(module.model.state_dict()))


class Arena:
    """One piece of memory that a cell's arguments lie in."""

    def __init__(self) -> None:
        self.memory = torch.empty(1 << 20, dtype=torch.uint8)
        self.used = 0
        self.views: dict[str, Any] = {}

    def take(self, tensor: Tensor) -> Tensor:
        """A copy of the tensor in the arena, with its strides."""
        size = extent_bytes(tuple(tensor.shape), tensor.stride(), tensor.itemsize)
        flat = self.memory[self.used : self.used + size].view(tensor.dtype)
        assert flat.numel() * flat.itemsize == size, "the arena of these tests is too small"
        self.used += -(-size // 256) * 256
        source = tensor.detach().as_strided((flat.numel(),), (1,), tensor.storage_offset())
        flat.copy_(source)
        return flat.as_strided(tensor.shape, tensor.stride())


@dataclass(kw_only=True)
class Replay:
    """A job's training over shard programs."""

    job: Job
    sharded: ShardedGraph
    built: BuiltModel
    keep: Callable[[int, int, int], bool] = lambda step, microbatch, number: False
    """(step, microbatch, shard) -> whether the forward keeps."""
    move: Callable[[Tensor], Tensor] = moved
    tensors: dict[str, Tensor] = field(init=False)
    kept_bytes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tensors = {name: value.detach().clone() for name, value in self.built.tensors.items()}

    def train(self, steps: int) -> Trained:
        trained = list(self.sharded.use_sites)
        optimizer = torch.optim.AdamW([self.tensors[name] for name in trained], fused=True, **ARGUMENTS)
        losses = []
        for step in range(steps):
            gradients: list[dict[tuple[int, str], Tensor]] = []
            shares = []
            for microbatch in range(self.job.microbatches):
                loss, fresh = self.microbatch(step, microbatch)
                shares.append(loss)
                gradients.append(fresh)
            for name in trained:
                total: Tensor | None = None
                for site in self.sharded.use_sites[name]:
                    summed = tree_sum([each[site] for each in gradients])
                    total = summed if total is None else total + summed
                assert total is not None
                self.tensors[name].grad = torch.empty_like(self.tensors[name]).copy_(total)
            optimizer.step()
            losses.append(torch.stack(shares).squeeze(0) if len(shares) == 1 else torch.stack(shares))
        saved = {
            name: self.tensors[each] if each in self.tensors else self.built.unread[each]
            for name, each in self.built.saved_names.items()
        }
        return Trained(losses=losses, tensors=saved)

    def microbatch(self, step: int, microbatch: int) -> tuple[Tensor, dict[tuple[int, str], Tensor]]:
        graph = self.sharded
        key = CellKey(seed=self.job.seed, step=step, microbatch=microbatch)
        batch = batch_for(self.job, step, microbatch)
        values: dict[int, Mapping[str, Tensor]] = {}
        kept = {}
        before: dict[int, dict[str, Tensor]] = {}
        """Shard -> the buffers that it updates, as its forward found them."""
        for number, program in enumerate(graph.programs):
            keep = self.keep(step, microbatch, number)
            arena = self.arena(values, batch, number)
            result = program.forward(**arena.views, key=key, keep=keep)
            assert set(result.buffers) == {each.name for each in graph.buffers[number].tensors}
            before[number] = {name: self.tensors[name].clone() for name in result.buffers}
            for name, value in result.buffers.items():
                self.tensors[name].copy_(value)
            values[number] = {name: self.move(value) for name, value in result.activations.items()}
            arena.memory.fill_(1)
            assert set(values[number]) == {each.name for each in graph.activations[number].tensors}
            kept[number] = result.kept
            assert (result.kept is not None) == keep
            if result.kept is not None:
                self.kept_bytes.append(result.kept.bytes)
        gradients: dict[int, dict[str, Tensor]] = {number: {} for number in values}
        fresh: dict[tuple[int, str], Tensor] = {}
        for number in reversed(range(len(graph.programs))):
            result = graph.programs[number].backward(
                **self.arena(values, batch, number, before[number]).views,
                key=key,
                kept=kept.pop(number),
                output_gradients=gradients[number],
                running={producer: gradients[producer] for producer in graph.gradients_to[number]},
                loss_seed=1 / self.job.microbatches,
            )
            assert set(result.activation_gradients) == set(graph.gradients_to[number])
            for producer, made in result.activation_gradients.items():
                gradients[producer].update({name: self.move(value) for name, value in made.items()})
            bundles = graph.parameter_gradients[number]
            expected = {(slab, each.name) for slab, bundle in bundles for each in bundle.tensors}
            found = {(slab, site) for slab, made in result.parameter_gradients.items() for site in made}
            assert found == expected
            for made in result.parameter_gradients.values():
                fresh.update({(number, site): value.clone() for site, value in made.items()})
        (loss,) = values[len(graph.programs) - 1].values()
        return loss, fresh

    def arena(
        self,
        values: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        number: int,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> Arena:
        """A shard's arguments in one new piece of memory, as on a device; `buffers`: as its forward found them."""
        arena = Arena()
        names = [each.name for each in self.sharded.buffers[number].tensors]
        updated = {name: arena.take((buffers or self.tensors)[name]) for name in names}
        inputs = {
            producer: {name: arena.take(self.move(value)) for name, value in values[producer].items()}
            for producer in self.sharded.reads[number]
        }
        parameters = {
            entry.name: arena.take(self.tensors[entry.name])
            for slab in self.sharded.slabs
            if number in slab.readers
            for entry in slab.entries
        }
        given = {name: arena.take(batch[name]) for name in self.batch_names(number)}
        arena.views = {"parameters": parameters, "inputs": inputs, "batch": given, "buffers": updated}
        return arena

    def batch_names(self, number: int) -> list[str]:
        return [each.name for each in self.sharded.batch[number].tensors]


def tree_sum(values: Sequence[Tensor]) -> Tensor:
    """The sum in the fixed binary tree of rule 14."""
    tree = gradient_tree(len(values))
    open_nodes: dict[tuple[int, int], Tensor] = {}
    for number, value in enumerate(values):
        node = (number, number + 1)
        while node in tree and tree[node][0] in open_nodes:
            sibling, node = tree[node]
            value = open_nodes.pop(sibling) + value
        open_nodes[node] = value
    return open_nodes[0, len(values)]


def replay_of(
    job: Job,
    cuts: Sequence[int],
    keep: Callable[[int, int, int], bool],
    built: tuple[BuiltModel, TracedGraph] | None = None,
) -> Replay:
    """A replay of the job under the cuts."""
    model, traced = built or build(job, batch_for(job))
    return Replay(job=job, sharded=shard(traced, cuts), built=model, keep=keep)
