"""What a run saved, as its class loads it; adapters where their base is saved with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hydraplan.runtime.saving.plain import read_state

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
        return read_state(folder)
    return dict(_of_transformers(folder).state_dict())


def _of_transformers(folder: Path) -> PreTrainedModel:
    config = folder / "config.json"
    import transformers

    (name,) = json.loads(config.read_text())["architectures"]
    return getattr(transformers, name).from_pretrained(folder)  # type: ignore[no-any-return]
