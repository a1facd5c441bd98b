"""peft's models: adapters as peft saves them, and beside them the model that they adapt, where that is wanted.

folder/
  adapter_config.json, adapter_model.safetensors     PeftModel.from_pretrained(base, folder)
  base/                                              config.json, model.safetensors: the base, without adapters
"""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hydraplan.planner.frontend.models.checkpoint import BASE
from hydraplan.planner.frontend.models.saved import form_of
from hydraplan.runtime.memory.store import alone
from hydraplan.runtime.saving.plain import write_state

Embeddings = bool | Literal["auto"]
"""Whether peft saves embeddings with the adapters."""


def write_adapters(
    folder: Path, model: Any, state: Mapping[str, Tensor], trained: Collection[str], largest_file: str, *, base: bool
) -> tuple[str, ...]:
    """Write a PeftModel's adapters, and with `base` its base; returns what has to be told.

    `state`: the whole model's, under the names of its state_dict; `trained`: those that training has changed. Where
    one of them is no part of an adapter, the base is written in any case: it would be lost.
    """
    embeddings = _embeddings(model)
    with _offline():
        model.save_pretrained(folder, state_dict=dict(state), save_embedding_layers=embeddings)
        lost = sorted(set(trained) - _in_adapters(model, state, embeddings))
    if not base and not lost:
        return ()
    notes = _write_base(folder / BASE, model, largest_file)
    if lost:
        notes += (f"{lost[0]} is trained and no part of an adapter: the base is saved too, in {BASE}/",)
    return notes


def _in_adapters(model: Any, state: Mapping[str, Tensor], embeddings: Embeddings) -> set[str]:
    """Names of what the adapters' files hold."""
    from peft import get_peft_model_state_dict

    saved: set[int] = set()
    for name, config in model.peft_config.items():
        found = get_peft_model_state_dict(model, dict(state), adapter_name=name, save_embedding_layers=embeddings)
        saved.update(value.data_ptr() for value in found.values())
        if config.is_prompt_learning:  # peft saves what its encoder makes
            saved.update(value.data_ptr() for key, value in state.items() if key.startswith("prompt_encoder."))
    return {name for name, value in state.items() if value.data_ptr() in saved}


def _write_base(folder: Path, model: Any, largest_file: str) -> tuple[str, ...]:
    """The base as it was before it got adapters. Its tensors are not copied, and `model` stays as it is."""
    from peft.utils import ModulesToSaveWrapper

    tensors = (*model.parameters(), *model.buffers())
    copied = copy.deepcopy(model, {id(each): each for each in tensors})
    for parent in [*copied.modules()]:
        for name, child in [*parent.named_children()]:
            if isinstance(child, ModulesToSaveWrapper):  # unloading would leave what was trained in its stead
                setattr(parent, name, child.original_module)
    base = copied.get_base_model() if model.active_peft_config.is_prompt_learning else copied.unload()
    state = {name: alone(value) for name, value in base.state_dict().items()}
    folder.mkdir()
    form = form_of(base, as_class_makes_it=False)
    if form.by == "transformers":
        base.save_pretrained(folder, state_dict=state, max_shard_size=largest_file)
    else:
        write_state(folder, state)
    return () if form.why is None else (f"{BASE}: {form.why}",)


def _embeddings(model: Any) -> Embeddings:
    """What peft is told of embeddings: it asks the hub itself where the base is no local folder."""
    for config in model.peft_config.values():
        name = config.base_model_name_or_path
        own: Any = getattr(model, "config", None)
        if not name or os.path.isdir(name) or not hasattr(own, "vocab_size"):
            continue
        try:
            known: Any = own.__class__.from_pretrained(name, local_files_only=True)
        except OSError:
            continue
        if known.vocab_size != own.vocab_size:
            return True
    return "auto"


@contextmanager
def _offline() -> Iterator[None]:
    """peft asks no hub: a run needs no network."""
    name = "HF_HUB_OFFLINE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
