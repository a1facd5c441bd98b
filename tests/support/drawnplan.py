"""Random valid plans of one job without torch: `support.drawn` lists on `support.toyplan` workloads."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st
from support.drawn import Coverage, draw_phase
from support.toyplan import toy_cluster, toy_layout, toy_plan, toy_workload

from hydraplan.plans.language.plan import Placement, Plan


def drawn_plan(seed: int, coverage: Coverage | None = None) -> Plan:
    """Any cells on any of up to three devices, in one or two phases; costs, sizes and rates drawn too.

    Without predictions.
    """
    random = Random(seed)
    cluster = toy_cluster(
        random.randint(1, 3),
        budget_bytes=1 << 30,
        bytes_per_s=random.choice([10**6, 10**7, 10**9]),
        shared_link=random.random() < 0.3,
        update_workers=random.randint(1, 2),
    )
    phases = random.randint(1, 2)
    steps = random.choice([1, 2, 4, 6])
    workload = toy_workload(1, cluster=cluster, steps=steps * phases, microbatches=random.randint(1, 5))
    shards = random.randint(1, 5)
    layout = toy_layout(
        shards,
        slab_bytes=random.choice([1024, 8192]),
        activation_bytes=random.choice([256, 4096]),
        forward_us=random.choice([10, 1000]),
        backward_us=random.choice([20, 2000]),
        tied=random.random() < 0.6,
        skip=random.random() < 0.5,
        frozen=random.choice([0, random.randint(0, shards)]),
        buffers=[number for number in range(shards) if random.random() < 0.3],
    )
    lists = tuple(
        draw_phase(
            "a",
            layout,
            microbatches=workload.jobs[0].microbatches,
            devices=[device.name for device in cluster.devices],
            steps=steps,
            random=random,
            coverage=coverage or Coverage(),
        )
        for _ in range(phases)
    )
    placements = [Placement(job="a", device="cpu0", steps=steps)]
    return toy_plan(workload, layout, placements, phases=lists, predicted=False)


def plans() -> st.SearchStrategy[Plan]:
    return st.integers(0, 2**32).map(drawn_plan)
