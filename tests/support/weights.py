"""What a run saved, as its class loads it."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from safetensors.torch import load_file
from torch import Tensor


def saved_state(folder: Path) -> dict[str, Tensor]:
    """The state_dict of a folder of weights: a model of transformers by `from_pretrained`, which knows the names that
    the file has others for, and the tied ones that it leaves out."""
    config = folder / "config.json"
    if not config.exists():
        return load_file(folder / "model.safetensors")
    (name,) = json.loads(config.read_text())["architectures"]
    return dict(getattr(transformers, name).from_pretrained(folder).state_dict())
