"""Batches of differing length: the plain loop's bits on the same padded batches, and the same bits under any plan."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from random import Random

import pytest
import torch
from acceptance.test_memory import LiveStorages
from support.drawn import Coverage, draw_phase
from support.models import GPT2, LLAMA, NO_DROPOUT
from support.varied import BUCKETS, padded_by_hand, varied_job
from support.whole import Result, cluster, facts_of, plain_loop, plan_of, run
from torch import Tensor

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.frontend.shards.build import Known, build
from hydraplan.planner.frontend.users import lengths
from hydraplan.planner.frontend.users.data import JobData, open_data
from hydraplan.planner.frontend.users.lengths import padded
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Job, Lengths, Workload
from hydraplan.runtime import execute, prepare
from hydraplan.runtime.replaying.batches import Batches

DRAWN_PLANS = 5


def exact_jobs() -> dict[str, Job]:
    """Without dropout, one microbatch."""
    small = GPT2 | NO_DROPOUT | {"n_layer": 1}
    return {
        "gpt2": varied_job("transformers:GPT2LMHeadModel", small, name="gpt2", steps=4),
        "llama": varied_job("transformers:LlamaForCausalLM", LLAMA | {"num_hidden_layers": 1}, name="llama", steps=4),
        "normed": varied_job("support.varied:Normed", {}, name="normed", steps=4),
    }


@cache
def known(name: str) -> Known:
    """The graph of one of `exact_jobs`, built once for all tests."""
    job = exact_jobs()[name]
    return Known.of(job, *build(job, open_data(job).microbatch(0, 0)))


@cache
def facts_at(name: str) -> Facts:
    graph = known(name).graph
    return facts_of(exact_jobs()[name], graph, graph.cut_positions[5:30:8])


def drawn(job: Job, facts: Facts, random: Random, coverage: Coverage | None = None) -> Plan:
    where = cluster()
    phase = draw_phase(
        job.name,
        facts.layouts[0],
        microbatches=job.microbatches,
        devices=[each.name for each in where.devices],
        steps=job.steps,
        random=random,
        coverage=coverage or Coverage(),
    )
    return plan_of(job, facts, [phase], where)


def plain_loop_by_hand(job: Job) -> Result:
    """The plain loop on batches that torch has padded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobData, "batch", lambda self, step: padded_by_hand(job, step))
        return plain_loop(job)


def buckets_of(job: Job) -> list[int]:
    """The bucket of every training step, by hand."""
    return [padded_by_hand(job, step)["labels"].shape[1] for step in range(job.steps)]


@pytest.mark.parametrize("name", sorted(exact_jobs()))
def test_equals_the_plain_loop_on_padded_batches(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = exact_jobs()[name]
    monkeypatch.setattr(prepare, "build", partial(reuse, known(name)))
    expected = plain_loop_by_hand(job)
    found = run(drawn(job, facts_at(name), Random(name)), tmp_path / "run")[job.name]
    assert found.losses == expected.losses
    assert found.weights.keys() == expected.weights.keys()
    for weight, value in found.weights.items():
        assert torch.equal(value, expected.weights[weight]), weight
    used = json.loads((tmp_path / "run" / "record.json").read_text())["buckets"][job.name]
    assert used == {str(bucket): count for bucket, count in sorted(Counter(buckets_of(job)).items())}
    assert set(used) == {str(bucket) for bucket in BUCKETS}, "every bucket was trained at"


def test_the_largest_bucket_for_all_has_other_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive way to a single shape: pad everything to the largest."""
    job = exact_jobs()["gpt2"]
    expected = plain_loop_by_hand(job)
    monkeypatch.setattr(prepare, "build", partial(reuse, known("gpt2")))
    monkeypatch.setattr(lengths, "_bucket", lambda data, items, lengths: lengths.buckets[-1])
    found = run(drawn(job, facts_at("gpt2"), Random(1)), tmp_path / "run")[job.name]
    assert found.losses != expected.losses
    assert not found.same_bits(expected)


def test_one_graph_for_all_buckets_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive replay: whatever the batch, the largest bucket's graph."""
    job = exact_jobs()["gpt2"]
    monkeypatch.setattr(prepare, "build", partial(reuse, known("gpt2")))
    monkeypatch.setattr(Batches, "bucket", lambda self, job, step: BUCKETS[-1])
    done = execute(drawn(job, facts_at("gpt2"), Random(1)), tmp_path / "run")
    assert done.failed
    assert "the traced graph reads torch.int64 (4, 12)" in str(done.failed[0].error)


def test_an_item_longer_than_the_largest_bucket_ends_its_job_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = exact_jobs()["gpt2"]
    monkeypatch.setattr(prepare, "build", partial(reuse, known("gpt2")))
    made = drawn(job, facts_at("gpt2"), Random(1))
    first, batch = {"input_ids": torch.ones(13)}, JobData.batch
    pad = Lengths(buckets=BUCKETS, pad=(("input_ids", 0),))
    monkeypatch.setattr(
        JobData, "batch", lambda self, step: padded("varied", {3: first}, pad) if step == 2 else batch(self, step)
    )
    done = execute(made, tmp_path / "run")
    assert "input_ids of item 3 has length 13, 1 more than the largest bucket, 12" in str(done.failed[0].error)
    assert len(done.jobs[0].losses) == 2


def test_every_valid_plan_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and four microbatches; plans drawn over all that may differ between them."""
    small = GPT2 | {"n_layer": 1}
    small |= {"attn_implementation": "eager"}  # some microbatches need no padding: sdpa would take another kernel there
    job = varied_job("transformers:GPT2LMHeadModel", small, name="drawn", microbatches=4, steps=4)
    assert set(buckets_of(job)) == set(BUCKETS)
    shared = Known.of(job, *build(job, open_data(job).microbatch(0, 0)))
    monkeypatch.setattr(prepare, "build", partial(reuse, shared))
    random, coverage = Random(20261125), Coverage()
    positions = shared.graph.cut_positions
    choices = [facts_of(job, shared.graph, tuple(sorted(random.sample(positions, count)))) for count in (1, 4)]
    results = []
    for number in range(DRAWN_PLANS):
        made = drawn(job, choices[number % len(choices)], random, coverage)
        results.append(run(made, tmp_path / str(number))[job.name])
        assert results[-1].losses == results[0].losses
        assert results[-1].same_bits(results[0])
    assert coverage.seen >= {"two devices in one job", "kept", "recomputed", "updated on a device", "resident"}


def reuse(shared: Known, job: Job, batch: dict[str, Tensor], *, known: Known | None) -> object:
    """`build` without tracing a job's model anew."""
    return build(job, batch, known=shared)


def test_memory_is_within_the_plan_at_every_bucket(tmp_path: Path) -> None:
    """Planned for the largest bucket; counted over steps of all buckets, whichever is in use."""
    wide = GPT2 | {"n_layer": 1, "n_embd": 96}
    job = varied_job("transformers:GPT2LMHeadModel", wide, name="wide", microbatches=2, steps=4)
    assert set(buckets_of(job)) == set(BUCKETS)
    where = cluster(1, budget_bytes=1 << 20)
    made = plan(Workload(cluster=where, jobs=(job,)), solver=SolverOptions(effort=5_000))
    counters: dict[str, LiveStorages] = {}

    def counted(device: str) -> AbstractContextManager[object]:
        counters[device] = LiveStorages()
        return counters[device]

    done = execute(made, tmp_path / "run", compute_context=counted)
    assert not done.failed
    (device,), (predicted,), (used,) = where.devices, made.predictions.devices, done.devices
    counter = counters[device.name]
    assert counter.operators > 500, "the counter saw the run"
    assert used.arena_bytes == predicted.arena_bytes
    assert 0 < counter.peak <= predicted.workspace_bytes + predicted.kept_bytes
    assert predicted.arena_bytes + counter.peak <= predicted.peak_bytes <= device.budget_bytes
    assert used.kept_bytes <= predicted.kept_bytes
