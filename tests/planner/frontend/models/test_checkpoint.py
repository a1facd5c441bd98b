"""A checkpoint's folder: what it says without a weight read, what is wrong with it, what a plan is bound to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from support.checkpoints import NAMES, save_checkpoint

from hydraplan.planner.frontend.models.checkpoint import (
    architecture,
    digests,
    files_to_carry,
    read_config,
    read_weights,
)
from hydraplan.plans.language.errors import WorkloadError


@pytest.mark.parametrize("name", NAMES)
def test_headers_say_where_each_tensor_lies(name: str, tmp_path: Path) -> None:
    weights = read_weights(str(save_checkpoint(tmp_path, name)))
    assert (len(weights) > 1) == (name == "llama")
    for each in weights:
        with safe_open(each.file, framework="pt") as file:
            assert set(file.keys()) == set(each.tensors)
            for key, stored in each.tensors.items():
                value = file.get_tensor(key)
                assert stored.shape == tuple(value.shape) and stored.end - stored.begin == value.nbytes


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json: save the model there with save_pretr"),
    "adapter": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        r"holds an adapter \(adapter_config.json\), not a model: merge it into its model and save that",
    ),
    "no json": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read: .* save the model there"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "config.json is no configuration"),
    "no class": (lambda f: edit_config(f, architectures=None), 'names no class in `architectures`: write model = {.*"'),
    "quantized": (lambda f: edit_config(f, quantization_config={}), "holds quantized weights, which cannot be trained"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors nor .*: save the mod"),
    "pickles": (pickle_weights, r"pickled weights \(pytorch_model.bin\), which run code .* save them with save_pretra"),
    "cut short": (
        cut_short,
        r"no whole safetensors file: it ends at byte \d+, before the end of transformer.wte.weight; copy",
    ),
    "not a header": (
        lambda f: (f / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]"),
        "no whole safetensors file",
    ),
    "no header": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "no whole safetensors file: a header of"),
    "nothing": (lambda f: (f / "model.safetensors").write_bytes(b""), "no whole safetensors file: a header of 0 bytes"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_refused_with_what_to_do(what: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "gpt2")
    breaks, says = BROKEN[what]
    breaks(folder)
    with pytest.raises(WorkloadError, match=says):
        architecture(str(folder)), read_weights(str(folder))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"there is no folder .*/nowhere: write the folder of a local checkpoint"):
        read_config(str(tmp_path / "nowhere"))


def test_a_sharded_checkpoint_is_whole_or_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "llama")
    first, second, *rest = sorted(folder.glob("model-*"))
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(
        WorkloadError, match=rf"lacks {first.name}, 1 of its {2 + len(rest)} files of weights: copy the"
    ):
        read_weights(str(folder))
    first.write_bytes(second.read_bytes())
    with pytest.raises(WorkloadError, match=r"says that .* lies in .*, and it does not .* of different checkpoints"):
        read_weights(str(folder))
    first.write_bytes(kept)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(WorkloadError, match=r"index.json cannot be read"):
        read_weights(str(folder))


def test_digests_see_configuration_size_names_and_bytes(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "a", "llama")
    before = dict(digests(str(folder)))
    assert before == dict(digests(str(save_checkpoint(tmp_path / "same", "llama"))))
    edit_config(folder, attention_dropout=0.5)
    config = dict(digests(str(folder)))
    assert [file for file in before if config[file] != before[file]] == ["config.json"]
    other = dict(digests(str(save_checkpoint(tmp_path / "b", "llama", seed=12))))
    assert [file for file in before if other[file] == before[file]] == ["config.json"]


def test_what_lies_next_to_weights_is_carried_but_no_weights(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, "llama")
    for name in ("optimizer.pt", "training_args.bin", "README.md", ".gitattributes", "trainer_state.json"):
        (folder / name).write_text("x")
    (folder / "chat_template.jinja").write_text("x")
    (folder / "checkpoint-500").mkdir()
    assert [each.name for each in files_to_carry(folder)] == [
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
