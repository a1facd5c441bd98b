"""Saved models load into what people load them into, to the bit: safetensors, transformers, peft, our checkpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_model
from support import wrapped
from support.realplan import real_plan
from support.whole import plain_loop, whole_job
from torch import Tensor, nn

from hydraplan.planner.frontend.models.model import make_loss, make_model
from hydraplan.planner.frontend.models.saved import bare_names, saved_names
from hydraplan.planner.frontend.shards.build import build, seeded
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Checkpoint, Job, Target
from hydraplan.runtime import JobResult, execute
from hydraplan.runtime.saving import weights

TRAINS = {
    "data": Target(path="support.whole:rows", arguments=(("length", 8), ("target", True))),
    "loss": Target(path="support.models:squared_error"),
}


pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own


def job_of(name: str, **more: object) -> Job:
    """A job of one of `support.wrapped`; those of libraries have a loss of their own."""
    own = name in ("net", "compiled", "parallel", "compiled_parallel", "inner", "checkpointed", "tied", "extra")
    return whole_job(f"support.wrapped:{name}", more.pop("arguments", {}), name="a", **(TRAINS if own else {}) | more)  # type: ignore[arg-type]


def trained(job: Job, directory: Path) -> tuple[JobResult, Path]:
    """Execute a plan of one job, which has to finish; returns the folder of its weights."""
    (result,) = execute(real_plan([job], repeat=3), directory).jobs
    assert result.error is None, result.error
    assert result.weights is not None
    return result, result.weights


def plain(job: Job) -> dict[str, Tensor]:
    return dict(plain_loop(job).weights)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# -- models of one's own ------------------------------------------------------------------------------


THE_HEAD = pytest.param(
    "the head",
    marks=pytest.mark.xfail(reason="peft copies the head (copy.deepcopy), which ends the interpreter", run=False),
)


@pytest.mark.parametrize("name", ["compiled", "parallel", "compiled_parallel", "inner", "checkpointed"])
def test_what_is_wrapped_around_a_model_is_not_in_its_names(name: str, tmp_path: Path) -> None:
    job = job_of(name)
    _, folder = trained(job, tmp_path / "run")
    loaded = wrapped.Net()
    load_model(loaded, str(folder / "model.safetensors"))
    assert same(dict(loaded.state_dict()), plain(replace(job, model=Target(path="support.wrapped:net"))))


def test_a_name_that_would_be_another_s_stays() -> None:
    class Both(nn.DataParallel[nn.Module]):
        def __init__(self) -> None:
            super().__init__(nn.Linear(2, 2))
            self.weight = nn.Parameter(torch.ones(1))

    names = saved_names(Both())
    assert list(names) == ["weight", "module.weight", "module.bias"]
    assert bare_names(nn.DataParallel(wrapped.Net()), {"module.module.weight": 0}) == {
        "module.module.weight": "module.weight"
    }


def test_tied_names_load_with_load_model(tmp_path: Path) -> None:
    job = job_of("tied")
    _, folder = trained(job, tmp_path / "run")
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["head.weight"] == "a_head.weight"
        assert {"embed.weight", "second.weight", "second.bias"}.isdisjoint(file.keys())
    loaded = wrapped.Tied()
    load_model(loaded, str(folder / "model.safetensors"))
    assert same(dict(loaded.state_dict()), plain(job))
    assert loaded.head.weight is loaded.embed.weight


def test_extra_state_is_saved_as_it_is_after_training(tmp_path: Path) -> None:
    job = job_of("extra")
    result, folder = trained(job, tmp_path / "run")
    loaded = wrapped.Extra()
    load_model(loaded, str(folder / "model.safetensors"))
    expected = plain(job)
    assert same(dict(loaded.state_dict()), expected)
    assert isinstance(loaded.restored, Tensor)
    assert torch.equal(loaded.restored, expected["_extra_state"])
    assert torch.equal(loaded.restored, expected["out.weight"].abs().max().reshape(1))
    assert result.notes == ()


@pytest.mark.parametrize(
    ("kind", "told"), [("a dict", "_extra_state .dict.*return a tensor"), ("fails", "ValueError: not now")]
)
def test_extra_state_that_no_file_holds_is_told(kind: str, told: str, tmp_path: Path) -> None:
    result, folder = trained(job_of("extra", arguments={"kind": kind}), tmp_path / "run")
    (note,) = result.notes
    assert re.search(told, note), note
    load_model(wrapped.Net(), str(folder / "model.safetensors"))
    (row,) = json.loads((tmp_path / "run" / "record.json").read_text())["jobs"]
    assert row["notes"] == [note]


# -- of transformers ----------------------------------------------------------------------------------

OF_TRANSFORMERS = {
    "gpt2": transformers.GPT2LMHeadModel,
    "compiled_gpt2": transformers.GPT2LMHeadModel,
    "part_compiled_gpt2": transformers.GPT2LMHeadModel,
    "long_gpt2": transformers.GPT2LMHeadModel,
    "mixtral": transformers.MixtralForCausalLM,
    "own_model": wrapped.OwnModel,
}
PLAIN = {"compiled_gpt2": "gpt2", "part_compiled_gpt2": "gpt2"}
"""What they are without what is wrapped around them."""


@pytest.mark.parametrize("name", OF_TRANSFORMERS)
def test_a_callable_s_model_of_transformers_loads_with_from_pretrained_and_as_a_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "mixtral":
        monkeypatch.setattr(weights, "LARGEST_FILE", "20KB")
    job, kind = job_of(name), OF_TRANSFORMERS[name]
    result, folder = trained(job, tmp_path / "run")
    loaded, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    expected = plain(replace(job, model=Target(path=f"support.wrapped:{PLAIN.get(name, name)}")))
    assert same(dict(loaded.state_dict()), expected)
    assert (folder / "generation_config.json").exists() == (name != "own_model")
    assert (folder / "model.safetensors.index.json").exists() == (name == "mixtral")
    assert result.notes == ()

    path = "support.wrapped:OwnModel" if name == "own_model" else f"transformers:{kind.__name__}"
    again = replace(job, model=Target(path=path), checkpoint=Checkpoint(folder=str(folder)))
    model, traced = build(again, open_data(again).microbatch(0, 0))
    found = {saved: model.tensors[source] for saved, source in traced.saved_names.items() if source in model.tensors}
    for saved, value in found.items():
        model.move(traced.saved_names[saved], target := torch.empty_like(value))
        assert torch.equal(target, expected[saved])
    assert found.keys() == expected.keys()


def test_a_model_that_its_class_does_not_make_is_saved_by_names_and_told(tmp_path: Path) -> None:
    job = job_of("changed_llama")
    result, folder = trained(job, tmp_path / "run")
    (note,) = result.notes
    assert "LlamaForCausalLM makes another model of its configuration (model.layers.0.mlp.up_proj." in note
    assert [each.name for each in folder.iterdir()] == ["model.safetensors"]
    loaded = make_model(job)
    load_model(loaded, str(folder / "model.safetensors"))
    assert same(dict(loaded.state_dict()), plain(job))


# -- of peft ------------------------------------------------------------------------------------------

peft = pytest.importorskip("peft")


def base_of(job: Job) -> nn.Module:
    """The base as the job's callable made it."""
    with seeded(job.seed):
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**wrapped.LLAMA))


@pytest.mark.parametrize("trains", ["adapters", THE_HEAD])
def test_adapters_alone_load_onto_their_base(trains: str, tmp_path: Path) -> None:
    job = job_of("adapted", arguments={"trains": trains})
    result, folder = trained(job, tmp_path / "run")
    assert not (folder / "base").exists()
    assert not (folder / "model.safetensors").exists()
    assert result.notes == ()
    loaded = peft.PeftModel.from_pretrained(base_of(job), folder)
    assert same(dict(loaded.state_dict()), plain(job))


@pytest.mark.parametrize("trains", ["adapters", THE_HEAD])
def test_with_base_all_of_the_model_is_there(trains: str, tmp_path: Path) -> None:
    job = job_of("adapted", arguments={"trains": trains}, base=True)
    _, folder = trained(job, tmp_path / "run")
    base, report = transformers.LlamaForCausalLM.from_pretrained(folder / "base", output_loading_info=True)
    assert not any(report.values()), report
    assert same(dict(base.state_dict()), dict(base_of(job).state_dict()))
    assert same(dict(peft.PeftModel.from_pretrained(base, folder).state_dict()), plain(job))


def test_a_trained_part_of_the_base_is_not_lost(tmp_path: Path) -> None:
    job = job_of("adapted", arguments={"trains": "a norm"})
    result, folder = trained(job, tmp_path / "run")
    assert result.notes == (
        "base_model.model.model.norm.weight is trained and no part of an adapter: the base is saved too, in base/",
    )
    base = transformers.LlamaForCausalLM.from_pretrained(folder / "base")
    assert same(dict(peft.PeftModel.from_pretrained(base, folder).state_dict()), plain(job))


def test_a_base_without_adapters_is_refused() -> None:
    job = job_of("gpt2", base=True)
    with pytest.raises(WorkloadError, match=r"job a: `base` is true, and its model is no PeftModel but GPT2LMHead"):
        trace(job, open_data(job).microbatch(0, 0))


# -- files --------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("job", [job_of("net"), job_of("gpt2", precision="bf16"), job_of("adapted", base=True)])
def test_all_files_have_the_mode_that_the_umask_says(job: Job, tmp_path: Path) -> None:
    trained(job, tmp_path / "run")
    files = [each for each in (tmp_path / "run").rglob("*") if each.is_file()]
    assert len(files) >= 4
    assert {each.name: oct(each.stat().st_mode & 0o777) for each in files} == dict.fromkeys(
        (each.name for each in files), "0o640"
    )


def test_making_the_loss_leaves_a_model_as_it_is() -> None:
    """Asking for names calls no `get_extra_state`, which may fail on fake tensors, and leaves none behind."""
    model = make_loss(job_of("extra", arguments={"kind": "fails"})).model
    assert "_extra_state" not in saved_names(model)
    with pytest.raises(ValueError, match="not now"):
        model.state_dict()
