"""Slices of a traced graph: what one shard runs, reads and makes, and the code that runs it.

    values of earlier shards ->  +-----------------------------+
    parameters, one leaf a   ->  | nodes computed again (masks) |  -> values that later shards read,
      use site                   | the shard's own nodes        |     or the loss
    batch values             ->  +-----------------------------+

Equal slices (the equal blocks of a model) share their code: names and numbers of nodes are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.modes import PLAIN, Scoped, ambient_of, entered
from hydraplan.planner.frontend.tracing.traced import Context, Placeholder, TracedGraph, value_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One use of a trainable parameter: a node that reads it. It gets a leaf and a gradient of its own."""

    name: str
    parameter: str
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One tensor that a slice's code takes, in the order of its parameters."""

    kind: str
    """`input`, `site` (a trainable parameter at one use), `buffer` (one that the forward updates), `parameter` (any
    other of the model) or `batch`."""
    name: str
    """Value name, use site, name of the model's tensor, or batch key."""
    producer: int
    """Of an input: the shard that makes it; else -1."""
    entry: str
    """Of a site: the parameter; else `name`."""
    value: Tensor
    """Fake."""
    requires_grad: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One shard of a cut graph."""

    number: int
    nodes: tuple[Node, ...]
    """What it runs, in graph order; nodes computed again included."""
    arguments: tuple[Argument, ...]
    sites: tuple[Site, ...]
    """In graph order."""
    outputs: tuple[str, ...]
    """Values that later shards read, in graph order; of the last shard the loss."""
    draws: tuple[int, ...]
    """Numbers of its random nodes, by slot."""
    code: Code

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the model's tensors that it reads, each once, in order of first use."""
        kinds = ("site", "parameter", "buffer")
        return tuple(dict.fromkeys(each.entry for each in self.arguments if each.kind in kinds))

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the buffers that it updates; its code makes their new values, after its outputs."""
        return tuple(each.name for each in self.arguments if each.kind == "buffer")


class Code:
    """A function `(draws, device, *arguments) -> (*outputs, *buffers)`, compiled when it is first called."""

    def __init__(self, graph: Graph, ambient: Context) -> None:
        """`ambient`: the modes that the whole of it runs under."""
        self.graph = graph
        self.ambient = ambient
        text = "\n".join(f"{node.op} {node.target} {node.args} {node.kwargs}" for node in graph.nodes)
        forms = "\n".join(str(node.meta["form"]) for node in graph.nodes if "form" in node.meta)
        self.signature = sha256(f"{ambient}\n{text}\n{forms}".encode()).hexdigest()

    @cached_property
    def function(self) -> Callable[..., tuple[Tensor, ...]]:
        compiled: Callable[..., tuple[Tensor, ...]] = GraphModule(torch.nn.Module(), self.graph).forward
        if self.ambient == PLAIN:
            return compiled

        def run(draws: keyed.Draws, device: torch.device, *arguments: Tensor) -> tuple[Tensor, ...]:
            with entered(self.ambient, device.type):
                return compiled(draws, device, *arguments)

        return run


def slices(traced: TracedGraph, cuts: Sequence[int]) -> tuple[Slice, ...]:
    """The shards of the graph under the cuts: ascending positions, all of them allowed ones."""
    bounds = [0, *cuts, len(traced.nodes)]
    owner: dict[str, int] = {}
    own: list[list[Node]] = []
    for number, (first, last) in enumerate(pairwise(bounds)):
        own.append([node for node in traced.nodes[first:last] if node.name not in traced.recomputed])
        owner.update((node.name, number) for node in own[-1])
    order = {node: number for number, node in enumerate(traced.nodes)}
    placeholders = {each.node: each for each in traced.placeholders}
    return tuple(_slice(traced, number, nodes, owner, order, placeholders) for number, nodes in enumerate(own))


def _slice(
    traced: TracedGraph,
    number: int,
    own: list[Node],
    owner: Mapping[str, int],
    order: Mapping[Node, int],
    placeholders: Mapping[str, Placeholder],
) -> Slice:
    nodes = sorted({*own, *_computed_again(traced, own)}, key=lambda node: order[node])
    outputs = [
        node.name
        for node in own
        if node.name == traced.loss or any(owner.get(user.name, number) > number for user in node.users)
    ]
    arguments: dict[tuple[str, str], Argument] = {}
    sites: list[Site] = []
    for node in nodes:
        for each in node.all_input_nodes:
            argument = _argument(traced, number, node, each, owner, placeholders)
            if argument is not None and (argument.kind, argument.name) not in arguments:
                arguments[argument.kind, argument.name] = argument
                if argument.kind == "site":
                    sites.append(Site(name=argument.name, parameter=argument.entry, node=node))
    return Slice(
        number=number,
        nodes=tuple(nodes),
        arguments=tuple(arguments.values()),
        sites=tuple(sites),
        outputs=tuple(outputs),
        draws=tuple(node.meta["draw"] for node in nodes if node.target in keyed.KEYED),
        code=_shared(_code(nodes, tuple(arguments.values()), outputs, placeholders)),
    )


def site_name(parameter: str, reader: str) -> str:
    """Name of a parameter's use by one node."""
    return f"{parameter}@{reader}"


def _computed_again(traced: TracedGraph, own: list[Node]) -> set[Node]:
    found: set[Node] = set()
    todo = [each for node in own for each in node.all_input_nodes]
    while todo:
        node = todo.pop()
        if node.name in traced.recomputed and node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found


def _argument(
    traced: TracedGraph,
    number: int,
    reader: Node,
    node: Node,
    owner: Mapping[str, int],
    placeholders: Mapping[str, Placeholder],
) -> Argument | None:
    """What `reader` takes for `node`; None: the slice makes it itself."""
    if node.op != "placeholder":
        if owner.get(node.name, number) == number:
            return None
        kind, name, entry = "input", node.name, node.name
    else:
        placeholder = placeholders[node.name]
        kind = _kind(placeholder)
        entry = placeholder.name
        name = site_name(entry, reader.name) if kind == "site" else entry
    return Argument(
        kind=kind,
        name=name,
        producer=owner[node.name] if kind == "input" else -1,
        entry=entry,
        value=value_of(node),
        requires_grad=traced.requires_grad[node.name],
    )


def _kind(placeholder: Placeholder) -> str:
    if placeholder.role == "batch":
        return "batch"
    if placeholder.updated:
        return "buffer"
    return "site" if placeholder.trainable else "parameter"


def _code(
    nodes: list[Node], arguments: tuple[Argument, ...], outputs: list[str], placeholders: Mapping[str, Placeholder]
) -> Code:
    graph = Graph()
    draws, device = graph.placeholder("draws"), graph.placeholder("device")
    made: dict[str, Node] = {}
    taken: dict[tuple[str, str], Node] = {}
    for number, argument in enumerate(arguments):
        value = argument.value
        taken[argument.kind, argument.name] = graph.placeholder(f"a{number}")
        taken[argument.kind, argument.name].meta["form"] = (
            argument.kind, argument.requires_grad, tuple(value.shape), value.stride(), value.dtype
        )  # fmt: skip

    # What the forward updates is copied first: a forward that runs again begins with the same (EXACTNESS.md, rule 9).
    for key, given in list(taken.items()):
        if key[0] == "buffer":
            taken[key] = _copied(graph, given)
    buffers = [node for key, node in taken.items() if key[0] == "buffer"]

    def here(reader: Node, node: Node) -> Node:
        if node.name in made:
            return made[node.name]
        placeholder = placeholders.get(node.name)
        name = placeholder.name if placeholder else node.name
        kind = "input" if placeholder is None else _kind(placeholder)
        return taken[kind, site_name(name, reader.name) if kind == "site" else name]

    ambient = ambient_of([node.meta["context"] for node in nodes])
    slot = 0
    for number, node in enumerate(nodes):

        def change(value: Any, node: Node = node) -> Any:
            if isinstance(value, Node):
                given = here(node, value)
                held = value in node.meta.get("held", ()) and value.name not in made
                return _copied(graph, given) if held else given
            return device if isinstance(value, torch.device) else value

        args, kwargs = map_aggregate((node.args, node.kwargs), change)
        target: Any = node.target
        if target in keyed.KEYED:
            args = (draws, slot, *args)
            slot += 1
        if node.meta["context"] != ambient:
            target, args = Scoped(target, node.meta["context"], ambient), (device, *args)
        made[node.name] = graph.create_node("call_function", target, args, dict(kwargs), name=f"v{number}")
    graph.output((*(made[name] for name in outputs), *buffers))
    return Code(graph, ambient)


def _copied(graph: Graph, value: Node) -> Node:
    return graph.call_function(torch.ops.aten.clone.default, (value,), {"memory_format": torch.preserve_format})


_CODES = 512


@lru_cache(_CODES)
def _cell_of(signature: str) -> list[Code]:
    return []


def _shared(code: Code) -> Code:
    """The first code of the same signature, so that equal slices compile and are examined once."""
    cell = _cell_of(code.signature)
    if not cell:
        cell.append(code)
    return cell[0]
