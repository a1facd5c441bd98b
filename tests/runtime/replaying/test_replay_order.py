"""In real time, over all iterations of a cycle: whatever touches one region happens in the order of the list."""

from __future__ import annotations

import random
import time
from typing import NamedTuple

import pytest
from support.chainrun import ChainJobs
from support.drawn import Coverage, draw_phase
from support.toyplan import toy_phase

from hydraplan.plans.analysis.arena import align
from hydraplan.plans.language.plan import Phase, Placement
from hydraplan.runtime.devices import cpu
from hydraplan.runtime.training import Trained

STEPS = 6


class Access(NamedTuple):
    order: tuple[int, int, int]
    place: object
    low: int
    high: int
    writes: bool
    start_ns: int
    finish_ns: int


def accesses(trained: Trained) -> list[Access]:
    """Every touch of every region, in list order."""
    program = trained.program
    orders = {
        (instruction.site): segment.order
        for segments in program.lanes.values()
        for segment in segments
        for instruction in segment.instructions
    }
    found = []
    for span in list(trained.times.spans()):
        uses = program.flow.uses[span.site]
        for instances, writes in ((uses.reads, False), (uses.writes, True)):
            for each in instances:
                if each.bytes == 0:
                    continue
                low = program.arenas.addresses[each.id] if each.in_arena else 0
                place = each.place if each.in_arena else (each.place, each.key)
                order = (orders[span.site], span.iteration, span.site)
                high = low + align(each.bytes)
                found.append(Access(order, place, low, high, writes, span.start_ns, span.finish_ns))
    return sorted(found, key=lambda access: access.order)


def out_of_order(found: list[Access]) -> list[tuple[Access, Access]]:
    return [
        (first, second)
        for number, second in enumerate(found)
        for first in found[:number]
        if first.order != second.order
        and first.place == second.place
        and (first.writes or second.writes)
        and first.low < second.high
        and second.low < first.high
        and first.finish_ns > second.start_ns
    ]


@pytest.fixture(autouse=True)
def jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines lag behind each other at random."""
    begin, draws = cpu.CpuStream.begin, random.Random(0)

    def late(stream: cpu.CpuStream) -> None:
        begin(stream)
        if draws.random() < 0.3:
            time.sleep(draws.random() * 1e-3)

    monkeypatch.setattr(cpu.CpuStream, "begin", late)


@pytest.mark.parametrize("draw", range(4))
def test_drawn_lists(draw: int) -> None:
    setup = ChainJobs(microbatches=2, steps=STEPS)
    phase = draw_phase(
        "a",
        setup.layout,
        microbatches=2,
        devices=["cpu0", "cpu1"],
        steps=STEPS,
        random=random.Random(draw),
        coverage=Coverage(),
    )
    trained = setup.train(setup.plan(phases=[phase]), setup.store())
    assert trained.failures == {}
    assert out_of_order(accesses(trained)) == []


def test_jobs_phases_and_cycles() -> None:
    setup = ChainJobs(jobs=2, steps=STEPS)
    jobs = setup.workload.jobs
    layouts = {job.name: setup.layout for job in jobs}

    def phase(steps: int, device: str, **more: tuple[object, ...]) -> Phase:
        placements = [Placement(job=job.name, device=device, steps=steps, **more) for job in jobs]
        return toy_phase(layouts, jobs, placements, repeat=steps)

    phases = [phase(1, "cpu0"), phase(3, "cpu1", resident=("0", "1"), device_updates=("1",)), phase(2, "cpu0")]
    trained = setup.train(setup.plan(phases=phases), setup.store())
    assert trained.failures == {}
    assert out_of_order(accesses(trained)) == []
    spans = sorted(trained.times.spans(), key=lambda span: span.start_ns)
    assert len(spans) == len({(span.site, span.iteration) for span in spans})
