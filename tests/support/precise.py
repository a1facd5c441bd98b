"""Jobs in bf16 and under autocast, and the plain loops that they have to equal, written without anything of ours but
the model in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from support.models import GPT2, LLAMA, NO_DROPOUT
from support.whole import Result, whole_job
from torch import Tensor, nn

from hydraplan.planner.frontend.models.model import make_loss
from hydraplan.planner.frontend.shards.deterministic import deterministic
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.planner.frontend.users.seeding import seeded
from hydraplan.plans.language.workload import Job, Precision, Target


class Pictures:
    """Random pictures, in floating point, with a class each."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(12)
        self.pictures = torch.randn(32, 3, 8, 8, generator=generator)
        self.classes = torch.randint(0, 5, (32,), generator=generator)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"picture": self.pictures[index], "class": self.classes[index]}


def pictures() -> Pictures:
    return Pictures()


class Convolutions(nn.Module):
    """A small convolutional net with a skip, whose buffer is fp32 in every precision."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.head = nn.Linear(width, 5)
        self.register_buffer("scale", torch.tensor(1.0 / 3))

    def forward(self, picture: Tensor) -> Tensor:
        value = torch.relu_(self.first(picture))
        value = value + torch.relu_(self.norm(self.second(value)))
        pooled = nn.functional.max_pool2d(value, 2).mean((2, 3))
        return self.head((pooled * self.get_buffer("scale")).to(pooled.dtype))


def class_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["picture"]), batch["class"])


def precise_jobs(precision: Precision) -> dict[str, Job]:
    """Without dropout, one microbatch."""
    convolutions = whole_job("support.precise:Convolutions", {}, name="convolutions")
    jobs = {
        "gpt2": whole_job("transformers:GPT2LMHeadModel", GPT2 | NO_DROPOUT, name="gpt2"),
        "llama": whole_job("transformers:LlamaForCausalLM", LLAMA, name="llama"),
        "skips": whole_job("support.models:Skips", {}, name="skips"),
        "convolutions": replace(
            convolutions,
            data=Target(path="support.precise:pictures"),
            loss=Target(path="support.precise:class_loss"),
        ),
    }
    return {name: replace(job, precision=precision) for name, job in jobs.items()}


def precise_loop(job: Job, *, cache: bool = False) -> Result:
    """The job as its user would train it without hydraplan; `cache`: of cast weights, under autocast."""
    assert job.microbatches == 1
    assert job.precision != "fp32"
    torch.set_num_threads(job.threads)
    data = open_data(job)
    with seeded(job.seed):
        module = make_loss(replace(job, precision="fp32"))
    parameters = [each for each in module.parameters() if each.requires_grad]
    trained = parameters
    if job.precision == "bf16":
        trained = [each.detach().clone() for each in parameters]
        for each in module.parameters():
            each.data = each.data.bfloat16()
    optimizer = torch.optim.AdamW(trained, fused=True, **dict(job.optimizer.arguments))  # type: ignore[arg-type]
    losses = []
    with deterministic():
        for step in range(job.steps):
            losses.append(_loss(job.precision, module, data.batch(step), cache))
            if job.precision == "bf16":
                for master, low in zip(trained, parameters, strict=True):
                    master.grad = None if low.grad is None else low.grad.float()
            optimizer.step()
            if job.precision == "bf16":
                with torch.no_grad():
                    for master, low in zip(trained, parameters, strict=True):
                        low.copy_(master)
            for each in parameters:
                each.grad = None
    return Result(
        losses=tuple(losses), weights={name: each.detach() for name, each in module.model.state_dict().items()}
    )


def _loss(precision: Precision, module: nn.Module, batch: Mapping[str, Tensor], cache: bool) -> float:
    """Forward and backward of one step."""
    if precision == "bf16":
        batch = {name: each.bfloat16() if each.is_floating_point() else each for name, each in batch.items()}
    low = torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache)
    with low if precision == "autocast" else nullcontext():
        loss = module(batch)
    loss.backward()
    return float(loss.detach())
