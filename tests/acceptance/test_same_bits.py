"""Promise 1: the plan never changes the result."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.whole import Draws, dropout_job, exact_jobs, plain_loop

DRAWN_CUTS = 11
PLANS_OF_A_CUT = 5


@pytest.mark.parametrize("name", sorted(exact_jobs()))
def test_equals_the_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, random = exact_jobs()[name], Random(name)
    draws = Draws.of(job, monkeypatch, expected=plain_loop(job))
    for _ in range(2):
        draws.train(draws.draw(draws.cut(random.sample(draws.graph.cut_positions, 5)), random))


def test_every_valid_plan_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, tied weights, four microbatches; cuts anywhere, plans drawn over all that may differ between them."""
    draws = Draws.of(dropout_job(steps=2), monkeypatch)
    cuts = st.sets(st.sampled_from(draws.graph.cut_positions), min_size=1, max_size=6)

    @seed(20261123)
    @settings(
        max_examples=DRAWN_CUTS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cuts=cuts, randoms=st.tuples(*[st.randoms(use_true_random=True)] * PLANS_OF_A_CUT))
    def draw(cuts: set[int], randoms: tuple[Random, ...]) -> None:
        for random in randoms:
            draws.train(draws.draw(draws.cut(cuts), random))

    draw()
    assert draws.coverage.plans >= 50
    assert len(draws.facts) > DRAWN_CUTS // 2, "cuts differ"
    assert draws.coverage.seen >= {
        "two devices in one job",
        "kept",
        "recomputed",
        "updated on a device",
        "resident",
        "tied weights",
        "gradient ranges of part of the microbatches",
    }
