"""Promise 1 on a GPU: jobs whose plans run on two devices that share one train to the bits of the plain loop there."""

from __future__ import annotations

from random import Random

import pytest
import torch
from support.whole import Draws, Result, cluster, dropout_job, exact_jobs, plain_loop

from hydraplan.planner.frontend.shards.deterministic import deterministic
from hydraplan.plans.language.workload import HOST, Job
from hydraplan.runtime.devices.backings import backing_of
from hydraplan.runtime.devices.links import PacedLink

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")

GPU = "cuda:0"


@pytest.fixture(autouse=True)
def as_a_run_sets_it() -> None:
    """What a run asks of cuBLAS has to be asked before its first use."""
    spec = cluster(1, backing=GPU).devices[0]
    backing_of(spec).open(spec, PacedLink(load=None, spill=None)).close()


def on_gpu(job: Job, monkeypatch: pytest.MonkeyPatch, expected: Result | None = None) -> Draws:
    draws = Draws.of(job, monkeypatch, expected=expected)
    draws.where = cluster(backing=GPU)
    return draws


@pytest.mark.parametrize("name", sorted(exact_jobs()))
def test_equals_the_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, random = exact_jobs()[name], Random(name)
    with deterministic():
        expected = plain_loop(job, GPU)
    draws = on_gpu(job, monkeypatch, expected)
    for _ in range(2):
        cuts = draws.cut(random.sample(draws.graph.cut_positions, 5))
        draws.train(draws.draw(cuts, random, updates="cpu0"))


@pytest.mark.parametrize("updates", [HOST, "cpu0"])
def test_every_valid_plan_gives_the_same_bits(updates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, tied weights, four microbatches; updates all in one place, since the kernels of host and GPU differ."""
    draws, random = on_gpu(dropout_job(steps=2), monkeypatch), Random(5)
    for _ in range(8):
        draws.train(draws.draw(draws.cut_anywhere(random), random, updates=updates))
