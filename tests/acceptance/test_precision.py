"""Precision is part of a job's numerics: in bf16 with fp32 masters and under autocast, every plan has the plain loop's
bits."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from support.precise import precise_jobs, precise_loop
from support.whole import Draws, cluster, dropout_job, run, traced
from torch import Tensor

from hydraplan.plans.language.workload import Precision
from hydraplan.runtime.memory import optimizer

DRAWN_CUTS = 2
PLANS_OF_A_CUT = 4


@pytest.mark.parametrize("precision", ["bf16", "autocast"])
@pytest.mark.parametrize("name", sorted(precise_jobs("bf16")))
def test_equals_the_plain_loop(name: str, precision: Precision) -> None:
    job, random = precise_jobs(precision)[name], Random(f"{name} {precision}")
    draws = Draws(job=job, graph=traced(job), expected=precise_loop(job))
    draws.train(draws.draw(draws.cut(random.sample(draws.graph.cut_positions, 5)), random))


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
    draws = Draws(job=job, graph=traced(job), where=cluster(1), expected=precise_loop(job))
    plan = draws.draw(draws.cut(draws.graph.cut_positions[5:6]), Random(3))
    draws.train(plan)
    monkeypatch.setattr(optimizer, "on_masters", rounded)
    assert not run(plan, tmp_path / "naive")["skips"].same_bits(precise_loop(job))


def test_the_cache_of_cast_weights_is_other_numerics() -> None:
    """With it, the gradients of a weight's uses add up in bf16, so many of them as one region holds."""
    job = precise_jobs("autocast")["skips"]
    assert not precise_loop(job, cache=True).same_bits(precise_loop(job))


@pytest.mark.parametrize("precision", ["bf16", "autocast"])
def test_every_valid_plan_gives_the_same_bits(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, tied weights, four microbatches."""
    draws, random = Draws.of(dropout_job(steps=2, precision=precision), monkeypatch), Random(precision)
    for facts in [draws.cut_anywhere(random) for _ in range(DRAWN_CUTS)]:
        for _ in range(PLANS_OF_A_CUT):
            draws.train(draws.draw(facts, random))
    assert draws.coverage.seen >= {
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
    draws = Draws(job=job, graph=traced(job), where=cluster(1))
    run(draws.draw(draws.cut(draws.graph.cut_positions[5:6]), Random(3)), tmp_path / "run")
    folder = tmp_path / "run" / "weights" / "gpt2"
    model = GPT2LMHeadModel.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    masters = load_file(folder / "masters.safetensors")
    assert masters.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert masters[name].dtype == torch.float32
        assert torch.equal(masters[name].bfloat16(), parameter), name
    assert any((master.bfloat16() != master).any() for master in masters.values())
