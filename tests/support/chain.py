"""A small chain of layers as a sharded graph, made by hand: real numbers for the runtime without the front end.

    shard 0        h0 = tanh(x E' W0' + b0)                               E is tied: shard 0 and the last read it
    shard i        hi = dropout(tanh((h(i-1) Wi') Wi') + bi)              Wi has two use sites
    last shard     loss = mean((h Wl' E + h0 mean - y)^2)                 h0 skips over all shards between

`mask` is a buffer that is read and never trained, and `unused` a trained entry that gets no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hydraplan.planner.frontend.shards.program import (
    BackwardResult,
    BuiltModel,
    Bundle,
    ForwardResult,
    ShardedGraph,
    SlabLayout,
    TensorLayout,
)
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.plans.analysis.arena import align
from hydraplan.plans.language.facts import CellTimes, Layout, ShardFacts, SlabFacts

WIDTH = 12
BATCH_WIDTH = 8
KEPT_BYTES = 1 << 16


class Chain(nn.Module):
    """The model, also as the plain loop trains it."""

    def __init__(self, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.embed = nn.Parameter(torch.randn(WIDTH, BATCH_WIDTH) / 3)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(WIDTH, WIDTH) / 3) for _ in range(layers)])
        self.biases = nn.ParameterList([nn.Parameter(torch.randn(WIDTH) / 9) for _ in range(layers)])
        self.unused = nn.Parameter(torch.randn(5))
        self.register_buffer("mask", torch.rand(WIDTH).round() + 0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        last = len(self.weights) - 1
        first = h = first_layer(x, self.embed, self.weights[0], self.biases[0])
        for number in range(1, last):
            h = middle_layer(h, self.weights[number], self.weights[number], self.biases[number], None)
        return last_layer(h, first, self.embed, self.weights[last], self.biases[last], self.mask, y)


def first_layer(x: Tensor, embed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.tanh(x @ embed.t() @ weight.t() + bias)


def middle_layer(h: Tensor, inner: Tensor, outer: Tensor, bias: Tensor, drop: Tensor | None) -> Tensor:
    """`inner` and `outer` are one weight, a leaf for each use."""
    h = torch.tanh(h @ inner.t() @ outer.t()) + bias
    return h if drop is None else h * drop


def last_layer(
    h: Tensor, first: Tensor, embed: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, y: Tensor
) -> Tensor:
    out = ((h @ weight.t() + bias) * mask) @ embed + first.mean(-1, keepdim=True)
    return ((out - y) ** 2).mean()


@dataclass(slots=True)
class Kept:
    bytes: int
    run: tuple[dict[str, Tensor], dict[str, Tensor], Tensor]


class ChainShard:
    """One layer as a shard."""

    def __init__(self, number: int, layers: int, dropout: float) -> None:
        self.number, self.last, self.dropout = number, layers - 1, dropout
        self.fail_at: int | None = None
        """Training step at which the forward fails."""
        self.keeps = KEPT_BYTES
        """What it says that it keeps."""

    @property
    def name(self) -> str:
        return "loss" if self.number == self.last else f"h{self.number}"

    def forward(
        self,
        *,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        key: CellKey,
        keep: bool,
    ) -> ForwardResult:
        if self.fail_at == key.step:
            raise ValueError("layer broke")
        run = self._run(parameters, inputs, batch, key)
        kept = Kept(self.keeps, run) if keep else None
        return ForwardResult(activations={self.name: run[2].detach()}, buffers={}, kept=kept)

    def backward(
        self,
        *,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        key: CellKey,
        kept: Kept | None,
        output_gradients: Mapping[str, Tensor],
        running: Mapping[int, Mapping[str, Tensor]],
        loss_seed: float,
    ) -> BackwardResult:
        sites, values, output = kept.run if kept else self._run(parameters, inputs, batch, key)
        incoming = [torch.tensor(loss_seed)] if self.number == self.last else [output_gradients[self.name]]
        names = [(producer, f"h{producer}") for producer in inputs]
        passed = [(values[name], running[p][name]) for p, name in names if name in running.get(p, {})]
        gradients = torch.autograd.grad(
            [output] + [value for value, _ in passed],
            list(sites.values()) + [values[name] for _, name in names],
            incoming + [gradient for _, gradient in passed],
            allow_unused=True,
        )
        found = dict(zip([*sites, *(name for _, name in names)], gradients, strict=True))
        by_slab: dict[str, dict[str, Tensor]] = {}
        for site in sites:
            if found[site] is not None:
                by_slab.setdefault(slab_of(site.split("@")[0], self.last), {})[site] = found[site]
        return BackwardResult(
            activation_gradients={producer: {name: found[name]} for producer, name in names},
            parameter_gradients=by_slab,
        )

    def _run(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
        batch: Mapping[str, Tensor],
        key: CellKey,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        with torch.enable_grad():
            sites = {
                site: parameters[site.split("@")[0]].clone().requires_grad_()
                for site in sites_of(self.number, self.last)
            }
            values = {
                name: value.clone().requires_grad_() for tensors in inputs.values() for name, value in tensors.items()
            }
            if self.number == 0:
                output = first_layer(
                    batch["x"].clone(), *(sites[site] for site in ("embed@0", "weights.0", "biases.0"))
                )
            elif self.number < self.last:
                number, shape = self.number, (batch_rows(values[f"h{self.number - 1}"]), WIDTH)
                output = middle_layer(
                    values[f"h{number - 1}"],
                    sites[f"weights.{number}@inner"],
                    sites[f"weights.{number}@outer"],
                    sites[f"biases.{number}"],
                    self._drop(shape, key),
                )
            else:
                last = self.last
                output = last_layer(
                    values[f"h{last - 1}"],
                    values["h0"],
                    sites[f"embed@{last}"],
                    sites[f"weights.{last}"],
                    sites[f"biases.{last}"],
                    parameters["mask"].clone(),  # what a kept graph saves must not lie in the arena
                    batch["y"].clone(),
                )
        return sites, values, output

    def _drop(self, shape: tuple[int, int], key: CellKey) -> Tensor | None:
        if not self.dropout:
            return None
        seed = hash((key.seed, key.step, key.microbatch, self.number)) & 0x7FFFFFFF
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        return (noise >= self.dropout).float() / (1 - self.dropout)


def batch_rows(value: Tensor) -> int:
    return value.shape[0]


def sites_of(number: int, last: int) -> list[str]:
    """Use sites of a shard, in reverse graph order."""
    if number == 0:
        return ["biases.0", "weights.0", "embed@0"]
    if number < last:
        return [f"biases.{number}", f"weights.{number}@outer", f"weights.{number}@inner"]
    return [f"embed@{last}", f"biases.{last}", f"weights.{last}"]


def slab_of(parameter: str, last: int) -> str:
    return f"0+{last}" if parameter == "embed" else parameter.split(".")[1]


def bundle(named: dict[str, tuple[int, ...]], *, trained: bool = False, dtype: torch.dtype = torch.float32) -> Bundle:
    """Dense tensors, one after another."""
    tensors, offset = [], 0
    for name, shape in named.items():
        stride = torch.empty(shape).stride()
        size = align(dtype.itemsize * max(1, torch.Size(shape).numel()))
        tensors.append(
            TensorLayout(
                name=name,
                shape=shape,
                stride=stride,
                dtype=dtype,
                offset_bytes=offset,
                size_bytes=size,
                requires_grad=trained,
            )
        )
        offset += size
    return Bundle(tensors=tuple(tensors), size_bytes=offset)


def chain_graph(layers: int, rows: int, dropout: float = 0.0) -> ShardedGraph:
    """The chain cut between all layers, for microbatches of `rows`."""
    last = layers - 1
    square, bias, embed = (WIDTH, WIDTH), (WIDTH,), (WIDTH, BATCH_WIDTH)
    shapes = {"embed": embed}
    for number in range(layers):
        shapes |= {f"weights.{number}": square, f"biases.{number}": bias}
    slabs = [
        _slab(str(n), (n,), {f"weights.{n}": square, f"biases.{n}": bias} | ({"unused": (5,)} if n == 1 else {}))
        for n in range(last)
    ]
    slabs.append(_slab(str(last), (last,), {f"weights.{last}": square, f"biases.{last}": bias}, {"mask": bias}))
    slabs.append(_slab(f"0+{last}", (0, last), {"embed": embed}))
    activations = [bundle({f"h{n}": (rows, WIDTH)}) for n in range(last)] + [bundle({"loss": ()})]
    gradients = [bundle({f"h{n}": (rows, WIDTH)}) for n in range(last)] + [bundle({})]
    batch = [bundle({})] * layers
    batch[0], batch[last] = bundle({"x": (rows, BATCH_WIDTH)}), bundle({"y": (rows, BATCH_WIDTH)})
    reads = [()] + [(n - 1,) for n in range(1, last)] + [tuple(sorted({0, last - 1}))]
    by_shard = []
    use_sites: dict[str, tuple[tuple[int, str], ...]] = {"unused": ()}
    for number in reversed(range(layers)):
        for site in sites_of(number, last):
            parameter = site.split("@")[0]
            use_sites[parameter] = (*use_sites.get(parameter, ()), (number, site))
    for number in range(layers):
        sites: dict[str, dict[str, tuple[int, ...]]] = {}
        for site in sites_of(number, last):
            parameter = site.split("@")[0]
            sites.setdefault(slab_of(parameter, last), {})[site] = shapes[parameter]
        by_shard.append(tuple((slab, bundle(named)) for slab, named in sites.items()))
    return ShardedGraph(
        cuts=tuple(range(1, layers)),
        slabs=tuple(slabs),
        activations=tuple(activations),
        activation_gradients=tuple(gradients),
        batch=tuple(batch),
        buffers=(bundle({}),) * layers,
        reads=tuple(reads),
        gradients_to=tuple(reads),
        parameter_gradients=tuple(by_shard),
        use_sites=use_sites,
        programs=tuple(ChainShard(number, layers, dropout) for number in range(layers)),
    )


def _slab(
    name: str,
    readers: tuple[int, ...],
    trained: dict[str, tuple[int, ...]],
    fixed: dict[str, tuple[int, ...]] | None = None,
) -> SlabLayout:
    first = bundle(trained, trained=True)
    rest = bundle(fixed or {})
    moved = [
        TensorLayout(
            name=each.name,
            shape=each.shape,
            stride=each.stride,
            dtype=each.dtype,
            offset_bytes=each.offset_bytes + first.size_bytes,
            size_bytes=each.size_bytes,
        )
        for each in rest.tensors
    ]
    return SlabLayout(
        name=name,
        readers=readers,
        entries=(*first.tensors, *moved),
        parameter_bytes=first.size_bytes + rest.size_bytes,
        trainable_bytes=first.size_bytes,
        buffer_bytes=0,
    )


def chain_layout(graph: ShardedGraph, profile: str) -> Layout:
    """The facts of the chain; its costs are made up."""
    readers = {slab.name: slab.readers for slab in graph.slabs}
    return Layout(
        graph="chain",
        cuts=graph.cuts,
        shards=tuple(
            ShardFacts(
                slabs=tuple(name for name in readers if number in readers[name]),
                reads=graph.reads[number],
                gradients_to=graph.gradients_to[number],
                gradient_bytes=tuple((slab, sites.size_bytes) for slab, sites in graph.parameter_gradients[number]),
                activation_bytes=graph.activations[number].size_bytes,
                activation_gradient_bytes=graph.activation_gradients[number].size_bytes,
                batch_bytes=graph.batch[number].size_bytes,
                forward_workspace_bytes=1 << 14,
                backward_workspace_bytes=1 << 14,
                recompute_workspace_bytes=1 << 14,
                keep_workspace_bytes=1 << 14,
                kept_bytes=KEPT_BYTES,
                times=(CellTimes(profile=profile, forward_us=100, backward_us=200),),
            )
            for number in range(len(graph.programs))
        ),
        slabs=tuple(
            SlabFacts(
                name=slab.name,
                readers=slab.readers,
                parameter_bytes=slab.parameter_bytes,
                trainable_bytes=slab.trainable_bytes,
            )
            for slab in graph.slabs
        ),
    )


def built_chain(model: Chain) -> BuiltModel:
    tensors = {name: value.detach() for name, value in model.state_dict().items()}
    return BuiltModel(tensors=tensors, unread={}, saved_names={name: name for name in tensors})


class Numbers:
    """Batches that depend on the step alone."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def batch(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(self.batch_size, BATCH_WIDTH, generator=generator)
        return {"x": x, "y": x.flip(-1) * 0.5}
