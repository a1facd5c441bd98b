"""The demo's plan, made with a committed calibration: jobs interleave, shards are resident and streamed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.workloads.file import load

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "tools" / "demo" / "demo.toml"


def test_jobs_interleave_and_shards_are_resident_and_streamed(tmp_path: Path) -> None:
    calibration = (HERE.parent / "data" / "calibration.json").read_text()
    (tmp_path / "profile.json").write_text(calibration)
    text = DEMO.read_text().replace("../../runs/demo/profile.json", "profile.json")
    assert text != DEMO.read_text()
    (tmp_path / "demo.toml").write_text(text)
    workload = load(tmp_path / "demo.toml")
    made = plan(workload, solver=SolverOptions(effort=20_000))

    slabs = {
        job.job: next(each.slabs for each in made.facts.layouts if each.graph == job.graph) for job in made.facts.jobs
    }
    parameters = {job: sum(slab.parameter_bytes for slab in each) for job, each in slabs.items()}
    assert all(max(parameters.values()) > device.budget_bytes for device in workload.cluster.devices)
    assert len({len(each) for each in slabs.values()}) == 2, "models of two sizes"

    # The link and compute are close: the phases' loads take half to twice their compute.
    load_us = sum(device.load_us for device in made.predictions.devices)
    compute_us = sum(device.compute_us for device in made.predictions.devices)
    assert 0.5 < load_us / compute_us < 2.5

    placements = [placement for phase in made.decisions.phases for placement in phase.placements]
    assert any(0 < len(each.resident) < len(slabs[each.job]) for each in placements)
    together = [Counter(each.device for each in phase.placements) for phase in made.decisions.phases]
    assert any(count > 1 for devices in together for count in devices.values())
    assert made.solver.name.startswith("highs")
    assert made.predictions.makespan_us < made.solver.list_schedule_us
