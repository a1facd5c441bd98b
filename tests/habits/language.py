"""Ordinary settings of transformers: grouped heads, no cache, gradient checkpointing, masks of ones."""

from __future__ import annotations

from typing import Any

from habits.harness import Case, enter
from torch import nn

SMALL: dict[str, Any] = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
    bos_token_id=0,
    eos_token_id=0,
    pad_token_id=None,
)
GPT2 = dict(
    vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip


def row(kind: str, name: str, path: str, settings: dict[str, Any], masked: bool = False, **more: Any) -> None:
    data = "habits.harness:MaskedTokens" if masked else "habits.harness:Tokens"
    arguments = tuple(sorted((key, value) for key, value in settings.items() if value is not None))
    enter(Case(kind=kind, name=name, expect="equal", path=path, arguments=arguments, data=data, loss=None, **more))


def checkpointed(family: str, reentrant: bool = False) -> nn.Module:
    """As the trainer of transformers does where `gradient_checkpointing` is set."""
    import transformers

    settings = GPT2 if family == "GPT2" else {key: value for key, value in SMALL.items() if value is not None}
    model = getattr(transformers, f"{family}{'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'}")
    made = model(model.config_class(**settings))
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return made


LLAMA, MISTRAL, QWEN = (f"transformers:{name}ForCausalLM" for name in ("Llama", "Mistral", "Qwen2"))

row("grouped heads", "LlamaWithoutACache", LLAMA, SMALL | {"use_cache": False}, microbatches=2)
row("grouped heads", "QwenWithoutACache", QWEN, SMALL | {"use_cache": False, "tie_word_embeddings": True})
row("grouped heads", "OneKeyForAllHeads", MISTRAL, SMALL | {"use_cache": False, "num_key_value_heads": 1})
row("grouped heads", "WithItsCache", LLAMA, SMALL)

row("masks of ones", "LlamaMasked", LLAMA, SMALL, masked=True)
row("masks of ones", "LlamaMaskedWithoutACache", LLAMA, SMALL | {"use_cache": False}, masked=True)
row("masks of ones", "SlidingWindow", MISTRAL, SMALL | {"sliding_window": 4, "use_cache": False}, masked=True)
row("masks of ones", "GPT2Masked", "transformers:GPT2LMHeadModel", GPT2, masked=True)
row(
    "masks of ones",
    "BertMasked",
    "transformers:BertForMaskedLM",
    dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    | dict(max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    masked=True,
)

for name, family in (("Llama", "Llama"), ("Qwen", "Qwen2"), ("GPT2", "GPT2")):
    row("gradient checkpointing", name, "habits.language:checkpointed", {"family": family})
row("gradient checkpointing", "Reentrant", "habits.language:checkpointed", {"family": "Llama", "reentrant": True})
row("gradient checkpointing", "Masked", "habits.language:checkpointed", {"family": "Mistral"}, masked=True)
