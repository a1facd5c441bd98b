"""A traced graph: a job's training forward at microbatch size, normalised, on fake tensors.

    position   0       1       2       3       4              boundary before the i-th compute node
               | node0 | node1 | node2 | node3 |
    cuts = (2,)    shard 0     |    shard 1                   shard k = nodes [cuts[k-1], cuts[k])

Placeholders are what the forward reads from outside: parameters, buffers, lifted constants (tensors that
the model's code makes from literals) and batch values. The one output is the scalar loss.

`node.meta` of a compute node:

    "val"       FakeTensor (or a tuple of them, for nodes whose results are picked by getitem)
    "source"    Source
    "context"   Context
    "draw"      of a random node: its number in the graph, which keys its random numbers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from hydraplan.plans.language.workload import Precision

Role: TypeAlias = Literal["parameter", "buffer", "constant", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where in the user's code a node comes from."""

    module: str
    """Path of the innermost module, such as `transformer.h.3.attn`; empty: the model itself or the loss."""
    location: str
    """`file:line`; empty: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autocast:
    """An autocast region that a node lies in, for the device that the node runs on; its cache is off, so that a cut
    changes nothing."""

    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The modes that a node runs under."""

    grad: bool = True
    autocast: Autocast | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholder:
    """A value that the graph reads from outside."""

    name: str
    """The model's own name (`transformer.h.0.ln_1.weight`), the batch's key, or a made-up name for a constant."""
    node: str
    """Name of its node in the graph."""
    role: Role
    aliases: tuple[str, ...]
    """All names of the same tensor in the model, `name` included (tied weights have several); sorted."""
    trainable: bool
    """Requires grad in the model. (Whether a gradient reaches it: `ShardedGraph.use_sites`.)"""
    persistent: bool
    """Part of the state_dict."""
    memory: str = ""
    """Of several parameters and buffers on one memory: the name of the first, the same for all; else empty."""
    updated: bool = False
    """A buffer that the forward writes to (running statistics, a counter)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a forward asked about values of the batch, and was told: the graph is right where batches say the same."""

    question: GraphModule
    """From the batch values `names` to the tensor that was asked about."""
    names: tuple[str, ...]
    ask: Callable[[Tensor], Any]
    """What was asked of it: bool, or Tensor.item."""
    value: Any
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedGraph:
    digest: str
    """sha256 of the normalised graph: operators, arguments, shapes, strides, placeholders; and the precision."""
    precision: Precision
    """Of the jobs that the graph is of."""
    graph: Graph
    placeholders: tuple[Placeholder, ...]
    """In graph order; only those that the loss depends on."""
    nodes: tuple[Node, ...]
    """Compute nodes in export order: position i is the boundary before `nodes[i]`."""
    requires_grad: Mapping[str, bool]
    """Node name (placeholders too) -> flag in the uncut graph, after all in-place operations."""
    recomputed: frozenset[str]
    """Nodes whose value never crosses a cut: every shard that reads it computes it again."""
    cut_positions: tuple[int, ...]
    """Every position where a cut is allowed, ascending."""
    loss: str
    """Name of the node that makes the loss."""
    unread: tuple[str, ...]
    """Persistent names of the model that the loss does not depend on, tied ones once."""
    saved_names: Mapping[str, str]
    """state_dict name -> placeholder name, or name in `unread`."""
    construction_bytes: int
    """Host memory while the real model is built and its tensors move into the host store, their place there included;
    not part of the digest."""
    notices: tuple[str, ...] = ()
    """What the user should know of the model."""
    made_by_chance: bool = False
    """Whether Python's or numpy's generator was drawn from while the model was made: then another seed may make another
    graph."""
    answers: tuple[Answer, ...] = ()
    """What the forward was told about values of the first microbatch, and every other has to say too."""
    shorter: tuple[TracedGraph, ...] = ()
    """Of a job with lengths: the graphs of its smaller buckets, ascending; this is the largest bucket's. They are alike
    (`planner.frontend.tracing.alike`): one choice of cuts is one of all. `digest` is of all of them."""

    @property
    def buckets(self) -> tuple[TracedGraph, ...]:
        """The graphs of all buckets, ascending; of a job without lengths: this one."""
        return (*self.shorter, self)

    def placeholder(self, node: str) -> Placeholder:
        """The placeholder whose node has that name."""
        return next(each for each in self.placeholders if each.node == node)


def value_of(node: Node) -> Tensor:
    """The fake value of a node that makes one tensor."""
    value = node.meta["val"]
    assert isinstance(value, Tensor), f"{node.name} makes {type(value).__name__}"
    return value


def makes_tensor(node: Node) -> bool:
    """Whether the node makes one tensor (not a tuple that getitems pick from)."""
    return isinstance(node.meta["val"], Tensor)
