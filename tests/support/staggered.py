"""A plan whose jobs finish one after another: `first` at once, `second` a little later, `last` hardly ever."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support.realplan import lm_job, real_plan
from support.toyplan import toy_phase
from support.weights import saved_state

from hydraplan.plans.language.digests import decisions_digest, lists_digest
from hydraplan.plans.language.plan import Decisions, PhaseDecision, Placement, Plan
from hydraplan.plans.language.workload import Target
from hydraplan.plans.prediction.simulate import predict
from hydraplan.runtime import execute

STEPS = {"first": 4, "second": 24, "last": 100_000}
SEEDS = {"first": 3, "second": 4, "last": 5}


def staggered_plan(steps: dict[str, int] | None = None, data: dict[str, Target] | None = None) -> Plan:
    """All jobs side by side, each as long as it has steps. `data`: of some of them."""
    steps = steps or STEPS
    sets = {name: {"data": target} for name, target in (data or {}).items()}
    short = [lm_job(name, steps=1, seed=SEEDS[name], **sets.get(name, {})) for name in steps]
    made = real_plan(short, repeat=1, predicted=False)
    jobs = tuple(replace(job, steps=steps[job.name]) for job in short)
    (layout,) = made.facts.layouts
    phases, placed, done = [], [], 0
    for end in sorted(set(steps.values())):
        placements = tuple(
            Placement(job=job.name, device=f"cpu{number % 2}", steps=end - done)
            for number, job in enumerate(jobs)
            if job.steps >= end
        )
        layouts = {job.name: layout for job in jobs}
        phases.append(toy_phase(layouts, jobs, placements, repeat=end - done))
        placed.append(PhaseDecision(placements=placements))
        done = end
    decisions = Decisions(cuts=made.decisions.cuts, phases=tuple(placed))
    plan = replace(
        made,
        workload=replace(made.workload, jobs=jobs),
        decisions=decisions,
        lists_from=decisions_digest(decisions),
        phases=tuple(phases),
        lists_digest=lists_digest(tuple(phases)),
    )
    return replace(plan, predictions=predict(plan))


def undisturbed(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the jobs that finish, from a run of those alone."""
    finishing = {name: steps for name, steps in STEPS.items() if name != "last"}
    done = execute(staggered_plan(finishing), folder)
    assert not done.failed
    return {name: saved_state(folder / "weights" / name) for name in finishing}


def first_losses(folder: Path, steps: int = 200) -> list[float]:
    """The first losses of the job that hardly ever finishes."""
    done = execute(staggered_plan({"last": steps}), folder)
    return list(done.jobs[0].losses)


def read_losses(path: Path) -> list[float]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    return [float(row["loss"]) for row in rows]


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def strict_json(path: Path, refuse: Callable[[str], Any] = refuse) -> Any:
    return json.loads(path.read_text(), parse_constant=refuse)


def assert_kept(
    run: Path, weights: dict[str, dict[str, torch.Tensor]], last: list[float], *, first: bool = True
) -> dict[str, Any]:
    """Whatever is in a broken run directory is whole and right. Returns its record."""
    record: dict[str, Any] = strict_json(run / "record.json")
    rows = {row["job"]: row for row in record["jobs"]}
    saved = {name for name in rows if (run / "weights" / name).exists()}
    assert saved >= {name for name, row in rows.items() if row["weights"] is not None}
    if first:
        assert "first" in saved
    for name in saved:
        state = saved_state(run / "weights" / name)
        assert state.keys() == weights[name].keys()
        assert all(torch.equal(state[each], weights[name][each]) for each in state), name
        assert len(read_losses(run / "losses" / f"{name}.csv")) == STEPS[name]
    if (run / "losses" / "last.csv").exists():
        found = read_losses(run / "losses" / "last.csv")[: len(last)]
        assert found == last[: len(found)]
    return record


__all__ = ["STEPS", "assert_kept", "first_losses", "read_losses", "staggered_plan", "undisturbed"]
