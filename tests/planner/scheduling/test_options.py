"""Options: each within the budget, none beaten in every respect, priced near what the simulator says."""

from __future__ import annotations

import pytest
from support.sweep import gptj, xl_sweep
from support.toyplan import MIB, toy_cluster, toy_layout, toy_workload

from hydraplan.planner.scheduling.options import Option, Pricer, options_of, smallest_budget
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.workload import Workload


def pricer_of(workload: Workload, facts: Facts) -> Pricer:
    layout = next(each for each in facts.layouts if each.graph == facts.jobs[0].graph)
    return Pricer(workload.cluster, workload.cluster.devices[0], workload.jobs[0], layout, facts.jobs[0].state_copies)


@pytest.fixture(scope="module", params=["xl", "gptj"])
def pricer(request: pytest.FixtureRequest) -> Pricer:
    return pricer_of(*(xl_sweep(1, 1) if request.param == "xl" else gptj()))


@pytest.fixture(scope="module")
def options(pricer: Pricer) -> tuple[Option, ...]:
    return options_of(pricer)


def test_options_fit_the_budget(pricer: Pricer, options: tuple[Option, ...]) -> None:
    assert options
    assert all(each.memory_bytes + each.window_bytes <= pricer.device.budget_bytes for each in options)


def test_no_option_is_beaten_in_every_respect(options: tuple[Option, ...]) -> None:
    for one in options:
        others = (each.costs() for each in options if each != one)
        assert not any(all(a <= b for a, b in zip(other, one.costs(), strict=True)) for other in others)


def test_options_differ_in_every_treatment(options: tuple[Option, ...]) -> None:
    assert any(not each.resident for each in options)
    assert any(each.resident for each in options)
    assert any(each.keep for each in options)
    assert any(each.device_updates for each in options)


def test_treatments_trade_memory_for_time(pricer: Pricer) -> None:
    plain = pricer.price((), (), ())
    slabs = pricer.by_saving()[:2]
    resident = pricer.price(slabs, (), ())
    assert resident.memory_bytes > plain.memory_bytes
    assert resident.load_us < plain.load_us
    assert resident.host_us == plain.host_us
    updated = pricer.price(slabs, (), slabs)
    assert updated.memory_bytes > resident.memory_bytes
    assert updated.load_us < resident.load_us
    assert updated.spill_us < resident.spill_us
    assert updated.host_us < resident.host_us
    kept = pricer.price((), (0,), ())
    assert kept.memory_bytes > plain.memory_bytes
    assert kept.compute_us < plain.compute_us


def test_the_smallest_budget_is_the_plain_options(pricer: Pricer) -> None:
    plain = pricer.price((), (), ())
    assert smallest_budget(pricer) <= plain.memory_bytes + plain.window_bytes


def test_a_shared_slab_counts_once_and_comes_first() -> None:
    """It is loaded for both its readers, so its residency saves most."""
    workload = toy_workload(1, cluster=toy_cluster(1, budget_bytes=64 * MIB))
    pricer = Pricer(workload.cluster, workload.cluster.devices[0], workload.jobs[0], toy_layout(4), 2)
    assert pricer.by_saving()[0] == "0+3"
    plain = pricer.price((), (), ())
    resident = pricer.price(("0+3",), (), ())
    assert resident.memory_bytes - plain.memory_bytes == MIB // 2


def test_the_plain_option_is_left_to_the_lists_whatever_the_estimate() -> None:
    workload = toy_workload(1, cluster=toy_cluster(1, budget_bytes=MIB))
    pricer = Pricer(workload.cluster, workload.cluster.devices[0], workload.jobs[0], toy_layout(4), 2)
    (plain,) = options_of(pricer)
    assert (plain.resident, plain.keep, plain.device_updates) == ((), (), ())


def test_what_is_frozen_costs_its_loads_alone() -> None:
    """Two of four shards are frozen; of the others a quarter is trained."""
    microbatches = 2
    workload = toy_workload(1, cluster=toy_cluster(1, budget_bytes=64 * MIB), microbatches=microbatches)
    device, layout = workload.cluster.devices[0], toy_layout(4, tied=False, frozen=2)
    pricer = Pricer(workload.cluster, device, workload.jobs[0], layout, 2)
    plain = pricer.price((), (), ())
    assert plain.compute_us == microbatches * (4 * 1_000 + 2 * (2_000 + 1_000))
    loaded = 4 + 1  # forward all, backward shard 2; shard 3 turns round
    assert plain.load_us == pytest.approx(loaded * MIB / 100, rel=0.01)
    assert plain.spill_us == pytest.approx(2 * MIB / 4 / 100, rel=0.01)
    resident = pricer.price(tuple(slab.name for slab in layout.slabs), (), ())
    assert resident.load_us == pytest.approx(2 * MIB / 4 / 100, rel=0.02), "refreshes move what changes"
    assert set(pricer.by_keeping()) == {2, 3}
    # Two loads are saved by the residency of slab 2, less a refresh of its trained quarter.
    assert pricer.by_saving() == ["2", "0", "1", "3"]
