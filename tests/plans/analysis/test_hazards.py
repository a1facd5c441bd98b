"""Whatever overlap the dependencies allow, every step reads what it would have read line by line."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawnplan import plans
from support.toyplan import toy_layout, toy_phase, toy_plan, toy_workload

from hydraplan.plans.analysis import arena, objects
from hydraplan.plans.analysis.arena import ALIGNMENT, Arenas, align, allocate
from hydraplan.plans.analysis.flow import Flow, Instance, trace
from hydraplan.plans.analysis.hazards import dependencies
from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.plans.language.steps import Engine, engine
from hydraplan.plans.language.workload import HOST


class Memory:
    """What each block of each arena holds: the instance that wrote it last, and how often it was written."""

    def __init__(self, arenas: Arenas) -> None:
        self.arenas = arenas
        self.blocks: dict[tuple[str, int], tuple[int, int]] = {}
        self.store: dict[int, tuple[int, int]] = defaultdict(lambda: (-1, 0))
        self.writes: dict[int, int] = defaultdict(int)

    def block_names(self, instance: Instance) -> list[tuple[str, int]]:
        first = self.arenas.addresses[instance.id] // ALIGNMENT
        return [(instance.place, first + number) for number in range(align(instance.bytes) // ALIGNMENT)]

    def read(self, instance: Instance) -> set[tuple[int, int]]:
        if not instance.in_arena:
            return {self.store[instance.id]}
        return {self.blocks.get(block, (-1, 0)) for block in self.block_names(instance)}

    def write(self, instance: Instance) -> None:
        self.writes[instance.id] += 1
        tag = (instance.id, self.writes[instance.id])
        if not instance.in_arena:
            self.store[instance.id] = tag
        for block in self.block_names(instance) if instance.in_arena else ():
            self.blocks[block] = tag


def run(flow: Flow, arenas: Arenas, order: list[int]) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """(site, instance) -> what it read there."""
    memory = Memory(arenas)
    result = {}
    for site in order:
        uses = flow.uses[site]
        for instance in uses.reads:
            result[site, instance.id] = memory.read(instance)
        for instance in {instance.id: instance for instance in uses.writes}.values():
            memory.write(instance)
    return result


def some_order(flow: Flow, waits: tuple[tuple[int, ...], ...], random: Random) -> list[int]:
    """A random order that dependencies and engines allow; drops, no dependency of anything, may come anywhere."""
    before: list[set[int]] = [set(wait) for wait in waits]
    last: dict[tuple[str, str], int] = {}
    for number, site in enumerate(flow.sites):
        runs_on = engine(site.step)
        if runs_on is not None and site.step.device != HOST:
            if (site.step.device, runs_on) in last:
                before[number].add(last[site.step.device, runs_on])
            last[site.step.device, runs_on] = number
    followers: dict[int, list[int]] = defaultdict(list)
    for number, wait in enumerate(before):
        for each in wait:
            followers[each].append(number)
    ready = [number for number, wait in enumerate(before) if not wait]
    order = []
    greedy = random.random() < 0.5
    while ready:
        # Half of the orders run far ahead where they can: the latest line that is ready.
        number = max(ready) if greedy and random.random() < 0.8 else random.choice(ready)
        ready.remove(number)
        order.append(number)
        for follower in followers[number]:
            before[follower].discard(number)
            if not before[follower]:
                ready.append(follower)
    assert len(order) == len(flow.sites)
    return order


@settings(max_examples=60)
@given(plans(), st.integers(0, 2**32))
def test_any_order_that_the_dependencies_allow_reads_the_same(plan: Plan, seed: int) -> None:
    flow = trace(plan)
    arenas = allocate(plan, flow)
    waits = dependencies(flow, arenas)
    in_list_order = run(flow, arenas, list(range(len(flow.sites))))
    for instance_id, read in ((key[1], value) for key, value in in_list_order.items()):
        assert len(read) <= 1 or flow.instances[instance_id].bytes == 0
        if flow.instances[instance_id].in_arena and flow.instances[instance_id].bytes:
            assert {tag[0] for tag in read} == {instance_id}
    random = Random(seed)
    for _ in range(3):
        assert run(flow, arenas, some_order(flow, waits, random)) == in_list_order


@settings(max_examples=20)
@given(plans())
def test_waits_point_upward_and_never_at_drops(plan: Plan) -> None:
    flow = trace(plan)
    for number, wait in enumerate(dependencies(flow, allocate(plan, flow))):
        assert all(each < number for each in wait)
        assert all(engine(flow.sites[each].step) is not None for each in wait)


@settings(max_examples=40)
@given(plans())
def test_later_copies_of_a_cycle_wait_like_the_second(plan: Plan) -> None:
    """Traced four times over, copies 2 and 3 have the addresses and the dependencies of copy 1, a cycle later."""
    plan = replace(plan, phases=tuple(replace(phase, repeat=max(4, phase.repeat)) for phase in plan.phases))
    twice = trace(plan)
    arenas = allocate(plan, twice)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "COPIES", 4)
        patch.setattr(arena, "COPIES", 4)
        flow = trace(plan)
        more = allocate(plan, flow)
    assert more.sizes == arenas.sizes
    number = {site[:4]: index for index, site in enumerate(flow.sites)}
    waits = dependencies(flow, more)
    for index, site in enumerate(flow.sites):
        if site.section == "cycle" and site.copy > 1:
            like_copy_one = {
                number[wait.phase, wait.section, wait.copy + site.copy - 1, wait.line]
                if (wait.phase, wait.section) == (site.phase, "cycle")
                else number[wait[:4]]
                for wait in (flow.sites[each] for each in waits[number[site.phase, "cycle", 1, site.line]])
            }
            assert set(waits[index]) <= like_copy_one


def test_engines_wait_for_each_other_at_a_phase_border_and_devices_do_not() -> None:
    workload = toy_workload(2, steps=2, microbatches=1)
    layout = toy_layout()
    placements = [
        Placement(job="a", device="cpu0", steps=1, resident=("0", "1"), device_updates=("1",)),
        Placement(job="b", device="cpu1", steps=1),
    ]
    layouts = {"a": layout, "b": layout}
    phases = [toy_phase(layouts, workload.jobs, placements, repeat=1) for _ in range(2)]
    plan = toy_plan(workload, layout, placements, phases=phases)
    flow = trace(plan)
    waits = dependencies(flow, allocate(plan, flow))
    first: dict[tuple[str, Engine], int] = {}
    last: dict[tuple[str, Engine], int] = {}
    for number, site in enumerate(flow.sites):
        runs_on = engine(site.step)
        if runs_on is None or site.step.device == HOST:
            continue
        if site.phase == 0:
            last[site.step.device, runs_on] = number
        else:
            first.setdefault((site.step.device, runs_on), number)
    assert first.keys() == last.keys() == set(product(("cpu0", "cpu1"), ("load", "compute", "spill")))
    for (device, runs_on), begins in first.items():
        others = {ended for (place, other), ended in last.items() if place == device and other != runs_on}
        assert others <= set(waits[begins])
        assert {flow.sites[each].step.device for each in waits[begins]} <= {device, HOST}


def test_the_test_sees_a_forgotten_dependency() -> None:
    """Without dependencies some order reads something else: the oracle above can fail."""
    from support.drawnplan import drawn_plan

    plan = drawn_plan(7)
    flow = trace(plan)
    arenas = allocate(plan, flow)
    in_list_order = run(flow, arenas, list(range(len(flow.sites))))
    nothing = tuple(() for _ in flow.sites)
    assert any(run(flow, arenas, some_order(flow, nothing, Random(seed))) != in_list_order for seed in range(3))
