"""The graphs of a job's buckets: alike, so that one plan serves all, or refused at the first node that differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.models import GPT2, TOKENS, job_of
from support.varied import BUCKETS, varied_job
from torch import Tensor, nn

from hydraplan.planner.costs.facts import graph_facts, layout_facts
from hydraplan.planner.frontend.shards.build import Known, build, same_graph_cause
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job, Lengths


class Doubled(torch.autograd.Function):
    """Its code reads the length."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, length: int) -> Tensor:
        ctx.length = length
        return value.view(-1, length).mul(2.0).view(value.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.reshape(-1, ctx.length).mul(2.0).view(gradient.shape), None


class Weighted(nn.Module):
    """Weighs positions by a literal of the batch's length; from length `from_` on it does one thing more."""

    def __init__(self, branch_at: int = 100) -> None:
        super().__init__()
        self.branch_at = branch_at
        self.embed = nn.Embedding(TOKENS, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        weights = torch.tensor([1.0 / (1 + place) for place in range(length)])
        value = torch.tanh(self.embed(tokens)) * weights.unsqueeze(-1)
        value = Doubled.apply(value, length)
        if length >= self.branch_at:
            value = value.relu()
        return self.head(value)


def mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["tokens"]).square().mean()


def weighted(buckets: tuple[int, ...] = (4, 6), **arguments: int) -> Job:
    job = job_of(f"{__name__}:Weighted", arguments, loss=f"{__name__}:mean")
    return replace(job, lengths=Lengths(buckets=buckets, pad=(("tokens", 0),)))


def tokens(length: int) -> dict[str, Tensor]:
    return {"tokens": torch.ones(2, length, dtype=torch.int64)}


def test_one_graph_a_bucket_whichever_batch_it_comes_from() -> None:
    job = varied_job("transformers:GPT2LMHeadModel", GPT2 | {"n_layer": 1}, name="varied")
    traced = trace(job, open_data(job).microbatch(0, 0))
    assert [each.placeholder("batch_labels").name for each in traced.buckets] == ["labels"] * 3
    lengths = [
        next(n.meta["val"].shape[1] for n in each.graph.nodes if n.name == "embedding") for each in traced.buckets
    ]
    assert lengths == list(BUCKETS)
    assert {each.cut_positions for each in traced.buckets} == {traced.cut_positions}
    others = {same_graph_cause(job, open_data(job).microbatch(step, 0)) for step in range(8)}
    assert len(others) == 1
    fewer = replace(job, lengths=Lengths(buckets=BUCKETS[1:], pad=job.lengths.pad))  # type: ignore[union-attr]
    assert trace(fewer, open_data(fewer).microbatch(0, 0)).digest != traced.digest


def test_facts_are_the_largest_of_any_bucket() -> None:
    job = weighted()
    traced = trace(job, tokens(4))
    cuts = traced.cut_positions[:2]
    together = layout_facts(traced, "g", cuts, (), threads=1)
    (small, large) = (trace(weighted((each,)), tokens(4)) for each in (4, 6))
    alone = [layout_facts(each, "g", cuts, (), threads=1) for each in (small, large)]
    for shards in zip(together.shards, *(each.shards for each in alone), strict=True):
        for figure in ("activation_bytes", "batch_bytes", "kept_bytes", "recompute_workspace_bytes"):
            both, *single = (getattr(each, figure) for each in shards)
            assert both == max(single)
    constants = [graph_facts(each, "g").construction_bytes for each in (small, large)]
    assert graph_facts(traced, "g").construction_bytes == max(constants)


def test_constants_of_each_bucket_have_a_place_of_their_own() -> None:
    job = weighted()
    model, traced = build(job, tokens(6))
    names = {each.name for graph in traced.buckets for each in graph.placeholders if each.role == "constant"}
    assert len(names) == 2
    for name in names:
        length = int(name.partition("@")[2])
        assert torch.equal(model.tensors[name], torch.tensor([1.0 / (1 + place) for place in range(length)]))
    sharded = shard(traced, traced.cut_positions)
    assert {entry.name for slab in sharded.slabs for entry in slab.entries} >= names
    assert {each.slabs for each in sharded.buckets} == {sharded.slabs}
    again, same = build(job, tokens(6), known=Known.of(job, model, traced))
    assert same is traced
    assert all(torch.equal(value, again.tensors[name]) for name, value in model.tensors.items())


def test_a_model_that_does_something_else_at_a_bucket_is_refused() -> None:
    with pytest.raises(TraceError) as caught:
        trace(weighted(branch_at=5), tokens(4))
    message = str(caught.value)
    assert message.startswith("job job: lengths: the model (")
    assert "test_alike.py:" in message and "bucket 4 has" in message and "bucket 6 has %relu" in message
    assert message.endswith("leave out bucket 4, or take from the model's code what depends on the length")
