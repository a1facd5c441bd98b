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


def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret.json").write_text("{}")
    return path


LINKS: dict[str, Callable[[Path, Path], object]] = {
    "a tokenizer's file": lambda f, out: (f / "tokenizer.json").symlink_to(out / "secret.json"),
    "a folder of templates": lambda f, out: (f / "additional_chat_templates").symlink_to(out),
    "a file deep within": lambda f, out: (
        (f / "additional_chat_templates").mkdir(),
        (f / "additional_chat_templates" / "a.jinja").symlink_to(out / "secret.json"),
    ),
    "weights": lambda f, out: (
        (f / "model.safetensors").rename(out / "w"),
        (f / "model.safetensors").symlink_to("../outside/w"),
    ),
    "the configuration": lambda f, out: (
        (f / "config.json").rename(out / "c"),
        (f / "config.json").symlink_to(out / "c"),
    ),
    "a link that leads nowhere": lambda f, out: (f / "vocab.json").symlink_to("../../nowhere"),
}


@pytest.mark.parametrize("made", LINKS.values(), ids=LINKS)
def test_links_out_of_the_folder_are_refused(made: Callable[[Path, Path], object], tmp_path: Path) -> None:
    out = outside(tmp_path)
    folder = save_checkpoint(tmp_path / "checkpoint", "gpt2")
    (folder / "tokenizer.json").unlink(missing_ok=True)
    made(folder, out)
    for read in (read_config, read_weights, lambda path: files_to_carry(Path(path))):
        with pytest.raises(
            WorkloadError, match=r"has 1 link out of its folder \(.* -> /.*\): copy what is meant into it"
        ):
            read(str(folder))  # type: ignore[operator]


def test_links_within_the_folder_and_a_folder_that_is_a_link_are_fine(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", "gpt2")
    (folder / "model.safetensors").rename(folder / "w.bin")
    (folder / "model.safetensors").symlink_to("w.bin")
    (tmp_path / "latest").symlink_to(folder)
    assert read_weights(str(tmp_path / "latest")) and read_config(str(tmp_path / "latest"))


def test_the_hub_keeps_its_files_beside_a_snapshot(tmp_path: Path) -> None:
    repository = tmp_path / "models--somebody--tiny"
    folder = save_checkpoint(repository / "snapshots" / "607a30", "gpt2")
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(repository / "blobs" / str(number))
        file.symlink_to(f"../../blobs/{number}")
    assert read_weights(str(folder)) and read_config(str(folder))
    (folder / "notes.txt").symlink_to(outside(tmp_path) / "secret.json")
    with pytest.raises(WorkloadError, match=r"1 link out of its folder \(notes.txt -> "):
        read_config(str(folder))


@pytest.mark.parametrize("name", ["../outside/model-00001-of-00002.safetensors", "/etc/hostname"])
def test_an_index_names_files_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", "llama")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WorkloadError, match=r"names .*, which lies out of its folder"):
        read_weights(str(folder))
