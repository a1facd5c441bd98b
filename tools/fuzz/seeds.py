"""The plans that mutants are made from: planned here, from tiny models, with room for a part of them."""

from __future__ import annotations

from hydraplan.planner.costs.catalogue import profiles
from hydraplan.planner.pipeline import plan
from hydraplan.planner.scheduling.solver import SolverOptions
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Arguments, Cluster, Device, Job, Link, Target, Workload

MODELS = "hydraplan.tools.fuzz.models"
PROFILE = "server-cpu"
EFFORT = 3_000
RATE = 50_000_000


def seed_plans() -> dict[str, Plan]:
    """Name -> plan. The same to the byte each time."""
    tied = _job("tied", "Tied", microbatches=2, steps=4)
    normed = _job("normed", "Normed", microbatches=1, steps=3)
    return {
        "two": _planned((tied, normed), devices=2, budget_bytes=24_000),
        "one": _planned((tied,), devices=1, budget_bytes=20_000),
    }


def _planned(jobs: tuple[Job, ...], *, devices: int, budget_bytes: int) -> Plan:
    workload = Workload(cluster=_cluster(devices, budget_bytes), jobs=jobs)
    return plan(workload, solver=SolverOptions(effort=EFFORT))


def _cluster(devices: int, budget_bytes: int) -> Cluster:
    names = [f"cpu{number}" for number in range(devices)]
    return Cluster(
        devices=tuple(
            Device(name=name, backing="cpu", budget_bytes=budget_bytes, link=f"{name}-link", profile=PROFILE)
            for name in names
        ),
        links=tuple(Link(name=f"{name}-link", load_bytes_per_s=RATE, spill_bytes_per_s=RATE) for name in names),
        profiles=(profiles()[PROFILE],),
        host_memory_bytes=1 << 28,
        host_profile=PROFILE,
        update_workers=1,
    )


def _job(name: str, model: str, *, microbatches: int, steps: int) -> Job:
    arguments: Arguments = (("lr", 0.01),)
    return Job(
        name=name,
        model=Target(path=f"{MODELS}:{model}"),
        data=Target(path=f"{MODELS}:sentences", arguments=(("items", 8),)),
        loss=Target(path=f"{MODELS}:next_word"),
        optimizer=Target(path="AdamW", arguments=arguments),
        steps=steps,
        batch_size=2 * microbatches,
        microbatches=microbatches,
        seed=1,
        threads=1,
        precision="fp32",
    )
