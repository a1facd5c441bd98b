"""Live bytes of shards: what fake tensors predict is what real ones take."""

from __future__ import annotations

from dataclasses import astuple
from random import Random

import pytest
import torch
from support.models import batch_for, gpt2, job_of, jobs
from torch import Tensor, nn

from hydraplan.planner.costs.forms import ShardForms
from hydraplan.planner.costs.shards import cell_arguments, count_memory, measure
from hydraplan.planner.frontend.shards.program import TensorLayout
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.plans.language.workload import Job


class Turned(nn.Module):
    """Batch norm of values that are not dense: what it makes is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        value: Tensor = self.embed(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            value = layer(torch.relu(norm(value.transpose(1, 2)).transpose(1, 2)))
        return value


JOBS = {name: job for name, job in jobs().items() if name in ("llama", "t5", "adversarial")} | {
    "gpt2-dropout": gpt2(dropout=True),
    "turned": job_of(f"{__name__}:Turned", {}, name="turned", loss="support.models:squared_error"),
}


def real(layout: TensorLayout) -> Tensor:
    """Memory as an arena gives it, filled with something that every operator takes."""
    elements = layout.size_bytes // layout.dtype.itemsize
    flat = torch.rand(elements) if layout.dtype.is_floating_point else torch.zeros(elements, dtype=layout.dtype)
    return flat.as_strided(layout.shape, layout.stride)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())
def test_fake_counts_are_real_counts(job: Job) -> None:
    traced = trace(job, batch_for(job))
    random = Random(0)
    cuts = tuple(sorted(random.sample(traced.cut_positions, 2)))
    sharded = shard(traced, cuts)
    forms = ShardForms(traced, sharded)
    for number in range(len(sharded.programs)):
        running = forms.running(number)
        forward, backward = cell_arguments(sharded, number, running, real)
        predicted = measure(sharded, number, running).memory
        counted = count_memory(sharded, number, forward, backward)
        if job.name == "adversarial":
            # one_hot looks at values where it can, and takes more memory where it cannot.
            pairs = zip(astuple(counted), astuple(predicted), strict=True)
            assert all(took <= said <= 2 * took for took, said in pairs)
        elif job.name == "turned":
            # What batch norm makes is copied where it seems not to be dense.
            assert all(took <= said for took, said in zip(astuple(counted), astuple(predicted), strict=True))
        else:
            assert counted == predicted, (cuts, number)
        assert predicted.kept_bytes <= predicted.recompute_workspace_bytes
