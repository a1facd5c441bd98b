"""A bf16 job goes on from the masters beside a checkpoint, to the bit; or it is said why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import checkpoint_job, save_checkpoint
from support.realplan import real_plan
from torch import Tensor

from hydraplan.planner.frontend.shards.build import build
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.planner.study import study
from hydraplan.plans.language.errors import StalePlanError, WorkloadError
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.workload import Job, Target
from hydraplan.runtime import execute
from hydraplan.runtime.devices.cpu import pages
from hydraplan.runtime.memory.store import HostStore

SGD = {"optimizer": Target(path="SGD", arguments=(("lr", 1e-3),))}


def trained(job: Job, directory: Path) -> Path:
    (result,) = execute(real_plan([job], repeat=job.steps), directory).jobs
    assert result.error is None, result.error
    assert result.weights is not None
    return result.weights


def started(job: Job) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and masters that a job starts from."""
    model, traced = build(job, open_data(job).microbatch(0, 0))
    store = HostStore(pages)
    store.add("a", shard(traced, ()), state_of(job.optimizer, job.precision), model)
    return store.state("a"), store.masters("a")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What bf16 jobs of several families saved."""
    folder = tmp_path_factory.mktemp("masters")
    return {
        name: trained(
            checkpoint_job(save_checkpoint(folder / name, name), name, precision="bf16"), folder / f"run-{name}"
        )
        for name in ("gpt2", "llama", "mixtral")
    }


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_a_bf16_job_starts_from_the_masters_of_the_last(name: str, saved: dict[str, Path]) -> None:
    weights, masters = started(checkpoint_job(saved[name], name, precision="bf16"))
    expected = load_file(saved[name] / "masters.safetensors")
    assert masters.keys() == expected.keys()
    assert all(torch.equal(masters[each], expected[each]) for each in masters)
    assert all(torch.equal(weights[each], expected[each].bfloat16()) for each in masters)
    assert any(not torch.equal(masters[each], weights[each].float()) for each in masters), "they tell more"
    model = load_file(saved[name] / "model.safetensors")
    assert all(torch.equal(weights[each], model[each]) for each in model.keys() & weights.keys())


def test_two_runs_are_one(saved: dict[str, Path], tmp_path: Path) -> None:
    """Without state of the optimizer, and on the same batches: weights and masters of 2 + 1 steps are those of 3."""
    first = save_checkpoint(tmp_path / "first", "gpt2")
    data = {"data": Target(path="support.wrapped:one_row"), "precision": "bf16", **SGD}
    whole = trained(checkpoint_job(first, "gpt2", steps=3, **data), tmp_path / "whole")
    half = trained(checkpoint_job(first, "gpt2", steps=2, **data), tmp_path / "half")
    again = trained(checkpoint_job(half, "gpt2", steps=1, **data), tmp_path / "again")
    for file in ("model.safetensors", "masters.safetensors"):
        one, other = load_file(whole / file), load_file(again / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[each], other[each]) for each in one), file


def change(folder: Path, file: str, name: str, by: float) -> None:
    state = load_file(folder / file)
    state[name] = state[name] + by
    save_file(state, folder / file, metadata={"format": "pt"})


def copied(folder: Path, target: Path) -> Path:

    shutil.copytree(folder, target)
    return target


def test_masters_of_other_weights_are_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(saved["gpt2"], tmp_path / "copy")
    change(folder, "model.safetensors", "transformer.ln_f.weight", 1.0)
    job = checkpoint_job(folder, "gpt2", precision="bf16")
    with pytest.raises(WorkloadError, match=r"masters.safetensors holds another transformer.ln_f.weight .*: delete ma"):
        started(job)
    (folder / "masters.safetensors").unlink()
    weights, masters = started(job)
    assert all(torch.equal(masters[each], weights[each].float()) for each in masters)


def test_masters_of_another_model_are_refused_when_planning(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(saved["gpt2"], tmp_path / "copy")
    job = checkpoint_job(folder, "gpt2", precision="bf16")
    masters = load_file(folder / "masters.safetensors")
    for wrong, text in (
        ({"other": torch.zeros(3)}, r"holds other as F32 \(3,\), which the model has not"),
        ({"transformer.ln_f.bias": torch.zeros(3)}, r"F32 \(3,\), and the model \(32,\) of it"),
        ({"transformer.ln_f.bias": masters["transformer.ln_f.bias"].half()}, r"ln_f.bias as F16 \(32,\)"),
    ):
        save_file(masters | wrong, folder / "masters.safetensors")
        with pytest.raises(WorkloadError, match=text):
            trace(job, open_data(job).microbatch(0, 0))
    (folder / "masters.safetensors").write_bytes(b"nothing of it")
    with pytest.raises(WorkloadError, match=r"masters.safetensors is no whole safetensors file"):
        trace(job, open_data(job).microbatch(0, 0))


def test_changed_masters_make_a_plan_stale(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(saved["gpt2"], tmp_path / "copy")
    plan = real_plan([checkpoint_job(folder, "gpt2", precision="bf16")], repeat=3)
    change(folder, "masters.safetensors", "transformer.ln_f.weight", 1e-6)
    with pytest.raises(StalePlanError, match=r"masters.safetensors: planned with"):
        execute(plan, tmp_path / "run")


def test_an_fp32_job_is_told_that_it_starts_from_rounded_weights(saved: dict[str, Path]) -> None:
    jobs = [
        checkpoint_job(saved["gpt2"], "gpt2", job="fp32"),
        checkpoint_job(saved["gpt2"], "gpt2", job="bf16", precision="bf16"),
    ]
    (notice,) = study(jobs).notices
    assert notice.startswith("job fp32: ")
    assert "masters.safetensors is not read, as the job's precision is fp32" in notice
