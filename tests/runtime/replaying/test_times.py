"""Times of steps: sums of all, each step of some iterations, and memory that does not grow with the iterations."""

from __future__ import annotations

from support.chainrun import ChainJobs

from hydraplan.plans.language.plan import Placement
from hydraplan.runtime.replaying.times import AT_EACH_END, MOST_ROWS
from hydraplan.runtime.training import Trained


def trained(steps: int) -> Trained:
    setup = ChainJobs(steps=steps)
    placement = Placement(job="a", device="cpu0", steps=steps)
    return setup.train(setup.plan(placements=[placement], repeat=steps, predicted=False), setup.store())


def test_sums_are_of_all_iterations_and_spans_of_those_at_both_ends() -> None:
    steps = 50
    found = trained(steps)
    times, sites = found.times, found.program.flow.sites
    at_ends = (*range(AT_EACH_END), *range(steps - AT_EACH_END, steps))
    assert times.iterations(0) == at_ends
    lines = {site.line for number, site in enumerate(sites) if times.counts[number]}
    spans = list(times.spans())
    assert sorted((sites[span.site].line, span.iteration) for span in spans) == sorted(
        (line, iteration) for line in lines for iteration in at_ends
    )
    for line in lines:
        both = [number for number, site in enumerate(sites) if site.line == line]
        assert [times.counts[number] for number in both] == [1, steps - 1]
        assert all(times.last_ns[number] >= found.started_ns for number in both)
        told = sum(span.finish_ns - span.start_ns for span in spans if span.site in both)
        assert sum(times.total_ns[number] for number in both) >= told


def test_what_is_held_does_not_grow_with_the_iterations() -> None:
    few, many = trained(20), trained(60)
    assert len(list(few.times.spans())) == len(list(many.times.spans())) < MOST_ROWS
