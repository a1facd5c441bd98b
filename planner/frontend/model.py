"""A job's model and its loss, as one module from a batch to a scalar, in the job's precision.

transformers:GPT2LMHeadModel          configuration values as arguments: Class(Class.config_class(**arguments))
mylab.models:small_gpt                called with the arguments; returns a module

bf16        every model is made in fp32, under its seed. Then its floating-point parameters become bf16, and so do the
            floating-point values of a batch as they enter the forward. Buffers stay as they are: rotary frequencies and
            running statistics lose too much in bf16.
autocast    forward and loss run under bf16 autocast, without its cache of cast weights: each use of a weight casts it
            and has a gradient of its own, so that a sum of gradients does not depend on where a graph is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from planner.frontend.imports import load
from planner.frontend.modes import TRACED_ON
from plans.errors import WorkloadError
from plans.workload import Job, Precision, Target, Value

MODEL = "model"
"""Name of the user's model within `Loss`; the prefix of all its parameters' names there."""


SELECTED = ("attn_implementation", "experts_implementation")
"""What every configuration takes besides its own values: which of its implementations a model uses."""

TOKEN = "_token_id"
"""Special tokens that any configuration may carry, whether its class names them or not."""


class Loss(nn.Module):
    """The job's training forward: from a microbatch to its loss."""

    def __init__(self, model: nn.Module, loss: Callable[..., Any] | None, precision: Precision) -> None:
        """Casts the model's parameters where the precision is bf16."""
        super().__init__()
        self.model = model
        self.loss = loss
        self.precision = precision
        self.masters = lowered(model) if precision == "bf16" else {}
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


def lowered(model: nn.Module) -> dict[str, Tensor]:
    """Make the model's floating-point parameters bf16, tied ones once; returns their values in fp32."""
    masters = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            masters[name] = parameter.detach().float()
            parameter.data = parameter.data.to(torch.bfloat16, copy=True)  # the same object: ties stay
    return masters


def make_model(job: Job) -> nn.Module:
    """The job's model in training mode, made under whatever modes and random state are in force."""
    target = job.model
    if target.path.startswith("transformers:"):
        model = _make_transformer(target)
    else:
        model = load(target.path)(**{name: _plain(value) for name, value in target.arguments})
    if not isinstance(model, nn.Module):
        raise WorkloadError(
            f"job {job.name}: model {target.path!r} made a {type(model).__name__}; it has to make a torch.nn.Module"
        )
    return model.train()


def make_loss(job: Job) -> Loss:
    """The job's model under its loss."""
    function = None
    if job.loss is not None:
        named = load(job.loss.path)
        arguments = {name: _plain(value) for name, value in job.loss.arguments}

        def function(model: nn.Module, batch: Mapping[str, Tensor]) -> Any:
            return named(model, batch, **arguments)

    return Loss(make_model(job), function, job.precision).train()


def transformer_config(target: Target) -> Any | None:
    """The configuration of a `transformers:` model; None for any other."""
    if not target.path.startswith("transformers:"):
        return None
    config_class = getattr(load(target.path), "config_class", None)
    if config_class is None:
        raise WorkloadError(
            f"model {target.path!r} has no config_class: name a model class such as transformers:GPT2LMHeadModel"
        )
    arguments = {name: _plain(value) for name, value in target.arguments}
    _refuse_unknown(target, config_class, arguments)
    return config_class(**arguments)


def _refuse_unknown(target: Target, config_class: Any, arguments: Mapping[str, Any]) -> None:
    """WorkloadError for values that the configuration does not know: it would take them, and no model read them."""
    default = config_class()
    for name in arguments:
        if not hasattr(default, name) and name not in SELECTED and not name.endswith(TOKEN):
            near = get_close_matches(name, list(default.to_dict()), n=1)
            raise WorkloadError(
                f"model {target.path!r}: {config_class.__name__} has no value {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else ": take it out")
            )


def _make_transformer(target: Target) -> Any:
    factory: Any = load(target.path)
    config = transformer_config(target)
    dtype = getattr(config, "dtype", None)
    if dtype not in (None, torch.float32, "float32"):
        raise WorkloadError(
            f"model {target.path!r} asks for dtype {dtype}; a job's precision decides it: "
            'leave dtype out, and write precision = "bf16" where that is wanted'
        )
    return factory(config)


def _plain(value: Value) -> Any:
    """Lists as the user wrote them."""
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
