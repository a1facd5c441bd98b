"""A job's model and its loss, as one module from a batch to a scalar, in the job's precision.

transformers:GPT2LMHeadModel          configuration values as arguments: Class(Class.config_class(**arguments))
mylab.models:small_gpt                called with the arguments; returns a module
a checkpoint                          a class as above, and from the checkpoint its configuration and weights

bf16        every model is made in fp32, under its seed. Then its floating-point parameters become bf16, and so do the
            floating-point values of a batch as they enter the forward. Buffers stay as they are: rotary frequencies and
            running statistics lose too much in bf16.
autocast    forward and loss run under bf16 autocast, without its cache of cast weights: each use of a weight casts it
            and has a gradient of its own, so that a sum of gradients does not depend on where a graph is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hydraplan.planner.frontend.models.configurations import own_configuration
from hydraplan.planner.frontend.models.loading import Loaded, empty_model
from hydraplan.planner.frontend.models.saved import refuse_idle_base
from hydraplan.planner.frontend.users.imports import arguments_of, load
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Job, Precision

TRACED_ON = "cpu"
"""The device type that models are traced on (EXACTNESS.md, rule 1)."""

MODEL = "model"
"""Name of the user's model within `Loss`; the prefix of all its parameters' names there."""


class Loss(nn.Module):
    """The job's training forward: from a microbatch to its loss."""

    def __init__(self, loaded: Loaded, loss: Callable[..., Any] | None, precision: Precision) -> None:
        """Casts the model's parameters where the precision is bf16."""
        super().__init__()
        self.model = loaded.model
        self.stored = loaded.stored
        self.stored_masters = loaded.masters
        self.notices = loaded.notices
        self.from_checkpoint = loaded.from_checkpoint
        self.loss = loss
        self.precision = precision
        self.masters = lowered(loaded) if precision == "bf16" else {}
        """Parameter -> its values as they were in fp32."""

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        if self.precision == "bf16":
            batch = {name: value.bfloat16() if value.is_floating_point() else value for name, value in batch.items()}
        with self._autocast():
            return self._result(batch)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "autocast":
            return torch.autocast(TRACED_ON, dtype=torch.bfloat16, cache_enabled=False)
        return nullcontext()

    def _result(self, batch: Mapping[str, Tensor]) -> Tensor:
        if self.loss is None:
            output = self.model(**batch)
            result = getattr(output, "loss", None)
            what = f"{type(output).__name__}.loss"
        else:
            result = self.loss(self.model, batch)
            what = "what the loss function returns"
        if not isinstance(result, Tensor):
            raise TypeError(f"{what} is no tensor but {type(result).__name__}")
        return result


def lowered(loaded: Loaded) -> dict[str, Tensor]:
    """Make the model's floating-point parameters bf16, tied ones once; returns their values in fp32.

    Those of a checkpoint stay unread, in either form.
    """
    masters = {}
    for name, parameter in loaded.model.named_parameters():
        if parameter.is_floating_point():
            masters[name] = parameter.detach().float()
            if name in loaded.stored:
                parameter.data = torch.empty_like(parameter, dtype=torch.bfloat16)
            else:
                parameter.data = parameter.data.to(torch.bfloat16, copy=True)  # the same object: ties stay
    return masters


def make_model(job: Job) -> nn.Module:
    """The model of a job without a checkpoint, made under whatever modes and random state are in force."""
    target = job.model
    if target.path.startswith("transformers:"):
        model = load(target.path)(own_configuration(target))
    else:
        model = load(target.path)(**arguments_of(target))
    if not isinstance(model, nn.Module):
        raise WorkloadError(
            f"job {job.name}: model {target.path!r} made a {type(model).__name__}; it has to make a torch.nn.Module"
        )
    return model


def import_all(job: Job) -> None:
    """Import what the job names, so that no module of the user's is run under fake tensors, or seeds of ours."""
    targets = [job.model, job.data, *([job.loss] if job.loss is not None else [])]
    for path in dict.fromkeys(target.path for target in targets):
        load(path)


def _in_training(model: nn.Module) -> tuple[str, ...]:
    """Have a model train whose root is in eval mode, all of it; where the root trains, each part stays as it is.

    Returns what the user should know.
    """
    if model.training:
        return ()
    model.train()
    return (f"model {type(model).__name__} was made in eval mode, as from_pretrained leaves it: all of it is trained",)


def make_loss(job: Job, loaded: Loaded | None = None) -> Loss:
    """The job's model under its loss. Without `loaded` it is made here, with no tensor of a checkpoint read."""
    if loaded is None:
        loaded = empty_model(job) if job.checkpoint is not None else Loaded(model=make_model(job))
    refuse_idle_base(job, loaded.model)
    told = _in_training(loaded.model)
    if job.checkpoint is None:
        loaded = replace(loaded, notices=told)
    function = None
    if job.loss is not None:
        named = load(job.loss.path)
        arguments = arguments_of(job.loss)

        def function(model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
            return named(model, batch, **arguments)

    return Loss(loaded, function, job.precision)
