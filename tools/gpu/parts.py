"""The parts of the script, each a function from a backing to figures for its row; a failure is an exception."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory

import torch

from hydraplan.planner import pipeline
from hydraplan.planner.costs.catalogue import name_of_card, profiles
from hydraplan.planner.frontend.models.model import make_loss
from hydraplan.planner.frontend.shards.deterministic import deterministic
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Cluster, Device, Job, Link, Target, Workload
from hydraplan.runtime import RunResult, execute
from hydraplan.runtime.devices.backings import backing_of
from hydraplan.runtime.devices.links import PacedLink
from hydraplan.tools.gpu.contract import CONTRACT

Figures = dict[str, object]
MIB = 1 << 20
HOME = "hydraplan.tools.gpu.models"
ALLOWED = tuple(f"{HOME}:{name}" for name in ("language", "tokens", "next_token"))
"""What these plans call; as a part of hydraplan itself it has to be named."""
SMALL: Mapping[str, int] = {"vocabulary": 64, "width": 32, "layers": 3, "heads": 2}
LARGE: Mapping[str, int] = {"vocabulary": 8192, "width": 1024, "layers": 12, "heads": 16}
"""Some 160 million parameters: 2.4 GiB with gradients and AdamW's state."""
DRAWN = 6
PAIRS = 5


def job_of(size: Mapping[str, int], *, length: int, batch: int, steps: int, **more: object) -> Job:
    fields: dict[str, object] = dict(
        name="language",
        model=Target(path=f"{HOME}:language", arguments=tuple(sorted(size.items()))),
        data=Target(path=f"{HOME}:tokens", arguments=(("length", length), ("vocabulary", size["vocabulary"]))),
        loss=Target(path=f"{HOME}:next_token"),
        optimizer=Target(path="AdamW", arguments=(("lr", 1e-3),)),
        steps=steps,
        batch_size=batch,
        microbatches=1,
        seed=5,
        threads=1,
        precision="fp32",
    )
    return Job(**fields | more)  # type: ignore[arg-type]


def cluster_of(backing: str, budget_bytes: int) -> Cluster:
    known = profiles()
    card = None if backing == "cpu" else name_of_card(torch.cuda.get_device_name(backing))
    profile = known[card or ("server-cpu" if backing == "cpu" else "a100-80gb")]
    host = known["server-cpu"]
    return Cluster(
        devices=(Device(name="d0", backing=backing, budget_bytes=budget_bytes, link="l", profile=profile.name),),
        links=(Link(name="l", load_bytes_per_s=None, spill_bytes_per_s=None),),
        profiles=tuple({each.name: each for each in (profile, host)}.values()),
        host_memory_bytes=32 << 30,
        host_profile=host.name,
        update_workers=1,
    )


def run(plan: Plan) -> RunResult:
    with TemporaryDirectory() as folder:
        return _executed(plan, Path(folder) / "run")


def _executed(plan: Plan, directory: Path) -> RunResult:
    result = execute(plan, directory, allow=ALLOWED)
    failed = [f"{job.job}: {job.error}" for job in result.failed]
    assert not failed, failed
    return result


def contract(backing: str, small: bool) -> Figures:
    """Every check, whatever becomes of the others."""
    failed = {}
    for check in CONTRACT:
        try:
            check(backing)
        except Exception as error:
            failed[check.__name__] = f"{type(error).__name__}: {error}"
    assert not failed, "; ".join(f"{name}: {why}" for name, why in failed.items())
    return {"checks": len(CONTRACT)}


def bits(backing: str, small: bool) -> Figures:
    """Drawn plans of one job against the plain loop, on one and the same processor; updates on the device."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    try:
        from support.whole import Draws, cluster, plain_loop, read_result, traced
    except ImportError as error:
        raise AssertionError(f"this part needs the checkout's tests: {error}") from error
    job = job_of(SMALL, length=16, batch=8, steps=3)
    spec = cluster_of(backing, 1 << 30).devices[0]
    backing_of(spec).open(spec, PacedLink(load=None, spill=None)).close()  # what it asks of cuBLAS comes first
    with deterministic():
        expected = plain_loop(job, backing)
    draws, random = Draws(job=job, graph=traced(job), where=cluster(backing=backing)), Random(3)
    plans = 2 if small else DRAWN
    for number in range(plans):
        with TemporaryDirectory() as folder:
            _executed(draws.draw(draws.cut_anywhere(random), random, updates="cpu0"), Path(folder) / "run")
            found = read_result(Path(folder) / "run", job.name)
        assert found.losses == expected.losses, f"plan {number}: losses {found.losses}, not {expected.losses}"
        differ = [name for name, value in found.weights.items() if not torch.equal(value, expected.weights[name])]
        assert not differ, f"plan {number}: {len(differ)} weights differ, first {differ[0]}"
        assert found.weights.keys() == expected.weights.keys()
    return {"plans": plans, "seen": sorted(draws.coverage.seen)}


def memory(backing: str, small: bool) -> Figures:
    """A job that does not fit its budget whole: what was taken, against what the plan says and the budget allows."""
    size, length, batch = (SMALL, 16, 8) if small else (LARGE, 256, 4)
    job = job_of(size, length=length, batch=batch, steps=3)
    budget = MIB if small else 1536 * MIB
    plan = pipeline.plan(Workload(cluster=cluster_of(backing, budget), jobs=(job,)))
    if backing != "cpu":
        torch.cuda.reset_peak_memory_stats(backing)
    (device,) = run(plan).devices
    found: Figures = {
        "budget_mib": budget / MIB,
        "planned_mib": device.predicted_peak_bytes / MIB,
        "counted_mib": device.peak_bytes / MIB,
        "arena_mib": device.arena_bytes / MIB,
    }
    assert device.peak_bytes <= device.predicted_peak_bytes <= budget, found
    if backing != "cpu":  # the arena lies beside what the allocator has
        allocated = device.arena_bytes + torch.cuda.max_memory_allocated(backing)
        reserved = device.arena_bytes + torch.cuda.max_memory_reserved(backing)
        found |= {"allocated_mib": allocated / MIB, "reserved_mib": reserved / MIB}
        found |= {"allocated / planned": allocated / device.predicted_peak_bytes, "within budget": reserved <= budget}
    return found


def resident(backing: str, small: bool) -> Figures:
    """Steps a second of a job that stays on its device, over those of the plain loop; run in turn, medians."""
    size, length, batch = (SMALL, 16, 8) if small else (LARGE, 256, 8)
    steps = 4 if small else 30
    job = job_of(size, length=length, batch=batch, steps=steps)
    budget = (1 if backing == "cpu" else 16) << 30
    plan = pipeline.plan(Workload(cluster=cluster_of(backing, budget), jobs=(job,)))
    ratios, seconds = [], []
    for _ in range(1 if small else PAIRS):
        plain = _plain_seconds(job, backing)
        ours = run(plan).makespan_us / 1e6
        ratios.append(plain / ours)
        seconds.append(ours)
    return {"ratio": median(ratios), "ratios": ratios, "steps_per_s": steps / median(seconds)}


def _plain_seconds(job: Job, backing: str) -> float:
    torch.set_num_threads(job.threads)
    data = open_data(job)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        module = make_loss(job).to(backing)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True, **dict(job.optimizer.arguments))  # type: ignore[arg-type]
    with deterministic():
        started = time.perf_counter()
        for step in range(job.steps):
            optimizer.zero_grad(set_to_none=True)
            loss = module({name: value.to(backing) for name, value in data.batch(step).items()})
            loss.backward()
            optimizer.step()
            float(loss.detach())
        if backing != "cpu":
            torch.cuda.synchronize(backing)
        return time.perf_counter() - started


PARTS: Mapping[str, Callable[[str, bool], Figures]] = {
    "contract": contract,
    "bits": bits,
    "memory": memory,
    "resident": resident,
}
"""Part -> what it does on a backing; `small`: with tiny models."""
