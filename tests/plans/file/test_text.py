"""A plan's text: the same plan back, the same bytes again, and a reader's place for everything."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawnplan import plans
from support.toyplan import toy_layout, toy_plan, toy_workload

from hydraplan.plans.file.text import WIDTH, dumps, jsonable, loads
from hydraplan.plans.language.errors import InvalidPlanError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import SpillGradients
from hydraplan.plans.language.workload import Lengths, Target, Value

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12).filter(lambda text: not any(0xD800 <= ord(letter) < 0xE000 for letter in text))
)
values: st.SearchStrategy[Value] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6
)


@settings(max_examples=25)
@given(plans())
def test_round_trip(plan: Plan) -> None:
    text = dumps(plan)
    assert loads(text).plan == plan
    assert dumps(loads(text).plan) == text
    assert text.endswith("}\n")
    assert text.isascii()


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=8).filter(str.isascii), values, max_size=4))
def test_arguments_come_back_with_their_types(arguments: dict[str, Value]) -> None:
    plan = toy_plan(predicted=False)
    (job,) = plan.workload.jobs
    model = Target(path="m:f", arguments=tuple(sorted(arguments.items())))
    plan = replace(plan, workload=replace(plan.workload, jobs=(replace(job, model=model),)))
    again = loads(dumps(plan)).plan
    assert again == plan
    assert repr(again.workload.jobs[0].model) == repr(model)


def test_lengths_come_back_with_their_types() -> None:
    plan = toy_plan(predicted=False)
    (job,) = plan.workload.jobs
    lengths = Lengths(buckets=(8, 16), pad=(("input_ids", 0), ("labels", -100), ("mask", False), ("scale", 0.0)))
    plan = replace(plan, workload=replace(plan.workload, jobs=(replace(job, lengths=lengths),)))
    again = loads(dumps(plan)).plan
    assert again == plan
    assert repr(again.workload.jobs[0].lengths) == repr(lengths)


def test_one_step_a_line_and_no_line_too_long() -> None:
    plan = toy_plan(toy_workload(2, steps=2), toy_layout(30))
    (graph,) = plan.facts.graphs
    long = replace(graph, cut_positions=tuple(range(1, 5_000)))
    plan = replace(plan, facts=replace(plan.facts, graphs=(long,)))
    lines = dumps(plan).split("\n")
    assert max(map(len, lines)) <= WIDTH
    steps = [line for line in lines if '"op":' in line]
    assert len(steps) == sum(len(phase.prologue + phase.cycle + phase.epilogue) for phase in plan.phases)
    assert all(isinstance(json.loads(line.strip().rstrip(",")), dict) for line in steps)
    assert loads("\n".join(lines)).plan == plan


def test_the_line_of_every_pointer() -> None:
    text = dumps(toy_plan())
    document = loads(text)
    lines = text.split("\n")
    for number, step in enumerate(document.plan.phases[0].cycle):
        line = lines[document.lines[f"/phases/0/cycle/{number}"] - 1]
        assert json.loads(line.strip().rstrip(",")) == jsonable(step)
    assert '"name": "cpu1"' in lines[document.lines["/workload/cluster/devices/1/backing"] - 1]
    assert document.lines.nearest("/phases/0/cycle/3/nothing/here") == document.lines["/phases/0/cycle/3"]
    assert "/phases/7" not in document.lines


def test_notes_stay_where_they_are() -> None:
    plan = toy_plan()
    notes = {
        "": "of the plan",
        "/workload/jobs/0/model": "of a target",
        "/phases/0": "of a phase",
        "/phases/0/cycle/3": "of a step",
        "/predictions/devices/1": "of a device",
    }
    text = dumps(plan, notes)
    document = loads(text)
    assert document.notes == notes
    assert document.plan == plan
    assert dumps(document.plan, document.notes) == text
    assert loads(dumps(plan, {"/phases/9/cycle/1": "gone"})).notes == {}


def test_a_key_called_note_is_an_argument_among_arguments() -> None:
    plan = toy_plan()
    (job,) = plan.workload.jobs
    data = Target(path="m:f", arguments=(("note", 3),))
    plan = replace(plan, workload=replace(plan.workload, jobs=(replace(job, data=data),)))
    assert loads(dumps(plan)).plan == plan


def test_steps_read_as_the_design_writes_them() -> None:
    step = SpillGradients(device="cpu0", job="a", slab="3", shard=3, microbatches=(0, 4))
    assert json.dumps(jsonable(step)) == (
        '{"device": "cpu0", "op": "spill", "job": "a", "slab": "3", "shard": 3, "what": "gradients", '
        '"microbatches": [0, 4]}'
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "not JSON: expecting value"),
        ("[]", "expected an object, found []"),
        ("null", "expected an object, found null"),
        ('{"a": 1,}', "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_plan_at_all(text: str, cause: str) -> None:
    with pytest.raises(InvalidPlanError) as caught:
        loads(text)
    (finding,) = caught.value.findings
    assert cause in finding.cause
    assert finding.line == 1


def test_an_empty_object_lacks_everything() -> None:
    with pytest.raises(InvalidPlanError) as caught:
        loads("{}")
    assert {finding.cause for finding in caught.value.findings} >= {'"format" is missing', '"phases" is missing'}
    assert len(caught.value.findings) == 10


def test_another_format_is_refused() -> None:
    with pytest.raises(InvalidPlanError, match="hydraplan-plan/1"):
        loads(dumps(toy_plan()).replace("hydraplan-plan/1", "hydraplan-plan/2"))
