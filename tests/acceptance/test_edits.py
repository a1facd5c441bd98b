"""People edit plan files: by sed, by script, by decisions; what fits is accepted and trains to the same bits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.models import GPT2
from support.whole import Result, cluster, read_result, whole_job

from hydraplan.planner.pipeline import plan
from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.workload import Workload
from hydraplan.runtime import execute
from hydraplan.tools.cli import main

Json = Any


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A plan file of one streamed job on the first of two devices, and what it trains to."""
    folder = tmp_path_factory.mktemp("planned")
    job = whole_job("transformers:GPT2LMHeadModel", dict(GPT2) | {"n_layer": 3}, name="a", steps=2, microbatches=2)
    made = plan(Workload(cluster=cluster(2, budget_bytes=400_000), jobs=(job,)))
    path = folder / "plan.json"
    path.write_text(dumps(made))
    assert not execute(made, folder / "run").failed
    return path, read_result(folder / "run", "a")


def trains_to(path: Path, expected: Result, folder: Path) -> None:
    """`hydraplan check` and `hydraplan execute` accept the plan, and it trains to the same bits."""
    assert main(["check", str(path)]) == 0
    assert main(["execute", str(path), "-o", str(folder / "edited.run")]) == 0
    assert read_result(folder / "edited.run", "a").same_bits(expected)


def roomy(path: Path, folder: Path) -> tuple[Json, Path]:
    """The plan with bigger budgets, as an edit that needs room would begin."""
    content = json.loads(path.read_text())
    for device in content["workload"]["cluster"]["devices"]:
        device["budget_bytes"] *= 8
    return content, folder / "edited.json"


def test_sed_moves_a_load_earlier(planned: tuple[Path, Result], tmp_path: Path) -> None:
    source, expected = planned
    content, path = roomy(source, tmp_path)
    path.write_text(dumps(loads(json.dumps(content)).plan))
    lines = path.read_text().splitlines()
    loads_at = [
        number for number, line in enumerate(lines) if '"op": "load"' in line and '"op": "forward"' in lines[number - 1]
    ] or [number for number, line in enumerate(lines) if '"op": "load"' in line and '"op": "' in lines[number - 1]]
    number = loads_at[len(loads_at) // 2] + 1  # sed counts from 1
    subprocess.run(["sed", "-i", f"{number - 1}{{h;d}};{number}{{G}}", str(path)], check=True)
    assert path.read_text().splitlines() != lines
    trains_to(path, expected, tmp_path)


def test_script_moves_cells_to_another_device(planned: tuple[Path, Result], tmp_path: Path) -> None:
    """Shard 1's cells of microbatch 1 go to the second device, with loads, saves and fetches."""
    source, expected = planned
    content, path = roomy(source, tmp_path)
    here, there = (device["name"] for device in content["workload"]["cluster"]["devices"])
    (layout,) = content["facts"]["layouts"]
    for phase in content["phases"]:
        for section in ("prologue", "cycle", "epilogue"):
            phase[section] = [line for step in phase[section] for line in _moved(step, layout["shards"], here, there)]
    path.write_text(json.dumps(content))
    path.write_text(dumps(loads(path.read_text()).plan))
    assert f'"device": "{there}", "op": "backward"' in path.read_text()
    trains_to(path, expected, tmp_path)


def _moved(step: Json, shards: Json, here: str, there: str) -> list[Json]:
    """The lines that stand for one line once shard 1's cells of microbatch 1 run elsewhere."""
    shard = shards[1]

    def cell(device: str, op: str, number: int, what: str) -> Json:
        more = {"step": step["step"]} if "step" in step else {}
        return {"device": device, "op": op, "job": "a", "shard": number, "microbatch": 1, "what": what} | more

    def cross(source: str, target: str, number: int, what: str) -> list[Json]:
        return [cell(source, "save", number, what), cell(target, "fetch", number, what)]

    def slabs(op: str) -> list[Json]:
        return [{"device": there, "op": op, "job": "a", "slab": slab, "what": "parameters"} for slab in shard["slabs"]]

    if step["op"] in ("forward", "backward") and (step["shard"], step["microbatch"]) == (1, 1):
        lines = slabs("load")
        if step["op"] == "forward":
            for number in shard["reads"]:
                lines += cross(here, there, number, "activations")
            return [*lines, step | {"device": there}, *cross(there, here, 1, "activations"), *slabs("drop")]
        lines += cross(here, there, 1, "activation_gradients")
        running = [n for n in shard["gradients_to"] if any(n in later["gradients_to"] for later in shards[2:])]
        for number in running:
            lines += cross(here, there, number, "activation_gradients")
        lines.append(step | {"device": there})
        for number in shard["gradients_to"]:
            lines += cross(there, here, number, "activation_gradients")
        for slab in shard["gradient_bytes"]:
            spill = {"device": there, "op": "spill", "job": "a", "slab": slab, "shard": 1, "what": "gradients"}
            more = {"step": step["step"]} if "step" in step else {}
            lines.append(spill | {"microbatches": [1, 2]} | more)
        return [*lines, *slabs("drop")]
    if step["op"] == "fetch" and step["what"] == "batch" and (step["shard"], step["microbatch"]) == (1, 1):
        return [step | {"device": there}]
    if step["op"] == "spill" and step["what"] == "gradients" and step["shard"] == 1:
        return [step | {"microbatches": [0, 1]}]
    return [step]


def _resident(content: Json) -> None:
    for phase in content["decisions"]["phases"]:
        for placement in phase["placements"]:
            placement["resident"] = sorted({*placement["resident"], "1"})


def _cut_moved(content: Json) -> None:
    (cuts,) = content["decisions"]["cuts"]
    (graph,) = content["facts"]["graphs"]
    allowed = graph["cut_positions"]
    free = [each for each in allowed if cuts["cuts"][0] < each < cuts["cuts"][1]]
    cuts["cuts"][0] = free[len(free) // 2]


def _job_moved(content: Json) -> None:
    for phase in content["decisions"]["phases"]:
        for placement in phase["placements"]:
            names = [device["name"] for device in content["workload"]["cluster"]["devices"]]
            placement["device"] = next(name for name in names if name != placement["device"])


@pytest.mark.parametrize("edit", [_resident, _cut_moved, _job_moved])
def test_decisions_are_planned_again(
    edit: Callable[[Json], None], planned: tuple[Path, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, expected = planned
    content, path = roomy(source, tmp_path)
    edit(content)
    path.write_text(json.dumps(content, indent=1))
    assert main(["execute", str(path), "-o", str(tmp_path / "refused.run")]) == 4
    assert "plan --from" in capsys.readouterr().err
    assert not (tmp_path / "refused.run").exists()
    again = tmp_path / "again.json"
    assert main(["plan", "--from", str(path), "-o", str(again)]) == 0
    assert json.loads(again.read_text())["decisions"] == json.loads(dumps(loads(path.read_text()).plan))["decisions"]
    trains_to(again, expected, tmp_path)


def test_lists_edited_by_hand_are_not_discarded_silently(planned: tuple[Path, Result], tmp_path: Path) -> None:
    source, _ = planned
    content, path = roomy(source, tmp_path)
    cycle = content["phases"][0]["cycle"]
    first = next(number for number, step in enumerate(cycle) if step["op"] == "load" and number)
    cycle[first - 1], cycle[first] = cycle[first], cycle[first - 1]
    path.write_text(json.dumps(content))
    assert main(["plan", "--from", str(path), "-o", str(tmp_path / "again.json")]) != 0
    assert not (tmp_path / "again.json").exists()
    arguments = ["plan", "--from", str(path), "--discard-edited-lists", "-o", str(tmp_path / "again.json")]
    assert main(arguments) == 0
