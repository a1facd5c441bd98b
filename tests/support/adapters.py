"""Models with frozen weights and small trained parts, as a user's callables.

lora_llama     transformers' Llama with low-rank adapters of our own beside some projections
peft_llama     the same with peft's
guided         frozen parts before, between and beside the adapters: shards without a backward amid others
"""

from __future__ import annotations

import torch
from support.models import LLAMA, TOKENS
from torch import Tensor, nn


class Adapted(nn.Module):
    """A linear layer as it is, and a low-rank product that is trained beside it."""

    def __init__(self, base: nn.Linear, rank: int, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, value: Tensor) -> Tensor:
        return self.base(value) + self.up(self.down(self.dropout(value)))


def freeze(model: nn.Module) -> None:
    """Of all parameters those of adapters alone are trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".down." in name or ".up." in name)


def lora_llama(
    rank: int = 2, dropout: float = 0.0, layers: int = 2, first: int = 1, trained: str = "adapters"
) -> nn.Module:
    """Adapters from layer `first` on: what comes before needs no backward. `trained`: "adapters", or "all"."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**LLAMA | {"num_hidden_layers": layers}))
    for layer in model.model.layers[first:]:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, Adapted(getattr(layer.self_attn, name), rank, dropout))
    if trained == "adapters":
        freeze(model)
    return model


def peft_llama(dropout: float = 0.0, layers: int = 2) -> nn.Module:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**LLAMA | {"num_hidden_layers": layers}))
    adapters = LoraConfig(
        r=2,
        lora_dropout=dropout,
        init_lora_weights=False,
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=list(range(1, layers)),
    )
    return get_peft_model(model, adapters)  # type: ignore[no-any-return]


class Guided(nn.Module):
    """A trained chain that reads, late, what a frozen branch made of the tokens."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.first = Adapted(nn.Linear(width, width), 2, 0.0)
        self.guide = nn.Embedding(TOKENS, width)
        self.turn = nn.Linear(width, width)
        self.second = Adapted(nn.Linear(width, width), 2, 0.0)
        self.head = nn.Linear(width, width)
        freeze(self)

    def forward(self, tokens: Tensor) -> Tensor:
        value = torch.tanh(self.first(self.embed(tokens)))
        guide = torch.tanh(self.turn(self.guide(tokens)))
        value = torch.tanh(self.second(value * guide))
        return self.head(value) + guide
