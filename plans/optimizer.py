"""Which optimizers a job may name, and what state each keeps for a parameter."""

from __future__ import annotations

from plans.errors import WorkloadError
from plans.workload import Target

ARGUMENTS = {
    "SGD": {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"},
    "Adam": {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"},
    "AdamW": {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"},
}
"""Arguments of torch.optim that change the numbers; the fused kernel is always used."""


def state_names(optimizer: Target) -> tuple[str, ...]:
    """Names of the optimizer state, each as large as the parameters (torch.optim's own names).

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
