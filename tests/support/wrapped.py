"""Models as users give them to be trained, of which the saved ones have to load: wrapped, tied, with more state."""

from __future__ import annotations

import torch
from support.models import GPT2, LLAMA, NO_DROPOUT, TOKENS
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

WIDTH = 16


class OneRow:
    """A data set of one item, again and again: a step's batch is that of any other."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.arange(8) * 3 % TOKENS
        return {"input_ids": tokens, "labels": tokens.clone()}


def one_row() -> OneRow:
    return OneRow()


class Net(nn.Module):
    """Its own submodule is called `module`, as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.module = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.relu(self.module(self.embed(tokens))))


def net() -> nn.Module:
    return Net()


def compiled() -> nn.Module:
    return torch.compile(Net())  # type: ignore[return-value]


def parallel() -> nn.Module:
    return nn.DataParallel(Net())


def compiled_parallel() -> nn.Module:
    return torch.compile(nn.DataParallel(Net()))  # type: ignore[return-value]


def inner() -> nn.Module:
    made = Net()
    made.module = torch.compile(made.module)  # type: ignore[assignment]
    made.out = nn.DataParallel(made.out)  # type: ignore[assignment]
    return made


def checkpointed() -> nn.Module:
    made = Net()
    made.module = checkpoint_wrapper(torch.compile(made.module))  # type: ignore[assignment, arg-type]
    made.out = checkpoint_wrapper(made.out)  # type: ignore[assignment]
    return made


class Tied(nn.Module):
    """A whole layer under two names, a weight under three, one of which comes before that which owns it."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(WIDTH, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = self.first
        self.embed = nn.Embedding(WIDTH * 3, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH * 3, bias=False)
        self.head.weight = self.embed.weight
        self.a_head = nn.Linear(WIDTH, WIDTH * 3)
        self.a_head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.second(torch.tanh(self.first(self.embed(tokens))))
        return self.again((self.head(value) + self.a_head(value))[..., :WIDTH])


def tied() -> nn.Module:
    return Tied()


class Extra(Net):
    """State of its own, which follows from what is trained."""

    def __init__(self, kind: str = "tensor") -> None:
        super().__init__()
        self.kind = kind
        self.restored: object = None

    def get_extra_state(self) -> object:
        if self.kind == "fails":
            raise ValueError("not now")
        largest = self.out.weight.detach().abs().max()
        return largest.reshape(1) if self.kind == "tensor" else {"largest": float(largest)}

    def set_extra_state(self, state: object) -> None:
        self.restored = state


def extra(kind: str = "tensor") -> nn.Module:
    return Extra(kind)


# -- of libraries ---------------------------------------------------------------------------------


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(**GPT2 | NO_DROPOUT))


def compiled_gpt2() -> nn.Module:
    return torch.compile(gpt2())  # type: ignore[return-value]


def part_compiled_gpt2() -> nn.Module:
    made = GPT2LMHeadModel(GPT2Config(**GPT2 | NO_DROPOUT))
    made.transformer.h[1] = torch.compile(made.transformer.h[1])  # type: ignore[assignment]
    return made


def long_gpt2() -> nn.Module:
    """Changed in a way that its class knows of: the configuration says it too."""
    made = GPT2LMHeadModel(GPT2Config(**GPT2 | NO_DROPOUT))
    made.resize_token_embeddings(TOKENS + 8, mean_resizing=False)
    return made


def mixtral() -> nn.Module:
    """A file has each expert on its own, the model has them stacked."""
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(**LLAMA | {"num_hidden_layers": 1, "num_local_experts": 4}))


class OwnConfig(PretrainedConfig):
    model_type = "own-of-the-tests"
    width = WIDTH


class OwnModel(PreTrainedModel):
    """A user's class of transformers."""

    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(TOKENS, config.width)
        self.head = nn.Linear(config.width, TOKENS)
        self.post_init()

    def forward(self, input_ids: Tensor, labels: Tensor) -> CausalLMOutput:
        logits = self.head(self.embed(input_ids))
        return CausalLMOutput(loss=nn.functional.cross_entropy(logits.view(-1, TOKENS), labels.view(-1)))


def own_model() -> nn.Module:
    return OwnModel(OwnConfig())


def changed_llama() -> nn.Module:
    """Of transformers, with a part that its class knows nothing of."""
    made = LlamaForCausalLM(LlamaConfig(**LLAMA))
    made.model.layers[0].mlp.up_proj = nn.Sequential(made.model.layers[0].mlp.up_proj, nn.Identity())
    return made


def adapted(trains: str = "adapters") -> nn.Module:
    """peft's adapters on a Llama; `trains`: also "a norm" of the base, or "the head", as a module to save."""
    from peft import LoraConfig, get_peft_model

    base = LlamaForCausalLM(LlamaConfig(**LLAMA))
    kept = ["lm_head"] if trains == "the head" else None
    made = get_peft_model(
        base,
        LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"], modules_to_save=kept),
    )
    if trains == "a norm":
        base.model.norm.weight.requires_grad_(True)
    return made  # type: ignore[no-any-return]
