"""A model of one's own: its state_dict in one file, which `safetensors.torch.load_model` reads into such a model.

state_dict   head.weight (tied to embed.weight), embed.weight
file         embed.weight;  metadata: head.weight -> embed.weight
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "model.safetensors"
METADATA = {"format": "pt"}


def write_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state_dict as safetensors' `save_model` writes it: of tied names the first, in alphabetical order, and
    in the metadata which name stands for which. Raises OSError or SafetensorError."""
    first: dict[int, str] = {}
    tied = {}
    for name in sorted(state):
        value = state[name]
        kept = first.setdefault(value.data_ptr(), name) if value.numel() else name
        if kept != name:
            tied[name] = kept
    alone = {name: value.contiguous() for name, value in state.items() if name not in tied}
    save_file(alone, folder / WEIGHTS, metadata=METADATA | tied)


def read_state(folder: Path) -> dict[str, Tensor]:
    """The state_dict that `write_state` was given: tied names share a tensor."""
    state = load_file(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, "pt") as file:
        tied = {name: kept for name, kept in file.metadata().items() if name not in METADATA}
    return state | {name: state[kept] for name, kept in tied.items()}
