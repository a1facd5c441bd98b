"""What a device holds at most, phase by phase."""

from __future__ import annotations

from dataclasses import replace

from support.toyplan import toy_layout, toy_phase, toy_plan, toy_workload

from hydraplan.plans.analysis.arena import allocate
from hydraplan.plans.analysis.flow import trace
from hydraplan.plans.analysis.memory import CAST_BYTES, device_memory
from hydraplan.plans.checking.check import check
from hydraplan.plans.language.plan import Placement
from hydraplan.plans.language.workload import Precision

KEPT = 1_000_000


def test_an_update_on_a_device_casts_bf16_gradients_a_part_at_a_time() -> None:
    """fp32 ones of the whole slab, up to a limit; the host's updates and those in fp32 take nothing on a device."""
    placement = Placement(job="a", device="cpu0", steps=4, device_updates=("0", "1"))
    on_host = Placement(job="a", device="cpu0", steps=4)

    def workspace_bytes(precision: Precision, slab_bytes: int, where: Placement = placement) -> int:
        workload = toy_workload(1)
        workload = replace(workload, jobs=(replace(workload.jobs[0], precision=precision),))
        layout = toy_layout(2, slab_bytes=slab_bytes, tied=False)
        plan = toy_plan(workload, layout, [where], state_copies=6 if precision == "bf16" else 2)
        assert check(plan) == ()
        return plan.predictions.devices[0].workspace_bytes

    of_cells = workspace_bytes("fp32", 1 << 20)
    assert workspace_bytes("bf16", 1 << 20, on_host) == of_cells
    assert workspace_bytes("bf16", 1 << 20) == 2 << 20 > of_cells
    assert workspace_bytes("bf16", 4 << 20) == CAST_BYTES < 8 << 20


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
