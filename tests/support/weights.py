"""What a run saved, as its class loads it; adapters where their base is saved with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def saved_state(folder: Path) -> dict[str, Tensor]:
    """The state_dict of a folder of weights: a model of transformers by `from_pretrained`, which knows the names that
    the file has others for, and the tied ones that it leaves out."""
    config = folder / "config.json"
    if (folder / "adapter_config.json").exists():
        from peft import PeftModel

        return dict(PeftModel.from_pretrained(_of_transformers(folder / "base"), folder).state_dict())
    if not config.exists():
        return _with_tied(folder / "model.safetensors")
    return dict(_of_transformers(folder).state_dict())


def _with_tied(path: Path) -> dict[str, Tensor]:
    state = load_file(path)
    with safe_open(path, "pt") as file:
        tied = {name: kept for name, kept in file.metadata().items() if name != "format"}
    return state | {name: state[kept] for name, kept in tied.items()}


def _of_transformers(folder: Path) -> PreTrainedModel:
    config = folder / "config.json"
    import transformers

    (name,) = json.loads(config.read_text())["architectures"]
    return getattr(transformers, name).from_pretrained(folder)  # type: ignore[no-any-return]
