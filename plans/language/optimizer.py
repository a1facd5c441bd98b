"""Which optimizers a job may name, and what state an update keeps for each parameter.

    precision    in the slab                    beside it, in the host store
    fp32         w                              exp_avg, exp_avg_sq of w
    bf16         w as bf16: what is loaded      exp_avg, exp_avg_sq, master of w, each fp32: twice the bytes of w

The master is one more tensor of optimizer state: it goes where the state goes, and is never loaded but for an update on
a device.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Precision, Target, Value

ARGUMENTS = {
    "SGD": {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"},
    "Adam": {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"},
    "AdamW": {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"},
}
"""Arguments of torch.optim that change the numbers; the fused kernel is always used."""


NOT_NEGATIVE = "a number from 0"
RIGHT = {
    "lr": NOT_NEGATIVE,
    "momentum": NOT_NEGATIVE,
    "dampening": "a number",
    "weight_decay": NOT_NEGATIVE,
    "eps": NOT_NEGATIVE,
    "betas": "two numbers, each from 0, below 1",
    "nesterov": "true or false",
    "maximize": "true or false",
    "amsgrad": "true or false",
}
"""What each argument may be."""

MASTER = "master"
"""The state of an update that is the fp32 value of a bf16 parameter."""


def wrong_arguments(optimizer: Target) -> Iterator[tuple[str, str, str]]:
    """(argument, what is wrong with its value, what would be right), of arguments that the optimizer takes."""
    arguments = dict(optimizer.arguments)
    for name in sorted(ARGUMENTS.get(optimizer.path, set()) & set(arguments)):
        value = arguments[name]
        if not _is_right(name, value):
            yield name, f"{name} is {_shown(value)}", f"write {RIGHT[name]}"
    if arguments.get("nesterov") is True and (not arguments.get("momentum") or arguments.get("dampening")):
        yield "nesterov", "nesterov needs a momentum, and no dampening", "give a momentum, or take nesterov out"


def _is_right(name: str, value: Value) -> bool:
    match RIGHT[name]:
        case "true or false":
            return isinstance(value, bool)
        case "two numbers, each from 0, below 1":
            return isinstance(value, tuple) and len(value) == 2 and all(_number(each, 0, 1) for each in value)
        case "a number":
            return _number(value, -inf, inf)
        case _:
            return _number(value, 0, inf)


def _number(value: Value, least: float, below: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < below


def _shown(value: Value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an update keeps for each parameter, in tensors of the parameter's shape."""

    names: tuple[str, ...]
    """torch.optim's own names; where parameters are bf16 also `MASTER`, last."""
    width: int
    """Bytes of each of these tensors, in bytes of the parameter."""

    @property
    def copies(self) -> int:
        """All of it, in copies of the parameters' bytes."""
        return self.width * len(self.names)


def state_of(optimizer: Target, precision: Precision) -> State:
    """The state of a job's updates. Raises WorkloadError as `state_names` does."""
    names = state_names(optimizer)
    if precision == "bf16":
        return State(names=(*names, MASTER), width=2)
    return State(names=names, width=1)


def state_names(optimizer: Target) -> tuple[str, ...]:
    """Names of the optimizer's own state (torch.optim's names).

    Raises WorkloadError for another optimizer or an argument that it does not take.
    """
    known = ARGUMENTS.get(optimizer.path)
    if known is None:
        raise WorkloadError(f"optimizer {optimizer.path!r} is not one of {', '.join(ARGUMENTS)}")
    arguments = dict(optimizer.arguments)
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise WorkloadError(
            f"optimizer {optimizer.path} takes no {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    if optimizer.path == "SGD":
        return ("momentum_buffer",) if arguments.get("momentum") else ()
    if arguments.get("amsgrad"):
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    return ("exp_avg", "exp_avg_sq")
