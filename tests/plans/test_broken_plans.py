"""Broken plans: a valid file is edited as a person might, and refused with line, pointer, cause and remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
from support.edits import Text
from support.toyplan import toy_cluster, toy_layout, toy_plan, toy_workload

from hydraplan.plans.checking.check import check, lists_edited, verify
from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.digests import decisions_digest, lists_digest
from hydraplan.plans.language.errors import Finding, InvalidPlanError
from hydraplan.plans.language.plan import Fingerprint, Placement, Plan
from hydraplan.plans.prediction.simulate import predict


@cache
def valid() -> Plan:
    """Job a with a resident slab updated on its device, one kept shard and tied weights; job b streamed."""
    return toy_plan(
        toy_workload(2, cluster=toy_cluster(2, budget_bytes=10 << 20)),
        toy_layout(3, tied=True),
        [
            Placement(job="a", device="cpu0", steps=4, resident=("0", "0+2"), device_updates=("0",), keep=(1,)),
            Placement(job="b", device="cpu1", steps=4),
        ],
    )


@cache
def text() -> str:
    return dumps(valid())


def findings(broken: str) -> tuple[Finding, ...]:
    with pytest.raises(InvalidPlanError) as caught:
        verify(loads(broken))
    assert caught.value.exit_code == 4
    return caught.value.findings


@dataclass(frozen=True)
class Case:
    name: str
    edit: Callable[[Text], None]
    pointer: str
    """Regular expression of the first finding's pointer."""
    cause: str
    remedy: str
    most: int = 1
    """No more findings than this: one mistake is told once."""


def unknown_key(t: Text) -> None:
    t.sub(t.find(op="load"), '"slab"', '"slub"')


def duplicate_key(t: Text) -> None:
    t.sub(t.find(op="load"), '"job": "a"', '"job": "a", "job": "b"')


def not_a_number(t: Text) -> None:
    t.sub(t.first('"gap":'), '"gap": ', '"gap": NaN, "note": ')
    number = t.first('"gap":')
    t.lines[number] = '    "gap": NaN,'


def wrong_type(t: Text) -> None:
    t.sub(t.find(op="forward", shard=1), '"shard": 1', '"shard": "1"')


def missing_key(t: Text) -> None:
    t.sub(t.find(op="forward", shard=1), '"shard": 1, ', "")


def unknown_operation(t: Text) -> None:
    t.sub(t.find(op="forward", shard=1), '"forward"', '"forwrad"')


def unknown_what(t: Text) -> None:
    t.sub(t.find(op="load"), '"parameters"', '"parametres"')


def unknown_job(t: Text) -> None:
    t.sub(t.find(op="forward", job="b"), '"job": "b"', '"job": "B"')


def unknown_device(t: Text) -> None:
    t.sub(t.find(op="forward", job="b"), '"cpu1"', '"cpu11"')


def unknown_slab(t: Text) -> None:
    t.sub(t.find(op="load", slab="1"), '"slab": "1"', '"slab": "1+2"')


def unknown_shard(t: Text) -> None:
    t.sub(t.find(op="forward", shard=1), '"shard": 1', '"shard": 7')


def unknown_microbatch(t: Text) -> None:
    t.sub(t.find(op="forward", shard=1, microbatch=1), '"microbatch": 1', '"microbatch": 2')


def cell_on_the_host(t: Text) -> None:
    t.sub(t.find(op="forward", shard=1), '"cpu0"', '"host"')


def no_tree_node(t: Text) -> None:
    t.sub(t.find(op="spill", what="gradients", job="b"), "[0, 2]", "[1, 3]")


def part_of_the_gradients(t: Text) -> None:
    t.sub(t.find(op="spill", what="gradients", job="b"), "[0, 2]", "[0, 1]")


def forward_before_load(t: Text) -> None:
    load = t.cut(t.find(op="load", slab="1", job="b"))
    t.put(t.find(op="forward", shard=1, job="b") + 1, load)


def load_missing(t: Text) -> None:
    t.cut(t.find(op="load", slab="1", job="b"))


def drop_of_unspilled(t: Text) -> None:
    t.cut(t.find("epilogue", op="spill", slab="0", what="parameters"))


def drop_missing(t: Text) -> None:
    t.cut(t.find("epilogue", op="drop", slab="0+2"))


def resident_load_missing(t: Text) -> None:
    t.cut(t.find("prologue", op="load", slab="0+2"))


def held_at_the_end_only(t: Text) -> None:
    last = len(t.lines) - 1 - t.lines[::-1].index(t.lines[t.find(op="drop", job="b", slab="1")])
    assert '"op": "drop"' in t.lines[last]
    t.cut(last)


def refresh_missing(t: Text) -> None:
    update = t.find(op="update", slab="0+2", job="a")
    assert '"op": "load"' in t.lines[update + 1]
    t.cut(update + 1)


def cell_missing(t: Text) -> None:
    t.cut(t.find(op="backward", shard=1, microbatch=1, job="b"))


def cell_twice(t: Text) -> None:
    number = t.find(op="forward", shard=1, microbatch=1, job="b")
    t.put(number, t.lines[number])


def backwards_out_of_order(t: Text) -> None:
    one = t.find(op="backward", shard=0, microbatch=0, job="a")
    line = t.cut(one)
    t.put(t.find(op="backward", shard=1, microbatch=0, job="a"), line)


def step_missing(t: Text) -> None:
    t.cut(t.find(op="update", slab="1", job="b"))


def steps_do_not_add_up(t: Text) -> None:
    t.sub(t.first('"repeat": 2'), "2", "3")


def repeat_zero(t: Text) -> None:
    t.sub(t.first('"repeat": 2'), "2", "0")


def decisions_edited(t: Text) -> None:
    t.sub(t.first('"resident": ["0", "0+2"]'), '"resident": ["0", "0+2"]', '"resident": ["0"]')


def cut_moved(t: Text) -> None:
    number = t.first('"decisions"') + 2
    t.sub(number, '"cuts": [10, 20]', '"cuts": [11, 20]')


def kept_elsewhere(t: Text) -> None:
    number = t.find(op="backward", shard=1, microbatch=0, job="a")
    t.sub(number, "cpu0", "cpu1")
    t.put(number + 1, t.lines[t.find(op="drop", slab="1", job="a")].replace("cpu0", "cpu1"))
    t.put(number, t.lines[t.find(op="load", slab="1", job="a")].replace("cpu0", "cpu1"))


def update_too_early(t: Text) -> None:
    update = t.cut(t.find(op="update", slab="0", job="a"))
    t.put(t.find(op="backward", shard=0, microbatch=1, job="a"), update)


def update_twice(t: Text) -> None:
    number = t.find(op="update", slab="1", job="b")
    t.put(number, t.lines[number])


def loss_not_saved(t: Text) -> None:
    t.cut(t.find(op="save", shard=2, microbatch=1, job="a"))


def fetch_without_save(t: Text) -> None:
    number = t.find(op="forward", shard=1, microbatch=0, job="b")
    fetch = '        {"device": "cpu1", "op": "fetch", "job": "b", "shard": 0, "microbatch": 0, "what": "activations"},'
    t.put(number, fetch)


def batch_missing(t: Text) -> None:
    t.cut(t.find(op="fetch", shard=0, microbatch=0, job="b"))


def state_missing(t: Text) -> None:
    t.cut(t.find("prologue", op="load", slab="0", what="optimizer"))


def budget_exceeded(t: Text) -> None:
    t.sub(t.first('"name": "cpu1", "backing"'), str(10 << 20), "3000000")


def host_memory_exceeded(t: Text) -> None:
    t.sub(t.first('"host_memory_bytes"'), str(1 << 33), "1000000")


def unknown_link(t: Text) -> None:
    t.sub(t.first('"name": "cpu1", "backing"'), '"link": "link1"', '"link": "lnk1"')


def two_jobs_of_one_name(t: Text) -> None:
    number = t.first('"steps": 4, "batch_size"') + 1
    t.sub(number, '"name": "b"', '"name": "a"')


def microbatches_do_not_divide(t: Text) -> None:
    t.sub(t.first('"steps": 4, "batch_size"'), '"batch_size": 8', '"batch_size": 7')


def buckets_descend(t: Text) -> None:
    lengths = '"lengths": {"buckets": [16, 8], "pad": {"x": 0}}'
    t.sub(t.first('"steps": 4, "batch_size"'), '"lengths": null', lengths)


def nothing_padded(t: Text) -> None:
    t.sub(t.first('"steps": 4, "batch_size"'), '"lengths": null', '"lengths": {"buckets": [8, 16], "pad": {}}')


def unknown_optimizer(t: Text) -> None:
    t.sub(t.first('"steps": 4, "batch_size"'), '"path": "AdamW"', '"path": "AdamX"')


def step_far_away(t: Text) -> None:
    t.sub(t.find(op="forward", shard=1, job="b"), '"microbatch": 0', '"microbatch": 0, "step": 1000000000')


LINE = r"/phases/0/(prologue|cycle|epilogue)/\d+"
CASES = [
    Case("unknown key", unknown_key, LINE, '"slab" is missing', "add", most=2),
    Case("duplicate key", duplicate_key, LINE + "/job", "a second time", "delete"),
    Case("NaN", not_a_number, "/predictions/gap", "NaN", "finite"),
    Case("wrong type", wrong_type, LINE + "/shard", 'expected a whole number, found "1"', "whole number"),
    Case("missing key", missing_key, LINE, '"shard" is missing', 'add "shard"'),
    Case("unknown operation", unknown_operation, LINE, "forwrad", 'did you mean "forward"'),
    Case("unknown what", unknown_what, LINE + "/what", "parametres", 'did you mean "parameters"'),
    Case("unknown job", unknown_job, LINE + "/job", 'no job "B"', "known"),
    Case("unknown device", unknown_device, LINE + "/device", 'no device "cpu11"', 'did you mean "cpu1"'),
    Case("unknown slab", unknown_slab, LINE + "/slab", 'no slab of a "1+2"', 'did you mean "0+2"'),
    Case("unknown shard", unknown_shard, LINE + "/shard", "a has no shard 7", "0 to 2"),
    Case("unknown microbatch", unknown_microbatch, LINE + "/microbatch", "no microbatch 2", "0 to 1"),
    Case("cell on the host", cell_on_the_host, LINE + "/device", 'no device "host"', "known"),
    Case("no tree node", no_tree_node, LINE + "/microbatches", "no node of the tree", "[1, 2]"),
    Case("part of the gradients", part_of_the_gradients, LINE, "has no gradients", "whole node"),
    Case("forward before its load", forward_before_load, LINE, "not on cpu1", "load slab 1 on cpu1 above"),
    Case("load missing", load_missing, LINE, "not on cpu1", "load slab 1 on cpu1 above", most=2),
    Case("drop over an unspilled update", drop_of_unspilled, LINE, "not spilled", "spill parameters"),
    Case("held at the phase's end", drop_missing, "/phases/0/epilogue", "still on cpu0", "drop it"),
    Case(
        "resident not loaded", resident_load_missing, "/phases/0/cycle", "not at its start", "in the prologue", most=2
    ),
    Case("held at the cycle's end only", held_at_the_end_only, "/phases/0/cycle", "not at its start", "drop", most=2),
    Case("stale parameters", refresh_missing, LINE, "needs update 1", "load slab 0+2 again", most=3),
    Case("cell missing", cell_missing, LINE, "before that of shard 1", "add or move", most=4),
    Case("cell twice", cell_twice, LINE, "second time", "delete"),
    Case("backwards out of order", backwards_out_of_order, LINE, "strictly descend", "line", most=4),
    Case("update missing", step_missing, "/phases/0/cycle", "no update of slab 1", "add the update", most=2),
    Case("steps that do not add up", steps_do_not_add_up, "/phases", "by 6 steps; its job says 4", "repeat", most=2),
    Case("a cycle that never runs", repeat_zero, "/phases/0/repeat", "too small", "from 1 on"),
    Case("decisions edited", decisions_edited, "/decisions", "were edited", "plan --from"),
    Case("cut moved", cut_moved, "/decisions", "were edited", "plan --from", most=2),
    Case("kept on another device", kept_elsewhere, LINE, "kept activations on cpu0", "run it on cpu0", most=6),
    Case("update too early", update_too_early, LINE, "of all microbatches [0, 2)", "below the last backward", most=3),
    Case("update twice", update_twice, LINE, "updated it already", "delete"),
    Case("loss not saved", loss_not_saved, "/phases/0/cycle", "loss not saved: microbatch 1", "save"),
    Case("fetch without save", fetch_without_save, LINE, "not in host memory", "save activations of shard 0"),
    Case("batch missing", batch_missing, LINE, "batch of shard 0", "fetch the batch"),
    Case("state missing", state_missing, LINE, "optimizer of slab 0", "load optimizer", most=2),
    Case("budget exceeded", budget_exceeded, "/workload/cluster/devices/1", "short", "drop slabs earlier"),
    Case("host memory exceeded", host_memory_exceeded, "/workload/cluster/host_memory_bytes", "short", "more memory"),
    Case("unknown link", unknown_link, "/workload/cluster/devices/1/link", "lnk1", 'did you mean "link1"'),
    Case("two jobs of one name", two_jobs_of_one_name, "/workload/jobs/1/name", "second time", "rename", most=3),
    Case("buckets", buckets_descend, "/workload/jobs/0/lengths/buckets", r"[16, 8] do not ascend", "in order"),
    Case("no padding", nothing_padded, "/workload/jobs/0/lengths/pad", "no key is padded", "name each key"),
    Case("microbatches", microbatches_do_not_divide, "/workload/jobs/0/microbatches", "do not divide", "change"),
    Case("unknown optimizer", unknown_optimizer, "/workload/jobs/0/optimizer", "AdamX", "name an optimizer"),
    Case("step far away", step_far_away, LINE + "/step", "1000000000", "from 0"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case: Case) -> None:
    edited = Text(text())
    case.edit(edited)
    found = findings(str(edited))
    first = found[0]
    assert re.fullmatch(case.pointer, first.pointer), found
    assert case.cause in first.cause, found
    assert case.remedy in first.remedy, found
    assert len(found) <= case.most, [str(each) for each in found]
    for finding in found:
        assert finding.line is not None
        assert finding.cause
        assert finding.remedy
        assert str(finding).startswith(f"line {finding.line}, {finding.pointer}: ")


def test_the_line_is_the_file_s() -> None:
    edited = Text(text())
    number = edited.find(op="forward", shard=1, microbatch=1, job="b")
    edited.sub(number, '"shard": 1', '"shard": 9')
    (finding,) = findings(str(edited))
    assert finding.line == number + 1


def test_a_syntax_error_is_told_alone() -> None:
    edited = Text(text())
    unknown_key(edited)
    number = edited.find(op="forward", shard=1)
    edited.sub(number, '"op": "forward",', '"op": "forward"')
    (finding,) = findings(str(edited))
    assert finding.line == number + 1
    assert "not JSON" in finding.cause


def test_all_findings_at_once() -> None:
    edited = Text(text())
    for edit in (unknown_key, unknown_what, missing_key, not_a_number):
        edit(edited)
    assert len(findings(str(edited))) == 5
    edited = Text(text())
    for edit in (unknown_shard, unknown_device, unknown_link, unknown_optimizer):
        edit(edited)
    assert [each.pointer.rpartition("/")[2] for each in findings(str(edited))] == ["link", "optimizer"]
    edited = Text(text())
    for edit in (unknown_shard, unknown_device, no_tree_node):
        edit(edited)
    assert len(findings(str(edited))) == 3
    edited = Text(text())
    for edit in (load_missing, loss_not_saved, update_twice, steps_do_not_add_up):
        edit(edited)
    assert len(findings(str(edited))) == 5


def test_the_valid_plan_holds_and_so_do_harmless_edits() -> None:
    verify(loads(text()))
    edited = Text(text())
    number = edited.find(op="load", slab="1", job="b")
    line = edited.cut(number)
    edited.put(number - 3, line)
    plan = loads(str(edited)).plan
    assert check(plan) == ()
    assert lists_edited(plan)
    assert not lists_edited(valid())
    assert predict(plan).makespan_us <= valid().predictions.makespan_us


def test_edited_decisions_hide_findings_of_the_old_lists_only() -> None:
    edited = Text(text())
    decisions_edited(edited)
    load_missing(edited)
    unknown_link(edited)
    assert {each.pointer for each in findings(str(edited))} == {"/decisions", "/workload/cluster/devices/1/link"}


def _predictions(**more: object) -> Plan:
    return replace(valid(), predictions=replace(valid().predictions, **more))  # type: ignore[arg-type]


def _fingerprints(*names: str) -> Plan:
    return replace(valid(), fingerprints=tuple(Fingerprint(name=name, value="1") for name in names))


JOB_A, JOB_B = valid().predictions.jobs
CPU0, CPU1 = valid().predictions.devices


@pytest.mark.parametrize(
    ("plan", "pointer", "cause"),
    [
        (_predictions(jobs=(JOB_A,)), "/predictions/jobs", 'no prediction of job "b"'),
        (_predictions(jobs=(JOB_A, JOB_B, JOB_B)), "/predictions/jobs/2/job", "second time"),
        (_predictions(jobs=(JOB_A, replace(JOB_B, job="c"))), "/predictions/jobs/1/job", 'no job "c"'),
        (_predictions(devices=(CPU1,)), "/predictions/devices", 'no prediction of device "cpu0"'),
        (_predictions(devices=(CPU0, CPU1, CPU0)), "/predictions/devices/2/device", "second time"),
        (_predictions(devices=(CPU0, replace(CPU1, device="x"))), "/predictions/devices/1/device", 'no device "x"'),
        (_fingerprints("torch", "torch"), "/fingerprints/1/name", "second time"),
        (_fingerprints("data of a", "data of c"), "/fingerprints/1/name", 'no job "c"'),
        (_fingerprints("checkpoint /x, config.json"), "/fingerprints/0/name", "no job starts from"),
    ],
)
def test_what_a_plan_says_of_itself_is_complete(plan: Plan, pointer: str, cause: str) -> None:
    found = check(plan)
    assert (pointer, True) in {(each.pointer, cause in each.cause) for each in found}, found
    with pytest.raises(InvalidPlanError):
        verify(loads(dumps(plan)))


@pytest.mark.parametrize(
    ("field", "value", "pointer", "cause"),
    [
        ("device", "cpu7", "/decisions/phases/0/placements/0/device", 'no device "cpu7"'),
        ("job", "c", "/decisions/phases/0/placements/0/job", 'no job "c"'),
        ("job", "b", "/decisions/phases/0/placements/1/job", "second time"),
        ("resident", ("9",), "/decisions/phases/0/placements/0/resident/0", 'no slab of a "9"'),
        ("device_updates", ("0", "0"), "/decisions/phases/0/placements/0/device_updates/1", "second time"),
        ("keep", (3,), "/decisions/phases/0/placements/0/keep/0", "no shard 3"),
        ("steps", 5, "/decisions/phases", "train 5 steps; its job says 4"),
    ],
)
def test_decisions_that_make_no_sense(field: str, value: object, pointer: str, cause: str) -> None:
    plan = valid()
    first, *others = plan.decisions.phases[0].placements
    placements = (replace(first, **{field: value}), *others)  # type: ignore[arg-type]
    decisions = replace(plan.decisions, phases=(replace(plan.decisions.phases[0], placements=placements),))
    found = check(replace(plan, decisions=decisions, lists_from=decisions_digest(decisions)))
    assert (pointer, True) in {(each.pointer, cause in each.cause) for each in found}


@pytest.mark.parametrize(
    ("cuts", "cause"),
    [((20, 10), "do not ascend"), ((10, 99), "cannot be cut at 99"), ((10,), "the facts hold no shards")],
)
def test_cuts_that_make_no_sense(cuts: tuple[int, ...], cause: str) -> None:
    plan = valid()
    first, *others = plan.decisions.cuts
    decisions = replace(plan.decisions, cuts=(replace(first, cuts=cuts), *others))
    found = check(replace(plan, decisions=decisions, lists_from=decisions_digest(decisions)))
    assert cause in found[0].cause
    assert found[0].pointer == "/decisions/cuts/0/cuts"


def test_stale_gradients_of_activations_are_found() -> None:
    """A running sum that another device has added to since must be fetched again."""
    layout = toy_layout(3, tied=False, skip=True)
    plan = toy_plan(toy_workload(1, steps=2, microbatches=1), layout, repeat=2)
    edited = Text(dumps(plan))
    there = [
        '        {"device": "cpu1", "op": "load", "job": "a", "slab": "1", "what": "parameters"},',
        '        {"device": "cpu0", "op": "save", "job": "a", "shard": 0, "microbatch": 0, "what": "activations"},',
        '        {"device": "cpu1", "op": "fetch", "job": "a", "shard": 0, "microbatch": 0, "what": "activations"},',
    ]
    for shard in (0, 1):
        what = f'"job": "a", "shard": {shard}, "microbatch": 0, "what": "activation_gradients"}},'
        there += [
            f'        {{"device": "cpu0", "op": "save", {what}',
            f'        {{"device": "cpu1", "op": "fetch", {what}',
        ]
    number = edited.find(op="backward", shard=1)
    edited.sub(number, "cpu0", "cpu1")
    for line in reversed(there):
        edited.put(number, line)
    drop = edited.find(op="backward", shard=1) + 1
    edited.put(drop, '        {"device": "cpu1", "op": "drop", "job": "a", "slab": "1", "what": "parameters"},')
    spill = edited.find(op="spill", what="gradients", slab="1")
    edited.sub(spill, "cpu0", "cpu1")
    (finding,) = findings(str(edited))
    assert "lack what shard 1 added on another device" in finding.cause
    what = '"job": "a", "shard": 0, "microbatch": 0, "what": "activation_gradients"},'
    number = edited.find(op="backward", shard=0)
    edited.put(number, f'        {{"device": "cpu0", "op": "fetch", {what}')
    edited.put(number, f'        {{"device": "cpu1", "op": "save", {what}')
    verify(loads(str(edited)))


def test_digests_ignore_the_layout_of_the_file() -> None:
    plan = loads(json.dumps(json.loads(text()), indent=3)).plan
    assert plan == valid()
    assert lists_digest(plan.phases) == plan.lists_digest
