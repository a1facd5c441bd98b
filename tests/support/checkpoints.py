"""Tiny checkpoints, saved by transformers itself, each with a tokenizer made offline; and jobs that start from them.

gpt2        its head is tied to its embedding
mixtral     a file has each expert on its own, the model has them stacked
llama       over several files, in bfloat16
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from support.models import GPT2, LLAMA, NO_DROPOUT, TOKENS
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from hydraplan.plans.language.workload import Checkpoint, Job, Target, Value

MIXTRAL: dict[str, Value] = {**LLAMA, "num_hidden_layers": 1, "num_local_experts": 4}
NAMES = ("gpt2", "mixtral", "llama")
CLASSES = {"gpt2": "GPT2LMHeadModel", "mixtral": "MixtralForCausalLM", "llama": "LlamaForCausalLM"}
CONFIGS: dict[str, dict[str, Value]] = {
    "gpt2": {**GPT2, **NO_DROPOUT},
    "mixtral": MIXTRAL,
    "llama": {**LLAMA, "bos_token_id": 0, "eos_token_id": 0},
}


class ReadsAWeight(transformers.GPT2LMHeadModel):
    """A class whose loading depends on a value, and changes another."""

    @classmethod
    def from_pretrained(cls, *arguments: object, **named: object) -> object:
        model, report = super().from_pretrained(*arguments, **named)
        with torch.no_grad():
            model.transformer.wte.weight += model.transformer.ln_f.bias.mean() + 1
        return model, report


def adapted(folder: str) -> nn.Module:
    """A user's callable: peft's adapters on a checkpoint that it loads itself."""
    from peft import LoraConfig, get_peft_model

    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))  # type: ignore[no-any-return]


def model_class(name: str) -> type[transformers.PreTrainedModel]:
    return getattr(transformers, CLASSES[name])


def save_checkpoint(folder: Path, name: str, *, seed: int = 11, **more: Value) -> Path:
    """A checkpoint with a tokenizer; `more` changes its configuration."""
    made = model_class(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = made(made.config_class(**{**CONFIGS[name], **more}))
    if name == "llama":
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="30KB" if name == "llama" else "5GB")
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(TOKENS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    return folder


def checkpoint_job(folder: Path, name: str, *, job: str = "a", architecture: str | None = None, **more: object) -> Job:
    """A job that starts from a checkpoint; `more` are fields of `Job`, and `initialise` and `ignore`."""
    architecture = architecture or CLASSES[name]
    checkpoint = Checkpoint(
        folder=str(folder),
        initialise=more.pop("initialise", ()),
        ignore=more.pop("ignore", ()),  # type: ignore[arg-type]
    )
    fields: dict[str, object] = dict(
        name=job,
        model=Target(path=architecture if ":" in architecture else f"transformers:{architecture}"),
        data=Target(path="support.tinylm:tokens", arguments=(("vocabulary", TOKENS),)),
        loss=None,
        optimizer=Target(path="AdamW", arguments=(("lr", 1e-2),)),
        steps=3,
        batch_size=4,
        microbatches=1,
        seed=3,
        threads=1,
        precision="fp32",
        checkpoint=checkpoint,
    )
    return Job(**{**fields, **more})  # type: ignore[arg-type]
