"""Whether a long run stays as it is: memory, threads, open files, and the size of its record.

Two jobs of 20,000 training steps each, streamed over two devices: one whose loss is infinite now and then, one with
microbatches, dropout and batch norm. What the process holds is looked at a hundred times:

    resident_growth_percent    largest resident memory after the first 2,000 steps over the resident memory then
    threads, open_files        smallest and largest number since then (but the record's, while it is replaced)
    record_bytes               of the finished run
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hydraplan.planner
from hydraplan.planner.costs.catalogue import profiles
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Cluster, Device, Job, Link, Target, Workload
from hydraplan.runtime import execute
from hydraplan.runtime.files import PARTIAL
from hydraplan.runtime.progress import NoProgress

STEPS = 20_000
WARM = 2_000
LOOKS = 100
WIDTH = 32
BUDGET = 20 << 10


class Net(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))  # type: ignore[no-any-return]


class Rows:
    """Random rows; `odd`: the loss of one row in a hundred is infinite."""

    def __init__(self, odd: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(400, WIDTH, generator=generator)
        self.y = torch.randn(400, 1, generator=generator)
        self.weight = torch.ones(400, 1)
        if odd:
            self.weight[::100] = float("inf")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index], "weight": self.weight[index]}


def net(dropout: float = 0.0) -> Net:
    return Net(dropout)


def rows(odd: bool = False) -> Rows:
    return Rows(odd)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The weight scales the loss that is told, not its gradient."""
    error: Tensor = (model(batch["x"]) - batch["y"]).square().mean()
    told: Tensor = error + (batch["weight"].mean() - 1).detach()
    return told


def job(name: str, steps: int, *, dropout: float, odd: bool, microbatches: int) -> Job:
    return Job(
        name=name,
        model=Target(path="hydraplan.tools.bench.soak:net", arguments=(("dropout", dropout),)),
        data=Target(path="hydraplan.tools.bench.soak:rows", arguments=(("odd", odd),)),
        loss=Target(path="hydraplan.tools.bench.soak:loss"),
        optimizer=Target(path="AdamW", arguments=(("lr", 1e-3),)),
        steps=steps,
        batch_size=4,
        microbatches=microbatches,
        seed=0,
        threads=1,
        precision="fp32",
    )


def soak_plan(steps: int) -> Plan:
    profile = profiles()["server-cpu"]
    cluster = Cluster(
        devices=tuple(
            Device(name=f"cpu{n}", backing="cpu", budget_bytes=BUDGET, link=f"link{n}", profile=profile.name)
            for n in range(2)
        ),
        links=tuple(Link(name=f"link{n}", load_bytes_per_s=None, spill_bytes_per_s=None) for n in range(2)),
        profiles=(profile,),
        host_memory_bytes=1 << 30,
        host_profile=profile.name,
        update_workers=1,
    )
    jobs = (
        job("plain", steps, dropout=0.0, odd=True, microbatches=1),
        job("drawn", steps, dropout=0.1, odd=False, microbatches=2),
    )
    return hydraplan.planner.plan(Workload(cluster=cluster, jobs=jobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the process holds at one moment."""

    step: int
    resident_bytes: int
    threads: int
    files: int


@dataclass(slots=True)
class Watching(NoProgress):
    """Looks at the process now and then."""

    every: int
    looks: list[Look] = field(default_factory=list)

    def step(self, job: str, step: int, loss: float) -> None:
        if job == "plain" and step % self.every == 0:
            self.looks.append(look(step))


def look(step: int) -> Look:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Look(
        step=step,
        resident_bytes=int(status["VmRSS"].split()[0]) * 1024,
        threads=int(status["Threads"]),
        files=len([each for each in os.listdir("/proc/self/fd") if not _passing(each)]),
    )


def _passing(file: str) -> bool:
    """Whether it is open for a moment only: the list of open files itself, and the record while it is replaced."""
    try:
        path = os.readlink(f"/proc/self/fd/{file}")
    except OSError:
        return True
    return path == f"/proc/{os.getpid()}/fd" or f"/{PARTIAL}/" in path


def soak(steps: int, warm: int, directory: Path) -> dict[str, Any]:
    plan = soak_plan(steps)
    gc.collect()
    watching = Watching(every=max(1, steps // LOOKS))
    began = time.perf_counter()
    result = execute(plan, directory, progress=watching)
    if result.failed:
        raise SystemExit(f"jobs failed: {result.failed}")
    after = [each for each in watching.looks if each.step >= warm]
    record = directory / "record.json"
    json.loads(record.read_text(), parse_constant=_refuse)
    return {
        "benchmark": "soak",
        "steps": steps,
        "steps_per_s": round(2 * steps / (time.perf_counter() - began)),
        "resident_bytes": after[0].resident_bytes,
        "resident_growth_percent": round(
            100 * (max(each.resident_bytes for each in after) / after[0].resident_bytes - 1), 3
        ),
        "threads": [min(each.threads for each in after), max(each.threads for each in after)],
        "open_files": [min(each.files for each in after), max(each.files for each in after)],
        "record_bytes": record.stat().st_size,
        "plan_bytes": (directory / "plan.json").stat().st_size,
        "losses_bytes": sum(each.stat().st_size for each in (directory / "losses").iterdir()),
    }


def _refuse(constant: str) -> object:
    raise SystemExit(f"the record has {constant}, which is no JSON")


def main() -> None:
    steps, warm = (int(each) for each in sys.argv[1:]) if len(sys.argv) > 1 else (STEPS, WARM)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(soak(steps, warm, Path(folder) / "run")))


if __name__ == "__main__":
    main()
