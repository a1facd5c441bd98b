"""Live bytes of shards: what fake tensors predict is what real ones take."""

from __future__ import annotations

from dataclasses import astuple
from random import Random

import pytest
import torch
from support.models import batch_for, gpt2, jobs
from torch import Tensor

from planner.frontend.program import TensorLayout
from planner.frontend.sharded import shard
from planner.frontend.trace import trace
from planner.shard_costs import cell_arguments, count_memory, measure
from planner.shard_forms import ShardForms
from plans.workload import Job

JOBS = {name: job for name, job in jobs().items() if name in ("llama", "t5", "adversarial")} | {
    "gpt2-dropout": gpt2(dropout=True)
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
        else:
            assert counted == predicted, (cuts, number)
        assert predicted.kept_bytes <= predicted.recompute_workspace_bytes
