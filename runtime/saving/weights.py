"""A job's final weights on disk, as its model's own class loads them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hydraplan.planner.frontend.models.checkpoint import MASTERS, files_to_carry
from hydraplan.planner.frontend.models.quiet import without_advice
from hydraplan.planner.frontend.models.saved import extra_state
from hydraplan.planner.frontend.users.usercode import said
from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.workload import Job
from hydraplan.runtime.memory.store import HostStore
from hydraplan.runtime.saving.adapters import write_adapters
from hydraplan.runtime.saving.modes import as_umask_says
from hydraplan.runtime.saving.plain import METADATA, write_state

LARGEST_FILE = "5GB"
"""A file of weights; a model with more gets several. What saving converts is in memory a file at a time."""


def write_weights(folder: Path, job: Job, store: HostStore) -> tuple[str, ...]:
    """The final state of a job's model, as its class loads it, and what belongs to it beside its weights; returns what
    has to be told of that.

    Raises OSError or SafetensorError where the weights cannot be written, RunError where they are, but not all else.
    """
    folder.mkdir(parents=True)
    masters = store.masters(job.name)
    if masters:
        save_file(masters, folder / MASTERS, metadata=METADATA)
    try:
        return _write_model(folder, job, store)
    finally:
        as_umask_says(folder)


def _write_model(folder: Path, job: Job, store: HostStore) -> tuple[str, ...]:
    form = store.form(job.name)
    notes: tuple[str, ...] = () if form.why is None else (form.why,)
    if form.by == "state_dict":
        extra, unsaved = _extra(job, store)
        write_state(folder, store.state(job.name) | extra)
        return notes + unsaved
    model: Any = store.model(job.name)
    try:
        with without_advice():
            if form.by == "peft":
                state, trained = store.state(job.name), store.trained(job.name)
                notes += write_adapters(folder, model, state, trained, LARGEST_FILE, base=job.base)
            else:
                model.save_pretrained(folder, state_dict=store.state(job.name), max_shard_size=LARGEST_FILE)
    except (OSError, SafetensorError):
        raise
    except Exception as error:  # the class's own code: whatever comes out of it, the weights are not lost
        write_state(folder, store.state(job.name))
        raise RunError(
            f"{type(model).__name__}.save_pretrained failed: {type(error).__name__}: {error}; "
            "model.safetensors holds the state_dict instead"
        ) from error
    if job.checkpoint is not None:
        try:
            _carry_files(Path(job.checkpoint.folder), folder)
        except OSError as error:
            raise RunError(f"its weights are written, but not the tokenizer's files: {error}") from error
    return notes


def _extra(job: Job, store: HostStore) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What modules add to their state (`get_extra_state`), as far as it is tensors; and what is not saved of it."""
    model = store.model(job.name)
    if model is None:
        return {}, ()
    try:
        found = extra_state(model, store.state(job.name))
    except Exception as error:  # the user's own code
        return {}, (f"get_extra_state failed, and nothing of it is saved: {said(error)}",)
    tensors = {name: value.detach() for name, value in found.items() if isinstance(value, Tensor)}
    rest = sorted(found.keys() - tensors.keys())
    if not rest:
        return tensors, ()
    kinds = ", ".join(f"{name} ({type(found[name]).__name__})" for name in rest)
    return tensors, (
        f"not saved, as a file of safetensors holds tensors alone: {kinds}; "
        "return a tensor from get_extra_state, or set it again where the weights are loaded",
    )


def _carry_files(source: Path, folder: Path) -> None:
    for each in files_to_carry(source):
        if each.is_dir():
            shutil.copytree(each, folder / each.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(each, folder / each.name)
