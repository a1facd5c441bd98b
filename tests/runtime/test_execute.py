"""Whole runs of real models: checked, verified, trained, written."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model
from support.realplan import gpt2, lm_job, real_plan
from support.tinylm import skipper
from support.weights import saved_state
from transformers import GPT2LMHeadModel

from hydraplan.planner.frontend.models.model import make_loss
from hydraplan.planner.frontend.shards.deterministic import deterministic
from hydraplan.planner.frontend.users.data import open_data, order
from hydraplan.planner.frontend.users.seeding import seeded
from hydraplan.plans.file.text import loads
from hydraplan.plans.language.digests import facts_digest
from hydraplan.plans.language.errors import InvalidPlanError, RunError, StalePlanError
from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.plans.language.steps import Backward, Forward, SpillGradients, Update
from hydraplan.plans.language.workload import Job, Target
from hydraplan.runtime import execute
from hydraplan.runtime.progress import NoProgress


def plain_loop(job: Job) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The job as PyTorch alone trains it, one microbatch a step."""
    torch.set_num_threads(job.threads)
    data, losses = open_data(job), []
    with seeded(job.seed):
        module = make_loss(job)
    optimizer = getattr(torch.optim, job.optimizer.path)(
        module.parameters(), **dict(job.optimizer.arguments), fused=True
    )
    with deterministic():
        for step in range(job.steps):
            loss = module(data.batch(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, module.model.state_dict()


def assert_run_equals_plain_loop(job: Job, directory: Path) -> None:
    losses, state = plain_loop(job)
    with (directory / "losses" / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == losses
    saved = saved_state(directory / "weights" / "a")
    assert saved.keys() == state.keys()
    assert [name for name in state if not torch.equal(saved[name], state[name])] == []


@pytest.mark.parametrize("make", [lm_job, gpt2], ids=["skipper", "gpt2"])
def test_a_run_equals_the_plain_loop(make: type[Job], tmp_path: Path) -> None:
    job = make()
    plan = real_plan([job], repeat=2, placements=[Placement(job="a", device="cpu0", steps=4, keep=(1,))])
    result = execute(plan, tmp_path / "run")
    assert result.failed == ()
    assert_run_equals_plain_loop(job, tmp_path / "run")


def test_resident_and_device_updates(tmp_path: Path) -> None:
    job = lm_job()
    names = [slab.name for slab in real_plan([job]).facts.layouts[0].slabs]
    placement = Placement(
        job="a", device="cpu1", steps=4, resident=tuple(names[:2]), keep=(0, 2), device_updates=tuple(names[1:])
    )
    execute(real_plan([job], repeat=4, placements=[placement]), tmp_path / "run")
    assert_run_equals_plain_loop(job, tmp_path / "run")


def test_the_original_classes_load_the_weights(tmp_path: Path) -> None:
    execute(real_plan([gpt2(steps=2)], repeat=1), tmp_path / "gpt2")
    execute(real_plan([lm_job(steps=2)], repeat=1), tmp_path / "own")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2" / "weights" / "a")
    state = load_file(tmp_path / "gpt2" / "weights" / "a" / "model.safetensors")
    assert torch.equal(model.transformer.h[1].mlp.c_fc.weight, state["transformer.h.1.mlp.c_fc.weight"])
    own = skipper()
    load_model(own, str(tmp_path / "own" / "weights" / "a" / "model.safetensors"))  # it has tied names


def test_the_record_compares_and_times_every_step(tmp_path: Path) -> None:
    plan = real_plan([lm_job("a"), lm_job("b-lr0.1")], repeat=2)
    result = execute(plan, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [job["job"] for job in record["jobs"]] == ["a", "b-lr0.1"]
    assert record["jobs"][0]["predicted_finish_us"] == plan.predictions.jobs[0].finish_us
    assert 0 < record["jobs"][0]["finish_us"] <= record["makespan_us"] == result.makespan_us
    (phase,) = record["phases"]
    assert phase["iterations"] == [0, 1]
    assert [len(cycle) for cycle in phase["cycle"]["times"]] == [len(plan.phases[0].cycle)] * 2
    for cycle in phase["cycle"]["times"]:
        for times, step in zip(cycle, plan.phases[0].cycle, strict=True):
            assert (times is None) == (type(step).__name__ == "Drop")
            assert times is None or 0 <= times[0] <= times[1]
    device = record["devices"][0]
    assert device["arena_bytes"] == plan.predictions.devices[0].arena_bytes
    assert device["peak_bytes"] <= device["predicted_peak_bytes"] <= device["budget_bytes"]
    assert (tmp_path / "run" / record["jobs"][1]["weights"] / "model.safetensors").is_file()
    assert loads((tmp_path / "run" / "plan.json").read_text()).plan == plan


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="run exists"):
        execute(real_plan([lm_job()]), tmp_path / "run")


def test_a_plan_that_breaks_rules_is_refused(tmp_path: Path) -> None:
    plan = real_plan([lm_job()])
    phase = replace(plan.phases[0], cycle=plan.phases[0].cycle[1:])
    with pytest.raises(InvalidPlanError):
        execute(replace(plan, phases=(phase,)), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_all_drift_is_reported_at_once_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = real_plan([lm_job("a"), lm_job("b")])
    (graph,) = plan.facts.graphs
    facts = replace(plan.facts, graphs=(replace(graph, digest="f" * 64),))
    stale = replace(
        plan,
        facts=facts,
        facts_digest=facts_digest(facts),
        fingerprints=tuple(
            replace(each, value="1.0") if each.name in ("torch", "data of b") else each for each in plan.fingerprints
        ),
    )
    with pytest.raises(StalePlanError) as caught:
        execute(stale, tmp_path / "run")
    findings = caught.value.findings
    assert [each.cause.split(":")[0] for each in findings] == ["torch", "data of b", "graph of a", "graph of b"]
    assert findings[0].cause == f"torch: planned with 1.0, now {torch.__version__}"
    assert findings[0].pointer == "/fingerprints/1"
    assert findings[2].cause == f"graph of a: planned with {'f' * 64}, now {graph.digest}"
    assert findings[2].pointer == "/facts/graphs/0/digest"
    assert all("plan the workload anew" in each.remedy for each in findings)
    assert not list(tmp_path.iterdir())


def test_sizes_that_the_graph_contradicts_are_drift(tmp_path: Path) -> None:
    plan = real_plan([lm_job()])
    (layout,) = plan.facts.layouts
    shards = (replace(layout.shards[0], activation_bytes=layout.shards[0].activation_bytes + 256), *layout.shards[1:])
    facts = replace(plan.facts, layouts=(replace(layout, shards=shards),))
    stale = replace(plan, facts=facts, facts_digest=facts_digest(facts))
    with pytest.raises(StalePlanError, match=r"a, shard 0, activation bytes: planned \d+, now \d+"):
        execute(stale, tmp_path / "run")


def test_devices_that_are_not_there_are_refused(tmp_path: Path) -> None:
    plan = real_plan([lm_job()])
    cluster = plan.workload.cluster
    gpus = tuple(replace(device, backing="cuda:99") for device in cluster.devices)
    plan = replace(plan, workload=replace(plan.workload, cluster=replace(cluster, devices=gpus)))
    with pytest.raises(RunError, match=r"device cpu0 is backed by cuda:99, and torch sees \d CUDA GPUs here"):
        execute(plan, tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "says"), [("rotten", "row {row} is rotten"), ("exiting", "item {row} failed: it called sys.exit(3)")]
)
def test_a_job_that_fails_leaves_the_others_results(data: str, says: str, tmp_path: Path) -> None:
    sound = {0, 5, 11, 17, 23}  # rows that the fingerprint looks at
    row = next(row for row in order(24, seed=3, epoch=0)[8:12].tolist() if row not in sound)  # read by step 2
    broken = lm_job("b", data=Target(path=f"support.tinylm:{data}", arguments=(("row", row),)))
    plan = real_plan([lm_job("a"), broken], repeat=4)
    result = execute(plan, tmp_path / "run")
    assert [job.job for job in result.failed] == ["b"]
    assert says.format(row=row) in result.failed[0].error
    assert len(result.failed[0].losses) == 2
    assert_run_equals_plain_loop(lm_job("a"), tmp_path / "run")
    assert not (tmp_path / "run" / "weights" / "b").exists()
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert "Traceback" in record["failures"]["b"]
    assert_not_recorded(plan, record, failed_at=2)


def assert_not_recorded(plan: Plan, record: dict[str, Any], *, failed_at: int) -> None:
    """Of job b's steps that need a batch: all before the iteration that failed are timed, none from there on."""
    (phase,) = plan.phases
    for iteration, cycle in enumerate(record["phases"][0]["cycle"]["times"]):
        for times, step in zip(cycle, phase.cycle, strict=True):
            if isinstance(step, Forward | Backward | SpillGradients | Update):
                passed_over = step.job == "b" and iteration >= failed_at
                assert (times is None) == passed_over, (iteration, step)


class BrokenPipe(NoProgress):
    """A display that nobody reads any more."""

    def step(self, job: str, step: int, loss: float) -> None:
        raise BrokenPipeError

    def fail(self, job: str, message: str) -> None:
        raise BrokenPipeError


def test_a_broken_display_does_not_stop_the_run(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="progress is not shown any more: BrokenPipeError"):
        result = execute(real_plan([lm_job("a")], repeat=2), tmp_path / "run", progress=BrokenPipe())
    assert not result.failed


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_every_engine_soon(tmp_path: Path) -> None:
    """After the step that it runs, not after the steps that are left."""
    before = threading.active_count()
    plan = real_plan([replace(lm_job("a"), steps=50_000)], repeat=50_000)

    class Interrupt(NoProgress):
        def step(self, job: str, step: int, loss: float) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)  # to the main thread, as a terminal does

        def fail(self, job: str, message: str) -> None:
            pytest.fail(f"an interrupt is no failure of {job}: {message}")

    with pytest.raises(KeyboardInterrupt):
        execute(plan, tmp_path / "run", progress=Interrupt())
    assert threading.active_count() == before
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "interrupted"
    (row,) = record["jobs"]
    with (tmp_path / "run" / "losses" / "a.csv").open() as file:
        losses = list(csv.DictReader(file))
    assert (row["status"], row["trained"], row["weights"]) == ("training", len(losses), None)
    assert 4 <= len(losses) < 100


def test_edited_lists_are_predicted_anew(tmp_path: Path) -> None:
    plan = real_plan([lm_job("a")])
    wrong = replace(plan, lists_digest="edited", predictions=replace(plan.predictions, makespan_us=1))
    assert execute(wrong, tmp_path / "run").predicted_makespan_us == plan.predictions.makespan_us


def test_fingerprints_that_the_plan_lacks_are_missed(tmp_path: Path) -> None:
    with pytest.raises(StalePlanError, match="torch: not in the plan, now"):
        execute(replace(real_plan([lm_job("a")]), fingerprints=()), tmp_path / "run")
