"""No two things that live at once share memory."""

from __future__ import annotations

from collections import defaultdict
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawnplan import plans
from support.toyplan import toy_layout, toy_plan, toy_workload

from hydraplan.plans.analysis.arena import (
    ALIGNMENT,
    Arenas,
    _by_area,
    _by_size,
    _first_fit,
    _fitted,
    _live_bytes,
    align,
    allocate,
)
from hydraplan.plans.analysis.flow import Flow, Instance, trace
from hydraplan.plans.checking.check import check
from hydraplan.plans.language.plan import Placement, Plan


def overlapping(flow: Flow, arenas: Arenas) -> list[tuple[Instance, Instance]]:
    """Pairs that live at one line, in one place, at overlapping addresses."""
    starts: dict[int, list[Instance]] = defaultdict(list)
    for instance in flow.instances:
        if instance.in_arena and instance.bytes:
            starts[instance.begin].append(instance)
    live: list[Instance] = []
    pairs = []
    for site in range(len(flow.sites)):
        live = [instance for instance in live if instance.end >= site]
        for instance in starts[site]:
            low = arenas.addresses[instance.id]
            for other in live:
                start = arenas.addresses[other.id]
                if other.place == instance.place and low < start + other.bytes and start < low + instance.bytes:
                    pairs.append((instance, other))
            live.append(instance)
    return pairs


@settings(max_examples=60)
@given(plans())
def test_live_instances_never_overlap(plan: Plan) -> None:
    assert check(plan) == ()
    flow = trace(plan)
    arenas = allocate(plan, flow)
    assert overlapping(flow, arenas) == []
    for instance in flow.instances:
        if instance.in_arena:
            address = arenas.addresses[instance.id]
            assert address % ALIGNMENT == 0
            assert address + align(instance.bytes) <= arenas.sizes[instance.place]


@settings(max_examples=30)
@given(plans())
def test_a_line_of_a_cycle_has_one_address(plan: Plan) -> None:
    """Whatever the copy, so that the replay of later copies needs no new addresses."""
    flow = trace(plan)
    arenas = allocate(plan, flow)
    seen: dict[tuple[object, ...], int] = {}
    for instance in flow.instances:
        if instance.in_arena and instance.begin >= 0:
            site = flow.sites[instance.begin]
            where = (instance.place, *site[:2], site.line, instance.key)
            assert seen.setdefault(where, arenas.addresses[instance.id]) == arenas.addresses[instance.id]


def test_a_streamed_job_needs_far_less_than_its_parameters() -> None:
    layout = toy_layout(12, tied=False)
    plan = toy_plan(toy_workload(1, steps=1, microbatches=1), layout, repeat=1)
    held = sum(size for shard in layout.shards for _, size in shard.gradient_bytes)
    arena = plan.predictions.devices[0].arena_bytes
    assert arena < held + 2 * layout.slabs[0].parameter_bytes


def test_a_resident_slab_keeps_its_address_through_the_phase() -> None:
    plan = toy_plan(placements=[Placement(job="a", device="cpu0", steps=4, resident=("1",), device_updates=("1",))])
    flow = trace(plan)
    arenas = allocate(plan, flow)
    (resident,) = [each for each in flow.instances if each.place == "cpu0" and each.key[:3] == ("parameters", "a", "1")]
    assert (flow.sites[resident.begin].section, flow.sites[resident.end].section) == ("prologue", "epilogue")
    others = [each for each in flow.instances if each.place == "cpu0" and each is not resident and each.bytes]
    low, high = arenas.addresses[resident.id], arenas.addresses[resident.id] + resident.bytes
    assert all(arenas.addresses[each.id] >= high or arenas.addresses[each.id] + each.bytes <= low for each in others)


def test_the_better_of_two_orders_is_taken() -> None:
    """By size the block that only lives at line 7 takes the bottom, and one that lives longer lands on top."""
    shapes = ((4, ((0, 4),)), (6, ((7, 7),)), (3, ((2, 3),)), (4, ((3, 8),)))
    assert [_first_fit(shapes, order)[0] for order in (_by_size, _by_area)] == [13, 11]
    assert _fitted(shapes)[0] == 11


def test_sizes_that_are_nearly_alike_take_each_others_places() -> None:
    """Slabs and gradients of about one size: each fits where any other was; by exact size they leave gaps."""
    random = Random(3)
    starts = [(number, number + random.randint(1, 7)) for number in range(120)]
    shapes = tuple((random.randint(950, 1000), (interval,)) for interval in starts)
    least = _live_bytes(shapes)
    assert _fitted(shapes)[0] < 1.06 * least
    assert _first_fit(shapes, _by_size)[0] > 1.2 * least


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_two_blocks_meet_and_no_arena_is_smaller_than_what_lives(data: st.DataObject) -> None:
    interval = st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda pair: ((pair[0], sum(pair)),))
    shapes = tuple(data.draw(st.lists(st.tuples(st.integers(1, 64), interval), min_size=1, max_size=40)))
    top, addresses = _fitted(shapes)
    assert top >= _live_bytes(shapes)
    for number, (size, ((low, high),)) in enumerate(shapes):
        assert 0 <= addresses[number] <= top - size
        for other in range(number):
            other_size, ((first, last),) = shapes[other]
            if first <= high and low <= last:
                apart = addresses[other] + other_size <= addresses[number]
                assert apart or addresses[number] + size <= addresses[other]
