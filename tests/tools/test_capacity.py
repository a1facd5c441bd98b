"""Capacity planning: every candidate is planned, what does not fit says by how much."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support.toyplan import MIB, toy_cluster, toy_layout, toy_plan, toy_workload

from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Workload
from hydraplan.tools.cli import main
from hydraplan.tools.commands import capacity

NEEDED = 6 * MIB
NOTICE = "data d: the last 2 of each epoch's order are dropped"


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> list[Workload]:
    """In place of the real planner: toy plans that need 6 MiB; returns the workloads that were asked for."""
    asked: list[Workload] = []

    def plan(workload: Workload, **options: Any) -> Plan:
        asked.append(workload)
        missing = NEEDED - workload.cluster.devices[0].budget_bytes
        if missing > 0:
            raise InfeasibleError("shard a/1 needs 6.0 MiB", device="device0", missing_bytes=missing)
        return toy_plan(workload, toy_layout())

    pipeline, study = ModuleType("hydraplan.planner.pipeline"), ModuleType("hydraplan.planner.study")
    pipeline.__dict__.update(plan=plan)
    study.__dict__.update(study=lambda jobs, **options: SimpleNamespace(notices=[NOTICE]))
    monkeypatch.setitem(sys.modules, "hydraplan.planner.pipeline", pipeline)
    monkeypatch.setitem(sys.modules, "hydraplan.planner.study", study)
    monkeypatch.setattr(
        "hydraplan.planner.workloads.file.load", lambda path: replace(toy_workload(2), cluster=toy_cluster(1))
    )
    return asked


def test_a_table_of_candidates(planner: list[Workload], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", "w.toml", "--devices", "1-2", "--memory", "4MiB,64MiB", "--quiet"]) == 0
    assert [(len(each.cluster.devices), each.cluster.devices[0].budget_bytes) for each in planner] == [
        (1, 4 * MIB),
        (2, 4 * MIB),
        (1, 64 * MIB),
        (2, 64 * MIB),
    ]
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.count("no: 2.0 MiB short") == 2 and "shard a/1 needs 6.0 MiB" in shown.out
    summary = shown.out.splitlines()[-2]
    assert summary.startswith("Capacity: 2 of 4 candidates fit; fastest: ")
    assert summary.endswith("; least memory: 1 x 64.0 MiB")


def test_for_programs(planner: list[Workload], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", "w.toml", "--devices", "1", "--memory", "4MiB,64MiB", "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["notices"] == [NOTICE]
    small, large = document["candidates"]
    assert (small["fits"], small["missing_bytes"], small["makespan_us"]) == (False, 2 * MIB, None)
    assert large["fits"] and large["makespan_us"] >= large["lower_bound_us"] > 0 and large["host_peak_bytes"] > 0
    assert shown.err.splitlines() == [NOTICE, "plan for 1 device of 4.0 MiB", "plan for 1 device of 64.0 MiB"]


def test_where_nothing_fits(planner: list[Workload], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", "w.toml", "--devices", "1", "--memory", "1MiB"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "Capacity: 0 of 1 candidate fit"


def test_ranges() -> None:
    assert capacity.device_counts("1-3") == (1, 2, 3)
    assert capacity.device_counts("8, 1,2-3,2") == (1, 2, 3, 8)
    assert capacity.memory_sizes("11GiB,8GiB") == (8 * 2**30, 11 * 2**30)


def test_a_scaled_cluster_keeps_how_links_are_shared() -> None:
    alone = capacity.scaled(toy_cluster(2), 3, 123)
    assert [device.budget_bytes for device in alone.devices] == [123] * 3
    assert len({device.link for device in alone.devices}) == 3 == len(alone.links)
    shared = capacity.scaled(toy_cluster(2, shared_link=True), 3, 123)
    assert len({device.link for device in shared.devices}) == 1 == len(shared.links)
