"""Differences between plans, as people read them."""

from __future__ import annotations

from dataclasses import replace

from support.toyplan import toy_layout, toy_plan, toy_workload

from hydraplan.plans.diff import diff
from hydraplan.plans.language.plan import Placement


def texts(a: object, b: object) -> list[str]:
    return [str(each) for each in diff(a, b)]  # type: ignore[arg-type]


def test_a_plan_does_not_differ_from_itself() -> None:
    assert diff(toy_plan(), toy_plan()) == ()


def test_decisions_and_predictions_by_name() -> None:
    a = toy_plan()
    b = toy_plan(placements=[Placement(job="a", device="cpu1", steps=4, resident=("0",))])
    found = texts(a, b)
    assert 'decisions: phases: 0: placements: a: device "cpu0" -> "cpu1"' in found
    assert 'decisions: phases: 0: placements: a: resident [] -> ["0"]' in found
    assert any(each.startswith("predictions: makespan_us ") and each.endswith(" %)") for each in found)
    assert any(each.startswith("lists: phase 0, prologue: lines 1 added") for each in found)


def test_jobs_come_and_go() -> None:
    a, b = toy_plan(toy_workload(1)), toy_plan(toy_workload(2, steps=8))
    assert "workload: jobs: b added" in texts(a, b)
    assert "workload: jobs: b deleted" in texts(b, a)
    assert "workload: jobs: a: steps 4 -> 8 (+100.0 %)" in texts(a, b)


def test_a_moved_line_is_told_with_its_numbers() -> None:
    a = toy_plan()
    cycle = list(a.phases[0].cycle)
    line = cycle.pop(6)
    cycle.insert(2, line)
    (found,) = texts(a, replace(a, phases=(replace(a.phases[0], cycle=tuple(cycle)),)))
    assert found.startswith("lists: phase 0, cycle: lines 1 moved\n    + 2: ")
    assert "\n    - 6: " in found


def test_long_lists_are_counted() -> None:
    a = toy_plan(toy_workload(1, steps=1, microbatches=4), toy_layout(80), repeat=1)
    b = replace(a, phases=(replace(a.phases[0], cycle=a.phases[0].cycle[::-1]),))
    assert texts(a, b) == ["lists: phase 0, cycle: lines in another order"]


def test_phases_and_repeats() -> None:
    a = toy_plan()
    twice = replace(a, phases=a.phases * 2)
    assert texts(a, twice) == [f"lists: phase 1 added ({len(a.phases[0].cycle)} lines)"]
    assert texts(twice, a) == [f"lists: phase 1 deleted ({len(a.phases[0].cycle)} lines)"]
    more = replace(a, phases=(replace(a.phases[0], repeat=5),))
    assert texts(a, more) == ["lists: phase 0: repeat 2 -> 5"]
