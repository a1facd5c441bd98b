"""Models that ask about values, as transformers does of masks and positions, and data whose answers differ."""

from __future__ import annotations

import warnings

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN = {
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 6},
    "Qwen2": {"num_key_value_heads": 2},
    "Gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "Phi": {"attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "GPTNeoX": {"attention_dropout": 0.0, "hidden_dropout": 0.0},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
}


def language_model(
    family: str, cache: bool = False, checkpointing: str = "", attention: str = "sdpa"
) -> transformers.PreTrainedModel:
    """A tiny causal model with the settings that people give; `checkpointing`: "", "reentrant" or "plain"."""
    config = getattr(transformers, f"{family}Config")(**SMALL, **OWN[family], use_cache=cache)
    config._attn_implementation = attention
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    if checkpointing:
        with warnings.catch_warnings():  # its name of old, which everybody knows
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
    return model


class Sentences:
    """Rows of 8 tokens. mask: "" none, "ones", "padded" in each batch, "sometimes" in one row of sixteen."""

    def __init__(self, mask: str, positions: str) -> None:
        self.tokens = torch.randint(3, 61, (16, 8), generator=torch.Generator().manual_seed(3))
        self.mask, self.positions = mask, positions

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = {"input_ids": self.tokens[index], "labels": self.tokens[index].clone()}
        hidden = {"padded": index % 3 + 1, "sometimes": 3 * (index == 11)}.get(self.mask, 0)
        if self.mask:
            item["attention_mask"] = (torch.arange(8) < 8 - hidden).long()
        if self.positions == "plain":
            item["position_ids"] = torch.arange(8)
        if self.positions == "packed":
            item["position_ids"] = torch.cat([torch.arange(3), torch.arange(5)])
        return item


def sentences(mask: str = "", positions: str = "") -> Sentences:
    return Sentences(mask, positions)


class Asks(nn.Module):
    """Goes one way or another by what it is asked to ask of."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of
        self.embedding, self.one, self.other = nn.Embedding(61, 16), nn.Linear(16, 61), nn.Linear(16, 61)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embedding(input_ids)
        if self.of == "shapes" and bool((torch.arange(input_ids.shape[1]).diff() == 1).all()):
            return self.one(hidden)
        if self.of == "mask" and attention_mask.bool().all():
            return self.one(hidden)
        if self.of == "item" and (attention_mask == 1).all().item():
            return self.one(hidden)
        if self.of == "trained" and (hidden > 0).all():
            return self.one(hidden)
        return self.other(hidden)


def asks(of: str) -> Asks:
    return Asks(of)


def next_token(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(
        model(batch["input_ids"], batch["attention_mask"]).flatten(0, 1), batch["labels"].flatten()
    )
