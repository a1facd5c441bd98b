"""Promise 1: the plan never changes the result."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.drawn import Coverage, draw_phase
from support.whole import Result, cluster, dropout_job, exact_jobs, facts_of, plain_loop, plan_of, run, traced

from planner.frontend.build import Known, build
from planner.frontend.data import open_data
from plans.facts import Facts
from runtime import prepare

DRAWN_PLANS = 50
CHOICES_OF_CUTS = 8


@pytest.mark.parametrize("name", sorted(exact_jobs()))
def test_equals_the_plain_loop(name: str, tmp_path: Path) -> None:
    job = exact_jobs()[name]
    expected = plain_loop(job)
    graph = traced(job)
    random = Random(name)
    where = cluster()
    for number in range(2):
        cuts = tuple(sorted(random.sample(graph.cut_positions, 5)))
        facts = facts_of(job, graph, cuts)
        phase = draw_phase(
            job.name,
            facts.layouts[0],
            microbatches=1,
            devices=[each.name for each in where.devices],
            steps=job.steps,
            random=random,
            coverage=Coverage(),
        )
        found = run(plan_of(job, facts, [phase], where), tmp_path / str(number))[job.name]
        assert found.losses == expected.losses
        for weight, value in found.weights.items():
            assert torch.equal(value, expected.weights[weight]), weight


def test_every_valid_plan_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, tied weights, four microbatches; plans drawn over all that may differ between them."""
    job = dropout_job(steps=2)
    graph = traced(job)
    where = cluster()
    coverage = Coverage()
    results: list[Result] = []
    # The job is one and the same: its model is traced once here, not once a plan.
    shared = Known.of(*build(job, open_data(job).microbatch(0, 0)))
    monkeypatch.setattr(prepare, "build", lambda job, batch, known: build(job, batch, known=shared))
    choose = Random(20261123)
    choices = [
        facts_of(job, graph, tuple(sorted(choose.sample(graph.cut_positions, choose.randint(1, 6)))))
        for _ in range(CHOICES_OF_CUTS)
    ]

    @seed(20261123)
    @settings(
        max_examples=DRAWN_PLANS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(random=st.randoms(use_true_random=True), facts=st.sampled_from(choices))
    def draw(random: Random, facts: Facts) -> None:
        phase = draw_phase(
            job.name,
            facts.layouts[0],
            microbatches=job.microbatches,
            devices=[each.name for each in where.devices],
            steps=job.steps,
            random=random,
            coverage=coverage,
        )
        with TemporaryDirectory() as directory:
            results.append(run(plan_of(job, facts, [phase], where), Path(directory) / "run")[job.name])
        assert results[-1].losses == results[0].losses
        assert results[-1].same_bits(results[0])

    draw()
    assert coverage.plans >= DRAWN_PLANS
    assert coverage.seen >= {
        "two devices in one job",
        "kept",
        "recomputed",
        "updated on a device",
        "resident",
        "tied weights",
        "gradient ranges of part of the microbatches",
    }
