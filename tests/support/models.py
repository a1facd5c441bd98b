"""Tiny models for tests, as jobs: each with a batch of its own shapes.

gpt2, gpt2_dropout, llama, t5, bert    transformers, a few thousand parameters
skips                                  a value that skips over all shards, a parameter used in several places
adversarial                            strides, in-place operators, views, reused values, integer values
statistics                             buffers that the forward updates
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hydraplan.plans.language.workload import Job, Target, Value

TOKENS = 48


def job_of(
    path: str,
    arguments: Mapping[str, Value],
    *,
    name: str = "job",
    loss: str | None = None,
    microbatches: int = 1,
    batch_size: int = 2,
    seed: int = 7,
    steps: int = 3,
) -> Job:
    """A job with defaults for everything that tests rarely change."""
    return Job(
        name=name,
        model=Target(path=path, arguments=tuple(sorted(arguments.items()))),
        data=Target(path="support.models:no_data"),
        loss=None if loss is None else Target(path=loss),
        optimizer=Target(path="AdamW", arguments=(("lr", 0.01),)),
        steps=steps,
        batch_size=batch_size,
        microbatches=microbatches,
        seed=seed,
        threads=1,
        precision="fp32",
    )


GPT2: dict[str, Value] = {
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 2,
    "vocab_size": TOKENS,
    "n_positions": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
NO_DROPOUT: dict[str, Value] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LLAMA: dict[str, Value] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "vocab_size": TOKENS,
    "max_position_embeddings": 16,
}
T5: dict[str, Value] = {
    "num_layers": 2,
    "d_model": 32,
    "num_heads": 2,
    "d_kv": 16,
    "d_ff": 48,
    "vocab_size": TOKENS,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
BERT: dict[str, Value] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": TOKENS,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def gpt2(*, dropout: bool = False, microbatches: int = 1, **others: Value) -> Job:
    """GPT-2 with tied embeddings."""
    arguments = GPT2 | ({} if dropout else NO_DROPOUT) | others
    return job_of("transformers:GPT2LMHeadModel", arguments, name="gpt2", microbatches=microbatches)


def mixtral() -> Job:
    """Grouped heads, and experts of which each token takes two."""
    arguments = LLAMA | {"num_key_value_heads": 2, "num_local_experts": 4, "num_hidden_layers": 1}
    return job_of("transformers:MixtralForCausalLM", arguments, name="mixtral")


def jobs() -> dict[str, Job]:
    """All models without dropout, by name."""
    loss = "support.models:squared_error"
    return {
        "gpt2": gpt2(),
        "llama": job_of("transformers:LlamaForCausalLM", LLAMA, name="llama"),
        "t5": job_of("transformers:T5ForConditionalGeneration", T5, name="t5"),
        "bert": job_of("transformers:BertForMaskedLM", BERT, name="bert"),
        "skips": job_of("support.models:Skips", {}, name="skips", loss=loss),
        "recurrent": job_of("support.models:Recurrent", {}, name="recurrent", loss=loss),
        "cast": job_of("support.models:Cast", {}, name="cast", loss=loss),
        "adversarial": job_of("support.models:Adversarial", {}, name="adversarial", loss=loss),
        "statistics": job_of("support.models:Statistics", {}, name="statistics", loss=loss),
    }


def batch_for(job: Job, step: int = 0, microbatch: int = 0) -> dict[str, Tensor]:
    """A microbatch of random values, the same for the same step and number."""
    generator = torch.Generator().manual_seed(1000 * step + microbatch)
    size = job.batch_size
    if job.loss is not None:
        return {
            "tokens": torch.randint(0, TOKENS, (size, 8), generator=generator),
            "target": torch.randn(size, 8, 16, generator=generator),
        }
    tokens = torch.randint(0, TOKENS, (size, 12), generator=generator)
    return {"input_ids": tokens, "labels": tokens.clone()}


def no_data() -> None:
    """Named by jobs whose batches come from `batch_for`."""
    raise AssertionError("these jobs have no data set")


def squared_error(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """A loss that calls the model with its tokens."""
    return nn.functional.mse_loss(model(batch["tokens"]), batch["target"])


class Skips(nn.Module):
    """An early value read by every later layer, and one weight used in all of them."""

    def __init__(self, width: int = 16, depth: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.shared = nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        first = self.embed(tokens)
        value = first
        for layer in self.layers:
            value = torch.tanh(layer(value) + first * 0.3) + self.shared(value) * torch.sigmoid(first)
        return value + first


class Adversarial(nn.Module):
    """What breaks naive cutting: odd strides, expanded values, in-place operators, views, integers, no_grad."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.mix = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width))
        self.frozen = nn.Parameter(torch.linspace(-1, 1, width), requires_grad=False)
        self.register_buffer("table", torch.arange(TOKENS).flip(0))

    def forward(self, tokens: Tensor) -> Tensor:
        table = self.get_buffer("table")
        first = self.embed(tokens)
        other = self.embed(table[tokens])
        chosen = first.detach().mean(-1).argmax(-1)  # integers that depend on weights: they cross cuts
        value = first
        for number, layer in enumerate(self.mix):
            turned = layer(value).transpose(1, 2)  # not contiguous over the next cuts
            wide = self.scale.expand(value.shape[0], value.shape[1], -1)  # strides of 0 over cuts
            sums = turned.sum(1).unsqueeze(-1)  # a sum whose order depends on strides
            halves = turned.transpose(1, 2)[..., ::2]  # every second element
            mixed = torch.relu_(turned.transpose(1, 2) + other * wide)
            canvas = torch.zeros_like(value)
            canvas[..., 2:10] = mixed[..., 2:10]  # a view of memory that is written to
            canvas[:, 0] += value[:, 0]
            with torch.no_grad():
                gate = torch.sigmoid(value.mean(-1, keepdim=True))
            pick = torch.nn.functional.one_hot((chosen + number) % 8, 8).to(value.dtype)
            summed = torch.cat([halves, halves.flip(-1)], -1)
            value = (
                first * 0.1
                + canvas * gate
                + summed * pick.unsqueeze(-1)
                + mixed * self.frozen
                + wide * 0.01
                + sums * 0.1
            )
            value = value + (mixed.T.T if mixed.dim() == 2 else mixed.permute(2, 0, 1).permute(1, 2, 0)) * other
            value = value / (1 + value.abs().amax(-1, keepdim=True))
        return value + other.flip(1)


class Statistics(nn.Module):
    """Buffers that the forward updates: batch norm's, a counter, averages that later values are made from, one of them
    assigned anew, a vector that a power iteration turns; one module is called twice, one is frozen."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.twice = nn.BatchNorm1d(width, momentum=0.3)
        self.plain = nn.BatchNorm1d(width, affine=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("assigned", torch.ones(width))
        self.register_buffer("turned", torch.linspace(-1, 1, width), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        value = self.embed(tokens).transpose(1, 2)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            value = torch.relu_(norm(layer(value))) + value
            if number == 1:
                with torch.no_grad():
                    self.mean.mul_(0.9).add_(value.mean((0, 2)), alpha=0.1)
                value = value * (1 + self.mean[:, None])
        self.assigned = 0.5 * self.assigned + value.detach().amax((0, 2))
        value = value / (1 + self.assigned[:, None])
        with torch.no_grad():
            weight = self.layers[0].weight[:, :, 1]
            self.turned.copy_(torch.nn.functional.normalize(weight @ self.turned, dim=0))
        value = self.twice(self.twice(value) * self.turned[:, None])
        return self.plain(value).transpose(1, 2)


class FrozenStatistics(Statistics):
    """Only the last norms are trained."""

    def __init__(self) -> None:
        super().__init__()
        for part in (self.embed, self.layers, self.norms):
            part.requires_grad_(False)


class Noted(nn.Module):
    """Attention that reads values made under no_grad and a mask without gradient: flags choose its kernel."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.layers = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.bias = nn.Linear(width, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        with torch.no_grad():
            bias = self.bias(value).transpose(1, 2).unsqueeze(1).contiguous()
        for number, layer in enumerate(self.layers):
            query, key, mixed = (each.unflatten(-1, (2, 8)).transpose(1, 2) for each in layer(value).chunk(3, -1))
            seen = torch.nn.functional.scaled_dot_product_attention(query, key, mixed, bias * (number + 1))
            value = value + seen.transpose(1, 2).flatten(2)
        return value


class Cast(nn.Module):
    """Autocast around no_grad and around a region without it, and a weight that is cast at each of its many uses."""

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.shared = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            for layer in self.layers:
                with torch.no_grad():
                    gate = torch.sigmoid(self.shared(value))
                value = torch.tanh(layer(value)) * gate + self.shared(value)
                with torch.autocast("cpu", enabled=False):
                    value = value.float() + self.shared(value.float())
                with torch.autocast("cuda", enabled=False):
                    value = self.shared(value)  # bf16 all the same: there is no CUDA here
            return value.float()


class Recurrent(nn.Module):
    """LSTM layers with a value that skips them."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.first = nn.LSTM(width, width, batch_first=True)
        self.second = nn.LSTM(width, width, batch_first=True)
        self.mix = nn.Parameter(torch.eye(width) * 0.5 + 0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        between = self.first(value)[0]
        between = torch.tanh(between.transpose(1, 2).transpose(1, 2) @ self.mix)
        return self.second(between)[0] + (value.transpose(0, 1) @ self.mix).transpose(0, 1)


class TiedByTwoNames(nn.Module):
    """Two names of one weight, of which the forward reads both."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.one = nn.Linear(width, width, bias=False)
        self.two = nn.Linear(width, width, bias=False)
        self.two.weight = self.one.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(self.embed(tokens))))
