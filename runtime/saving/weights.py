"""A job's final weights on disk, as its model's own class loads them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hydraplan.planner.frontend.models.checkpoint import files_to_carry
from hydraplan.planner.frontend.models.quiet import quiet
from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.workload import Job
from hydraplan.runtime.memory.store import HostStore

LARGEST_FILE = "5GB"
"""A file of weights; a model with more gets several. What saving converts is in memory a file at a time."""


def write_weights(folder: Path, job: Job, store: HostStore) -> None:
    """The final state of a job's model, as its class loads it, and what belongs to it beside its weights.

    Raises OSError or SafetensorError where the weights cannot be written, RunError where they are, but not all else.
    """
    folder.mkdir(parents=True)
    masters = store.masters(job.name)
    if masters:
        save_file(masters, folder / "masters.safetensors", metadata={"format": "pt"})
    model: Any = store.model(job.name)
    if model is None:
        _write_state(folder, store.state(job.name))
        return
    try:
        with quiet():
            model.save_pretrained(folder, state_dict=store.state(job.name), max_shard_size=LARGEST_FILE)
    except (OSError, SafetensorError):
        raise
    except Exception as error:  # the class's own code: whatever comes out of it, the weights are not lost
        _write_state(folder, store.state(job.name))
        raise RunError(
            f"{type(model).__name__}.save_pretrained failed: {type(error).__name__}: {error}; "
            "model.safetensors holds the state_dict instead"
        ) from error
    if job.checkpoint is not None:
        try:
            _carry_files(Path(job.checkpoint.folder), folder)
        except OSError as error:
            raise RunError(f"its weights are written, but not the tokenizer's files: {error}") from error


def _write_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """A state_dict as it is; a file knows no tied tensors, so each name gets its own."""
    seen: set[int] = set()
    alone = {}
    for name, value in state.items():
        alone[name] = value.clone() if id(value) in seen else value
        seen.add(id(value))
    save_file(alone, folder / "model.safetensors", metadata={"format": "pt"})


def _carry_files(source: Path, folder: Path) -> None:
    for each in files_to_carry(source):
        if each.is_dir():
            shutil.copytree(each, folder / each.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(each, folder / each.name)
