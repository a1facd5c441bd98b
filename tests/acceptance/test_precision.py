"""Precision is part of a job's numerics: in bf16 with fp32 masters and under autocast, every plan has the plain loop's
bits."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from support.drawn import Coverage, draw_phase
from support.precise import precise_jobs, precise_loop
from support.whole import Result, cluster, dropout_job, facts_of, plan_of, run, traced
from torch import Tensor

from planner.frontend.build import Known, build
from planner.frontend.data import open_data
from plans.facts import Facts
from plans.plan import Phase
from plans.workload import Cluster, Job, Precision
from runtime import optimizer, prepare

DRAWN_PLANS = 8


def drawn(job: Job, facts: Facts, where: Cluster, random: Random, coverage: Coverage | None = None) -> Phase:
    return draw_phase(
        job.name,
        facts.layouts[0],
        microbatches=job.microbatches,
        devices=[each.name for each in where.devices],
        steps=job.steps,
        random=random,
        coverage=coverage or Coverage(),
    )


@pytest.mark.parametrize("precision", ["bf16", "autocast"])
@pytest.mark.parametrize("name", sorted(precise_jobs("bf16")))
def test_equals_the_plain_loop(name: str, precision: Precision, tmp_path: Path) -> None:
    job = precise_jobs(precision)[name]
    expected = precise_loop(job)
    graph = traced(job)
    random = Random(f"{name} {precision}")
    where = cluster()
    cuts = tuple(sorted(random.sample(graph.cut_positions, 5)))
    facts = facts_of(job, graph, cuts)
    plan = plan_of(job, facts, [drawn(job, facts, where, random)], where)
    found = run(plan, tmp_path / "run")[job.name]
    assert found.losses == expected.losses
    assert found.weights.keys() == expected.weights.keys()
    for weight, value in found.weights.items():
        assert value.dtype == expected.weights[weight].dtype
        assert torch.equal(value, expected.weights[weight]), weight


def test_masters_rounded_in_every_step_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without what bf16 cannot hold, small updates are lost: the naive version of bf16 trains to other weights."""
    real = optimizer.on_masters

    def rounded(kernel: optimizer.Kernel) -> optimizer.Kernel:
        update = real(kernel)

        def run(parameters: list[Tensor], gradients: list[Tensor], state: list[list[Tensor]], step: int) -> None:
            update(parameters, gradients, state, step)
            for master, parameter in zip(state[-1], parameters, strict=True):
                master.copy_(parameter)

        return run

    job = precise_jobs("bf16")["skips"]
    graph = traced(job)
    facts, where = facts_of(job, graph, graph.cut_positions[5:6]), cluster(1)
    plan = plan_of(job, facts, [drawn(job, facts, where, Random(3))], where)
    assert run(plan, tmp_path / "sound")["skips"].same_bits(precise_loop(job))
    monkeypatch.setattr(optimizer, "on_masters", rounded)
    assert not run(plan, tmp_path / "naive")["skips"].same_bits(precise_loop(job))


def test_the_cache_of_cast_weights_is_other_numerics() -> None:
    """With it, the gradients of a weight's uses add up in bf16, so many of them as one region holds."""
    job = precise_jobs("autocast")["skips"]
    assert not precise_loop(job, cache=True).same_bits(precise_loop(job))


@pytest.mark.parametrize("precision", ["bf16", "autocast"])
def test_every_valid_plan_gives_the_same_bits(
    precision: Precision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Dropout, tied weights, four microbatches."""
    job = dropout_job(steps=2, precision=precision)
    graph = traced(job)
    where = cluster()
    coverage = Coverage()
    shared = Known.of(*build(job, open_data(job).microbatch(0, 0)))
    monkeypatch.setattr(prepare, "build", lambda job, batch, known: build(job, batch, known=shared))
    results: list[Result] = []
    for number in range(DRAWN_PLANS):
        random = Random(f"{precision} {number}")
        if number % 4 == 0:
            cuts = tuple(sorted(random.sample(graph.cut_positions, random.randint(1, 6))))
            facts = facts_of(job, graph, cuts)
        plan = plan_of(job, facts, [drawn(job, facts, where, random, coverage)], where)
        results.append(run(plan, tmp_path / str(number))[job.name])
        assert results[-1].losses == results[0].losses
        assert results[-1].same_bits(results[0])
    assert coverage.seen >= {
        "two devices in one job",
        "kept",
        "recomputed",
        "updated on a device",
        "resident",
        "tied weights",
        "gradient ranges of part of the microbatches",
    }


def test_what_a_run_saves_in_bf16(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    job = precise_jobs("bf16")["gpt2"]
    graph = traced(job)
    facts, where = facts_of(job, graph, graph.cut_positions[5:6]), cluster(1)
    run(plan_of(job, facts, [drawn(job, facts, where, Random(3))], where), tmp_path / "run")
    folder = tmp_path / "run" / "weights" / "gpt2"
    model = GPT2LMHeadModel.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    masters = load_file(folder / "masters.safetensors")
    assert masters.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert masters[name].dtype == torch.float32
        assert torch.equal(masters[name].bfloat16(), parameter), name
    assert any((master.bfloat16() != master).any() for master in masters.values())
