"""Forwards that ask about values train to the bits of a plain loop, or are refused where batches would answer
differently: transformers' packed sequences and masks of ones, gradient checkpointing, and one's own questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.plainly import differences, habit_job
from support.whole import cluster, run

from hydraplan.planner import plan
from hydraplan.planner.frontend.tracing import agreement
from hydraplan.planner.study import study
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job, Target, Value, Workload
from hydraplan.runtime import execute

HOME = "support.values"


def job_of(family: str, *, mask: str = "", positions: str = "", name: str = "job", **settings: Value) -> Job:
    data = Target(path=f"{HOME}:sentences", arguments=(("mask", mask), ("positions", positions)))
    job = habit_job(
        f"{HOME}:language_model", data=data.path, loss=None, arguments={"family": family, **settings}, name=name
    )
    return Job(**{each: getattr(job, each) for each in job.__slots__} | {"data": data})


def own_job(of: str, mask: str, name: str = "job") -> Job:
    data = Target(path=f"{HOME}:sentences", arguments=(("mask", mask),))
    job = habit_job(f"{HOME}:asks", data=data.path, loss=f"{HOME}:next_token", arguments={"of": of}, name=name)
    return Job(**{each: getattr(job, each) for each in job.__slots__} | {"data": data})


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Llama", {}),
        ("Mistral", {"mask": "ones"}),
        ("Qwen2", {"mask": "ones", "cache": True}),
        ("Gemma", {"checkpointing": "plain"}),
        ("Phi", {"checkpointing": "reentrant", "cache": True}),
        ("GPTNeoX", {"positions": "packed"}),
        ("Mixtral", {"positions": "plain"}),
        ("Llama", {"mask": "padded"}),
        ("Qwen2", {"mask": "sometimes", "attention": "eager"}),
    ],
)
def test_transformers_train_as_a_plain_loop(family: str, settings: dict[str, str], tmp_path: Path) -> None:
    assert differences(job_of(family, **settings), tmp_path / "run") == []


@pytest.mark.parametrize(("of", "mask"), [("shapes", "padded"), ("mask", "ones"), ("mask", "padded"), ("item", "ones")])
def test_own_questions_train_as_a_plain_loop(of: str, mask: str, tmp_path: Path) -> None:
    assert differences(own_job(of, mask), tmp_path / "run") == []


@pytest.mark.parametrize("job", [job_of("Llama", mask="sometimes"), own_job("mask", "sometimes")], ids=str)
def test_batches_that_answer_otherwise_are_refused_at_plan(job: Job) -> None:
    with pytest.raises(TraceError, match=r"py:\d+\).* of attention_mask: .*; one graph goes one way: .*\"eager\""):
        study([job])


def test_a_question_about_what_is_trained_is_refused() -> None:
    with pytest.raises(TraceError, match=r"values\.py:\d+.*depends on values of tensors"):
        study([own_job("trained", "ones")])


def test_jobs_whose_data_answers_otherwise_have_a_graph_of_their_own(tmp_path: Path) -> None:
    jobs = (own_job("mask", "ones", "ones"), own_job("mask", "padded", "padded"))
    studied = study(jobs)
    assert studied.graph_of["ones"] != studied.graph_of["padded"]
    run(plan(Workload(cluster=cluster(1), jobs=jobs)), tmp_path / "run")


def test_what_planning_did_not_read_is_asked_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "MOST_ITEMS", 4)
    workload = Workload(cluster=cluster(1), jobs=(own_job("mask", "sometimes"),))
    made = plan(workload, audit="never")  # which reads the first batches too
    (failed,) = execute(made, tmp_path / "run").failed
    assert "microbatch 0 of step" in str(failed.error) and "one graph goes one way" in str(failed.error)
