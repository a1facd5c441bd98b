"""A model's configuration, of transformers: a job's own values over those of its class, or of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import torch

from hydraplan.planner.frontend.models.checkpoint import CONFIG, read_config
from hydraplan.planner.frontend.users.imports import arguments_of, load
from hydraplan.planner.frontend.users.usercode import RAISED, said
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Checkpoint, Target

PARAMETER_DTYPE = torch.float32
"""Models are made in this, whatever a checkpoint keeps its numbers in; then the job's precision decides."""

SELECTED = ("attn_implementation", "experts_implementation")
"""What every configuration takes besides its own values: which of its implementations a model uses."""

TOKEN = "_token_id"
"""Special tokens that any configuration may carry, whether its class names them or not."""


def own_configuration(target: Target) -> Any:
    """The configuration of a `transformers:` model that starts from nothing. Raises WorkloadError where the class has
    none, where it does not know a value, or where a value is the job's to decide."""
    config_class = getattr(load(target.path), "config_class", None)
    if config_class is None:
        raise WorkloadError(
            f"model {target.path!r} has no config_class: name a model class such as transformers:GPT2LMHeadModel"
        )
    arguments = arguments_of(target)
    _refuse_unknown(f"model {target.path!r}", config_class(), arguments)
    config = config_class(**arguments)
    if getattr(config, "dtype", None) not in (None, PARAMETER_DTYPE, "float32"):
        raise _decided_by_precision(f"model {target.path!r}", config.dtype)
    return config


def checkpoint_configuration(target: Target, checkpoint: Checkpoint) -> Any:
    """The checkpoint's configuration, with the job's own values. Raises WorkloadError where it is not of the class, or
    as `own_configuration` does."""
    read_config(checkpoint.folder)
    where = f"{checkpoint.folder}/{CONFIG}"
    config_class = checkpoint_class(target, checkpoint).config_class
    arguments = arguments_of(target)
    if "dtype" in arguments:
        raise _decided_by_precision(f"checkpoint {checkpoint.folder}", arguments["dtype"])
    try:
        config, unknown = config_class.from_pretrained(
            checkpoint.folder, local_files_only=True, return_unused_kwargs=True, **arguments
        )
    except RAISED as error:  # the class's own checks
        raise WorkloadError(f"{where} makes no {config_class.__name__}: {said(error)}") from error
    unknown = sorted(set(unknown) & set(arguments))
    _refuse_unknown(where, config, unknown)
    for name in unknown:
        setattr(config, name, arguments[name])
    config.dtype = PARAMETER_DTYPE
    return config


def checkpoint_class(target: Target, checkpoint: Checkpoint) -> Any:
    """The class that a checkpoint is loaded as. Raises WorkloadError where there is none such."""
    try:
        found: Any = load(target.path)
    except WorkloadError as error:
        raise WorkloadError(
            f"{checkpoint.folder}/{CONFIG}, `architectures` (or the workload's `architecture`): {error}"
        ) from None
    if not hasattr(found, "from_pretrained") or getattr(found, "config_class", None) is None:
        raise WorkloadError(
            f"{target.path!r} loads no checkpoint: name a model class such as transformers:GPT2LMHeadModel"
        )
    return found


def _refuse_unknown(what: str, config: Any, names: Iterable[str]) -> None:
    """WorkloadError for values that the configuration does not know: it would take them, and no model read them."""
    for name in names:
        if not hasattr(config, name) and name not in SELECTED and not name.endswith(TOKEN):
            near = get_close_matches(name, list(config.to_dict()), n=1)
            raise WorkloadError(
                f"{what}: {type(config).__name__} has no value {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else ": take it out")
            )


def _decided_by_precision(what: str, dtype: object) -> WorkloadError:
    return WorkloadError(
        f"{what} asks for dtype {dtype}; a job's precision decides it: "
        'leave dtype out, and write precision = "bf16" where that is wanted'
    )
