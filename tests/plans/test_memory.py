"""What a device holds at most, phase by phase."""

from __future__ import annotations

from dataclasses import replace

from support.toyplan import toy_layout, toy_phase, toy_plan, toy_workload

from plans.arena import allocate
from plans.flow import trace
from plans.memory import device_memory
from plans.plan import Placement

KEPT = 1_000_000


def test_a_peak_is_taken_per_phase() -> None:
    """A large arena in one phase and much kept in the other never meet: the peak is below the sum of the maxima."""
    layout = toy_layout(3)
    layout = replace(layout, shards=tuple(replace(shard, kept_bytes=KEPT) for shard in layout.shards))
    workload = toy_workload(1, steps=4, microbatches=1)
    resident = Placement(job="a", device="cpu0", steps=2, resident=tuple(slab.name for slab in layout.slabs))
    keeping = Placement(job="a", device="cpu0", steps=2, keep=(0, 1, 2))
    phases = [toy_phase({"a": layout}, workload.jobs, [each], repeat=2) for each in (resident, keeping)]
    plan = toy_plan(workload, layout, [resident], phases=phases)
    flow = trace(plan)
    assert flow.problems == ()
    arenas = allocate(plan, flow)
    large, small = arenas.phase_sizes["cpu0", 0], arenas.phase_sizes["cpu0", 1]
    memory = device_memory(plan, flow, arenas)["cpu0"]
    assert small < large == memory.arena_bytes
    assert memory.kept_bytes == 3 * KEPT
    # The most is held at the last shard's backward, beside a recomputing one's workspace in the first phase.
    assert memory.peak_bytes == max(large + 50_000, small + 3 * KEPT + 20_000)
    assert memory.peak_bytes < memory.arena_bytes + memory.kept_bytes
    assert plan.predictions.devices[0].peak_bytes == memory.peak_bytes
