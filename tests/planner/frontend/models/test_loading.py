"""A model from a checkpoint: planned without a weight read, loaded to transformers' own bits, refused where it does
not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import NAMES, checkpoint_job, model_class, save_checkpoint
from support.models import job_of
from torch import Tensor
from torch._subclasses import FakeTensorMode

from hydraplan.planner.frontend.models import loading
from hydraplan.planner.frontend.models.loading import empty_model, load_model, read_into
from hydraplan.planner.frontend.shards.build import Known, build, same_graph_cause
from hydraplan.planner.frontend.tracing.trace import named_tensors, trace
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Job, Value


def microbatch(job: Job) -> dict[str, Tensor]:
    return open_data(job).microbatch(0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_those_of_from_pretrained(name: str, tmp_path: Path) -> None:
    job = checkpoint_job(save_checkpoint(tmp_path, name), name)
    loaded = load_model(job)
    expected = model_class(name).from_pretrained(tmp_path, dtype=torch.float32)
    tensors = dict(named_tensors(loaded.model))
    assert list(tensors) == [each for each, _ in named_tensors(expected)]
    for tied in {id(tensors[each]): each for each in loaded.stored}.values():
        read_into(tensors[tied], loaded.stored[tied])
    for each, value in named_tensors(expected):
        assert tensors[each].dtype == value.dtype and torch.equal(tensors[each], value), each
    converted = {each for each in tensors if each not in loaded.stored and tensors[each].ndim == 3}
    assert len(converted) == (2 if name == "mixtral" else 0)


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_planning_reads_no_weights_and_execution_finds_the_planned_graph(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = checkpoint_job(save_checkpoint(tmp_path, name), name)
    batch = microbatch(job)
    _, built = build(job, batch)

    def unreadable(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(loading, "_read", unreadable)
    assert trace(job, batch).digest == built.digest


def test_a_known_graph_is_taken_and_constants_are_its_own(tmp_path: Path) -> None:
    first = checkpoint_job(save_checkpoint(tmp_path / "a", "gpt2"), "gpt2")
    second = checkpoint_job(save_checkpoint(tmp_path / "b", "gpt2", seed=12), "gpt2", seed=5)
    batch = microbatch(first)
    assert same_graph_cause(first, batch) == same_graph_cause(second, batch), "one architecture and size: one graph"
    model, traced = build(first, batch)
    other, again = build(second, batch, known=Known.of(first, model, traced))
    assert again is traced
    assert other.stored.keys() == model.stored.keys() and other.stored != model.stored
    changed = save_checkpoint(tmp_path / "c", "gpt2", n_layer=1)
    assert same_graph_cause(first, batch) != same_graph_cause(checkpoint_job(changed, "gpt2"), batch)


def test_own_values_go_over_the_checkpoints(tmp_path: Path) -> None:
    job = checkpoint_job(save_checkpoint(tmp_path, "gpt2"), "gpt2")
    dropping = replace(job, model=replace(job.model, arguments=(("resid_pdrop", 0.5),)))
    assert empty_model(dropping).model.config.resid_pdrop == 0.5
    assert same_graph_cause(job, {}) != same_graph_cause(dropping, {})
    unknown = replace(job, model=replace(job.model, arguments=(("resid_drop", 0.5),)))
    with pytest.raises(WorkloadError, match=r"config.json: GPT2Config has no value 'resid_drop'; did you mean 'res"):
        empty_model(unknown)


MISFITS: dict[str, tuple[dict[str, Value], dict[str, object], str]] = {
    "shape": (
        {"n_embd": 64},
        {},
        r"ln_f.weight is \(32,\) in the checkpoint and \(64,\) in the model|and \d+ more: give",
    ),
    "unexpected": (
        {"n_layer": 1},
        {},
        r"it holds transformer.h.1.\S+, .* and 6 more, which the model has not: name ano",
    ),
    "missing": (
        {"n_layer": 3},
        {},
        r"it lacks transformer.h.2.\S+, .* and 7 more: name another architecture, or name t",
    ),
    "idle": ({}, {"initialise": ("x",)}, r"`initialise` names x, which it does not lack: take them out"),
    "ignored": ({}, {"ignore": ("transformer.wpe.weight",)}, r"it lacks transformer.wpe.weight: name another arch"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused(what: str, tmp_path: Path) -> None:
    arguments, named, says = MISFITS[what]
    job = checkpoint_job(save_checkpoint(tmp_path, "gpt2"), "gpt2", **named)
    job = replace(job, model=replace(job.model, arguments=tuple(arguments.items())))
    with pytest.raises(WorkloadError, match=says) as caught, FakeTensorMode(allow_non_fake_inputs=True):
        empty_model(job)
    assert f"checkpoint {tmp_path} does not fit the model" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"dtype": "F8_E4M3"},
            r"model.safetensors holds transformer.ln_f.bias in dtype F8_E4M3, which cannot be t",
        ),
        ({"shape": [16]}, r"transformer.ln_f.bias in 128 bytes, and its F32 \(16,\) takes 64: copy it again"),
    ],
)
def test_a_header_that_cannot_be_is_refused(change: dict[str, object], says: str, tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, "gpt2") / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["transformer.ln_f.bias"] |= change
    changed = json.dumps(header).encode()
    file.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(WorkloadError, match=says):
        empty_model(checkpoint_job(tmp_path, "gpt2"))


def test_a_tied_tensor_that_is_there_twice_is_the_users_to_decide(tmp_path: Path) -> None:
    """transformers compares the two, which would read them while planning, and before they are in their places."""
    file = save_checkpoint(tmp_path, "gpt2") / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}, file, metadata={"format": "pt"})
    job = checkpoint_job(tmp_path, "gpt2")
    with pytest.raises(WorkloadError, match=r"holds both transformer.wte.weight and lm_head.weight, which its config"):
        trace(job, microbatch(job))
    tied = load_model(checkpoint_job(tmp_path, "gpt2", ignore=("lm_head.weight",)))
    assert tied.stored["lm_head.weight"].name == "transformer.wte.weight"
    assert tied.model.lm_head.weight is tied.model.transformer.wte.weight
    untied = load_model(replace(job, model=replace(job.model, arguments=(("tie_word_embeddings", False),))))
    assert untied.stored["lm_head.weight"].name == "lm_head.weight"
    assert untied.stored["transformer.wte.weight"].name == "transformer.wte.weight"


def test_what_a_class_reads_while_it_loads_is_there(tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, "gpt2") / "model.safetensors"
    loaded = load_model(checkpoint_job(tmp_path, "gpt2", architecture="support.checkpoints:ReadsAWeight"))
    assert not {"transformer.wte.weight", "lm_head.weight", "transformer.ln_f.bias"} & set(loaded.stored)
    assert "transformer.ln_f.weight" in loaded.stored
    before = load_file(file)
    expected = before["transformer.wte.weight"] + before["transformer.ln_f.bias"].mean() + 1
    assert torch.equal(loaded.model.transformer.wte.weight, expected)


def test_named_tensors_start_under_the_seed_and_others_are_left_out(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "llama")
    job = checkpoint_job(
        folder,
        "llama",
        architecture="LlamaForSequenceClassification",
        initialise=("score.weight",),
        ignore=("lm_head.weight",),
    )
    scores = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loaded = load_model(replace(job, seed=seed))
        assert "score.weight" not in loaded.stored and "model.norm.weight" in loaded.stored
        scores.append(loaded.model.score.weight.clone())
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_callable_may_put_adapters_on_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    job = checkpoint_job(save_checkpoint(tmp_path, "gpt2"), "gpt2")
    job = replace(job, checkpoint=None, model=job_of("support.checkpoints:adapted", {"folder": str(tmp_path)}).model)
    planned, (model, traced) = trace(job, microbatch(job)), build(job, microbatch(job))
    assert traced.digest == planned.digest
    assert all("lora" in each.name for each in traced.placeholders if each.trainable)
    stored = load_file(tmp_path / "model.safetensors")
    name = "transformer.h.1.attn.c_attn"
    assert torch.equal(model.tensors[f"base_model.model.{name}.base_layer.weight"], stored[f"{name}.weight"])


def test_a_class_that_loads_no_checkpoint_is_refused(tmp_path: Path) -> None:
    job = checkpoint_job(save_checkpoint(tmp_path, "gpt2"), "gpt2")
    for path, says in (
        ("support.tinylm:skipper", "loads no checkpoint: name a model class"),
        (
            "transformers:GPT2LMHeadModell",
            "/config.json, `architectures` .*: .* has no 'GPT2LMHeadModell'; did you mean 'GPT2LMHeadModel'",
        ),
    ):
        with pytest.raises(WorkloadError, match=says):
            empty_model(replace(job, model=job_of(path, {}).model))
