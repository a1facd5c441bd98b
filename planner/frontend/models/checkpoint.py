"""A local checkpoint, as transformers saves it: what its folder holds, read without reading a weight.

    folder/
      config.json                        the model's configuration; "architectures" names its class
      model.safetensors                  all weights, or
      model-00001-of-00002.safetensors   some of them each, and
      model.safetensors.index.json       which lies where
      tokenizer.json, ...                what is carried along to the results

A safetensors file is 8 bytes (length of the header), the header (JSON: name -> dtype, shape, offsets), the tensors'
bytes. Files of pickles are refused: reading one runs whatever its author wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydraplan.planner.frontend.models.links import refuse_links_out, refuse_path_out
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.quantities import format_bytes

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MASTERS = "masters.safetensors"
"""What a job in bf16 saves beside its weights: the fp32 masters of its trained parameters."""
BASE = "base"
"""Folder within that of adapters: the model that they adapt."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
NOT_CARRIED = (*PICKLES, ".safetensors", ".index.json", ".h5", ".msgpack", ".gguf", ".onnx")
"""Endings of weights in any form: results have their own."""
NOT_TRUE_ANY_MORE = (CONFIG, "README.md", "trainer_state.json")
"""Written anew, or about another training."""
SAMPLE_BYTES = 4096
MOST_SAMPLES = 4096
"""Of a file: samples lie in the middle of so many tensors, evenly over the file."""
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where a tensor lies."""

    name: str
    file: Path
    dtype: str
    """As safetensors writes it: `F32`, `BF16`."""
    shape: tuple[int, ...]
    begin: int
    end: int
    """Bytes of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One safetensors file."""

    file: Path
    size_bytes: int
    header: bytes
    tensors: Mapping[str, Stored]


def read_config(folder: str) -> dict[str, Any]:
    """The configuration of a checkpoint. Raises WorkloadError where the folder holds none."""
    path = Path(folder)
    if not path.is_dir():
        raise WorkloadError(
            f"there is no folder {path}: write the folder of a local checkpoint, "
            "or package.module:callable for a model that starts from nothing"
        )
    refuse_links_out(path)
    if (path / ADAPTER).exists():
        raise WorkloadError(
            f"{path} holds an adapter ({ADAPTER}), not a model: merge it into its model and save that with "
            "save_pretrained, or write a package.module:callable that loads both"
        )
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkloadError(f"{path} has no {CONFIG}: save the model there with save_pretrained") from None
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{path / CONFIG} cannot be read: {error}; save the model there anew") from None
    if not isinstance(config, dict):
        raise WorkloadError(f"{path / CONFIG} is no configuration: it has to be an object")
    if "quantization_config" in config:
        raise WorkloadError(
            f"{path} holds quantized weights, which cannot be trained: name the checkpoint that they were made from"
        )
    return config


def architecture(folder: str) -> str:
    """The class that the checkpoint was saved from. Raises WorkloadError where the configuration does not say."""
    named = read_config(folder).get("architectures")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise WorkloadError(
            f"{Path(folder) / CONFIG} names no class in `architectures`: "
            'write model = { checkpoint = "...", architecture = "ClassName" }'
        )
    return named[0]


def read_weights(folder: str) -> tuple[Weights, ...]:
    """The headers of a checkpoint's safetensors files, by name. Raises WorkloadError where one is missing or broken."""
    path = Path(folder)
    refuse_links_out(path)
    if (path / WEIGHTS).is_file():
        return (read_header(path / WEIGHTS),)
    if (path / INDEX).is_file():
        return _read_shards(path)
    pickled = sorted(each.name for each in path.glob("*") if each.suffix in PICKLES and "model" in each.name)
    if pickled:
        raise WorkloadError(
            f"{path} holds pickled weights ({', '.join(pickled[:3])}), which run code when they are read, and no "
            f"{WEIGHTS}: load them where you trust them, with from_pretrained, and save them with save_pretrained"
        )
    raise WorkloadError(f"{path} has neither {WEIGHTS} nor {INDEX}: save the model there with save_pretrained")


def _read_shards(path: Path) -> tuple[Weights, ...]:
    try:
        placed = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(placed.values()))
        for name in files:
            refuse_path_out(path, name)
        missing = [name for name in files if not (path / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkloadError(f"{path / INDEX} cannot be read: {type(error).__name__}: {error}") from None
    if missing:
        raise WorkloadError(
            f"{path} lacks {', '.join(missing[:3])}, {len(missing)} of its {len(files)} files of weights: "
            "copy the whole checkpoint"
        )
    read = tuple(read_header(path / name) for name in files)
    where = {name: each.file.name for each in read for name in each.tensors}
    wrong = sorted(name for name, file in placed.items() if where.get(name) != file)
    if wrong:
        raise WorkloadError(
            f"{path / INDEX} says that {wrong[0]} lies in {placed[wrong[0]]}, and it does not "
            f"({len(wrong)} such): index and files are of different checkpoints; copy the whole checkpoint"
        )
    return read


def read_header(path: Path) -> Weights:
    """The header of a safetensors file. Raises WorkloadError where it is none, or not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = file.read(length)
        tensors = {
            name: Stored(
                name=name,
                file=path,
                dtype=each["dtype"],
                shape=tuple(each["shape"]),
                begin=8 + length + each["data_offsets"][0],
                end=8 + length + each["data_offsets"][1],
            )
            for name, each in json.loads(header).items()
            if name != "__metadata__"
        }
        lacking = sorted((each.begin, each.name) for each in tensors.values() if each.end > size)
        if lacking:
            raise ValueError(f"it ends at byte {size}, before the end of {lacking[0][1]}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WorkloadError(f"{path} is no whole safetensors file: {error}; copy it again") from None
    return Weights(file=path, size_bytes=size, header=header, tensors=tensors)


def files_to_carry(folder: Path) -> list[Path]:
    """What lies next to the weights and belongs to the model still: tokenizer, processor, generation settings.

    Raises WorkloadError where a link leads out of the folder."""
    refuse_links_out(folder)
    return sorted(
        each
        for each in folder.iterdir()
        if not each.name.startswith(".")
        and not each.name.endswith(NOT_CARRIED)
        and each.name not in NOT_TRUE_ANY_MORE
        and (each.is_file() or each.name == "additional_chat_templates")
    )


# -- what a plan is bound to --------------------------------------------------------------------------


def digests(folder: str) -> Iterator[tuple[str, str]]:
    """(file, digest) of configuration and weights.

    Of weights: size, header, and a sample of the bytes of each tensor (of some thousands in a file), so that terabytes
    need not be read. A change of single numbers elsewhere is not seen.
    """
    config = json.dumps(read_config(folder), sort_keys=True)
    yield CONFIG, sha256(config.encode()).hexdigest()
    masters = Path(folder) / MASTERS
    for each in (*read_weights(folder), *([read_header(masters)] if masters.is_file() else [])):
        yield each.file.name, f"{format_bytes(each.size_bytes)}, sampled {_sampled(each)}"


def _sampled(weights: Weights) -> str:
    digest = sha256(f"{weights.size_bytes}".encode())
    digest.update(weights.header)
    places = sorted((each.begin, each.end) for each in weights.tensors.values())
    every = -(-len(places) // MOST_SAMPLES) or 1
    with weights.file.open("rb", buffering=0) as file:
        for begin, end in places[::every]:
            file.seek(max(begin, (begin + end - SAMPLE_BYTES) // 2))
            digest.update(file.read(min(SAMPLE_BYTES, end - begin)))
    return digest.hexdigest()


def absolute(folder: str, relative_to: Path) -> str:
    """A checkpoint's folder as a workload names it, wherever the plan is replayed."""
    return os.path.abspath(relative_to / Path(folder).expanduser())
