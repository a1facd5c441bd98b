"""Audits of a plan: what it says of each graph, whom it refuses, what comes of asking for none or for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.habits import habit_job
from support.whole import cluster, whole_job

from hydraplan.planner import audits
from hydraplan.planner.frontend.auditing.audit import Audited, refusal
from hydraplan.planner.pipeline import plan
from hydraplan.planner.scheduling.solver import SolverOptions
from hydraplan.planner.study import Study, study
from hydraplan.plans.checking.check import check
from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.plan import Audit, Plan
from hydraplan.plans.language.workload import Workload
from hydraplan.runtime import execute, prepare
from hydraplan.tools.commands.inspect import audit_lines

FAST = SolverOptions(effort=1, rounds=1)
JOBS = tuple(
    replace(whole_job("support.models:Skips", {}, name=name, seed=seed)) for name, seed in (("a", 1), ("b", 2))
)


@pytest.fixture(scope="module")
def known() -> Study:
    return study(JOBS)


def planned(known: Study, **more: object) -> Plan:
    return plan(Workload(cluster=cluster(), jobs=known.jobs), solver=FAST, studied=known, **more)  # type: ignore[arg-type]


def test_a_small_graph_is_audited_once_for_all_its_jobs_and_the_file_holds_it(known: Study) -> None:
    made = planned(known)
    assert made.audits == (Audit(graph="Skips-1", verdict="equal", jobs=("a",)),)
    assert loads(dumps(made)).plan == made
    (line,) = audit_lines(made)
    assert "two steps of a (seed 1) beside its model: equal; b: the same graph, other values" in line


def test_where_it_is_not_asked_for_the_plan_says_so(known: Study) -> None:
    made = planned(known, audit="never")
    assert [(each.verdict, each.jobs) for each in made.audits] == [("not audited", ())]
    assert audit_lines(made)[0].startswith("Audit: Skips-1 not audited: it was not asked for")


def test_what_would_take_long_is_left_out_and_the_estimate_told(known: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "MADE_BYTES_PER_S", 100)
    made = planned(known)
    assert made.audits[0].verdict == "not audited"
    assert "and the audits of a plan may take 30 s in all; hydraplan plan --audit always does it" in made.audits[0].text
    assert planned(known, audit="always").audits[0].verdict == "equal"


def test_what_the_host_has_no_memory_for_is_not_audited(known: Study) -> None:
    small = replace(cluster(), host_memory_bytes=1000)
    workload = Workload(cluster=small, jobs=known.jobs)
    cuts = dict.fromkeys("ab", ())
    (found,) = audits.audits(workload, known, cuts, "always", lambda _: None)
    assert found.verdict == "not audited" and "the host has 1000 B" in found.text


def test_a_difference_refuses_unless_every_job_of_the_graph_accepts_it(known: Study) -> None:
    found = Audited(verdict="differs", text="at step 1, microbatch 0, the loss is 2.0 in the plain loop")
    workload = Workload(cluster=cluster(), jobs=JOBS)
    with pytest.raises(
        TraceError, match=r'job a: audited, it does not .* the loss is 2.0 .*; audit = "tell" in a, b plans'
    ):
        audits.verdict_of(workload, known, "Skips-1", JOBS[0], found)
    told = replace(workload, jobs=tuple(replace(job, audit="tell") for job in JOBS))
    audit = audits.verdict_of(told, known, "Skips-1", JOBS[0], found)
    assert audit == Audit(graph="Skips-1", verdict="told", jobs=("a",), text=found.text)
    assert "DIFFERS" in audit_lines(replace(planned(known, audit="never"), audits=(audit,)))[0]


def test_a_plain_loop_without_bits_of_its_own_is_told_as_that() -> None:
    text = refusal(JOBS[0], Audited(verdict="unsteady", text="it does not repeat itself"), ["a"])
    assert text.startswith("job a: audited, it cannot be held to any bits: it does not repeat itself; ")


def test_check_knows_the_graph_and_the_jobs_of_an_audit(known: Study) -> None:
    made = planned(known, audit="never")
    wrong = (
        Audit(graph="Skips-2", verdict="not audited"),
        Audit(graph="Skips-1", verdict="equal", jobs=("c",)),
        Audit(graph="Skips-1", verdict="told"),
    )
    found = {each.pointer for each in check(replace(made, audits=wrong))}
    assert {"/audits/0/graph", "/audits/1/jobs/0", "/audits/2/jobs"} <= found


def test_execution_audits_what_the_plan_has_not(known: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    real = prepare.audit_graph

    def audit(job, *arguments, **named):  # type: ignore[no-untyped-def]
        asked.append(job.name)
        return real(job, *arguments, **named)

    monkeypatch.setattr(prepare, "audit_graph", audit)
    execute(planned(known), tmp_path / "done", audit=True)
    assert asked == []
    execute(planned(known, audit="never"), tmp_path / "left", audit=True)
    assert asked == ["a"]
    differs = Audited(verdict="differs", text="the loss is 2.0")
    monkeypatch.setattr(prepare, "audit_graph", lambda *_, **__: differs)
    with pytest.raises(TraceError, match=r"job a: audited, it does not train as its model does: the loss is 2\.0"):
        execute(planned(known, audit="never"), tmp_path / "refused", audit=True)
    assert not (tmp_path / "refused").exists()


def test_a_habit_is_refused_by_planning_and_the_same_text_each_time() -> None:
    job = habit_job("Habit", kind="draws", live=True, threads=2)
    workload = Workload(cluster=cluster(), jobs=(job,))
    assert dumps(plan(workload, solver=FAST)) == dumps(plan(workload, solver=FAST))
