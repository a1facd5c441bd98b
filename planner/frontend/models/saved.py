"""How a model is saved: under which names, and whether by its library, as if nothing were wrapped around it.

    torch.compile(net)         _orig_mod.w  -> w
    DataParallel(net)          module.w     -> w         for its type alone: a user's own `module` stays
    checkpoint_wrapper(net)    w            -> w         takes its prefix off by itself

Libraries are not imported here: a model that is of one has brought it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hydraplan.planner.frontend.models.quiet import quiet
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Job

By = Literal["state_dict", "transformers", "peft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a model is saved."""

    by: By = "state_dict"
    """transformers, peft: with their `save_pretrained`."""
    why: str | None = None
    """Why a library's model is saved without it."""


def form_of(model: nn.Module, as_class_makes_it: bool) -> Form:
    """How a model is saved. `as_class_makes_it`: its class has made it of its configuration, or of a checkpoint.

    A model of transformers that was changed since is saved by its names alone: its class would take what it does not
    know for missing, and start it anew.
    """
    model = unwrapped(model)
    if is_of("peft", "PeftModel", model):
        return Form(by="peft")
    if not is_of("transformers", "PreTrainedModel", model):
        return Form()
    differs = None if as_class_makes_it else _differs(model)
    if differs is None:
        return Form(by="transformers")
    return Form(
        by="state_dict",
        why=f"{type(model).__name__} makes another model of its configuration ({differs}): "
        "load it into the model that your callable makes, with safetensors.torch.load_model",
    )


def refuse_idle_base(job: Job, model: nn.Module) -> None:
    """Raises WorkloadError where the base of adapters is to be saved, and there are no adapters."""
    if job.base and not is_of("peft", "PeftModel", unwrapped(model)):
        raise WorkloadError(
            f"job {job.name}: `base` is true, and its model is no PeftModel but {type(unwrapped(model)).__name__}, "
            "which is saved whole: take `base` out"
        )


def is_of(library: str, name: str, model: nn.Module) -> bool:
    """Whether a model is of a class of a library, which may be missing."""
    found = getattr(sys.modules.get(library), name, None)
    return isinstance(found, type) and isinstance(model, found)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without what is wrapped around the whole of it."""
    while (inner := inner_name(model)) is not None:
        model = getattr(model, inner)
    return model


def inner_name(module: nn.Module) -> str | None:
    """Of a wrapper whose name for what it wraps stands in the names of a state_dict: that name."""
    if isinstance(module, torch._dynamo.OptimizedModule):
        return "_orig_mod"
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    return None


def saved_names(model: nn.Module) -> dict[str, str]:
    """Name that a parameter or persistent buffer is saved under -> first of the model's names of it.

    What modules add to their state besides (`get_extra_state`) is not among them: `extra_state` has it.
    """
    first: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        first.setdefault(id(tensor), name)
    with _no_extra_state(model):
        state = model.state_dict(keep_vars=True)
    found = {name: first[id(value)] for name, value in state.items() if id(value) in first}
    bare = bare_names(model, found)
    return {bare[name]: source for name, source in found.items()}


def extra_state(model: nn.Module, known: Mapping[str, Any]) -> dict[str, object]:
    """What the model's state_dict holds now beyond the `known` names, under the names that it is saved by."""
    state = model.state_dict()
    bare = bare_names(model, state)
    return {bare[name]: value for name, value in state.items() if bare[name] not in known}


def has_extra_state(model: nn.Module) -> bool:
    return any(_adds_state(each) for each in model.modules())


def bare_names(model: nn.Module, names: Mapping[str, Any]) -> dict[str, str]:
    """Each name without what wrappers have put into it; all as they are where two would be one."""
    transparent = set(_transparent(model, ""))
    bare = {}
    for name in names:
        parts = name.split(".")
        kept = [part for number, part in enumerate(parts) if ".".join(parts[: number + 1]) not in transparent]
        bare[name] = ".".join(kept)
    return bare if len(set(bare.values())) == len(bare) else {name: name for name in names}


def _transparent(module: nn.Module, prefix: str) -> Iterator[str]:
    """Paths, as a state_dict has them, of what is wrapped."""
    inner = inner_name(module)
    removed = getattr(sys.modules.get(_CHECKPOINTING), "ActivationWrapper", None)
    for name, child in module._modules.items():
        if child is None:
            continue
        path = prefix + name
        if name == inner:
            yield path
        elif removed is not None and isinstance(module, removed):
            path = prefix.removesuffix(".")
        yield from _transparent(child, f"{path}." if path else "")


_CHECKPOINTING = "torch.distributed.algorithms._checkpoint.checkpoint_wrapper"


def _adds_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


@contextmanager
def _no_extra_state(model: nn.Module) -> Iterator[None]:
    """A state_dict asks no module for its extra state, which may want values where tensors are fake."""
    asked = [each for each in model.modules() if _adds_state(each)]
    for each in asked:
        each.__dict__["get_extra_state"] = _nothing
    try:
        yield
    finally:
        for each in asked:
            del each.__dict__["get_extra_state"]


def _nothing() -> None:
    return None


def _differs(model: Any) -> str | None:
    """What a model has otherwise than its class makes it of its configuration; None: nothing."""
    try:
        with quiet(), torch.random.fork_rng(devices=[]), torch.device("meta"):
            made = type(model)(copy.deepcopy(model.config))
    except Exception as error:  # the class's own code
        return f"{type(error).__name__}: {error}"
    here, there = _shapes(model), _shapes(made)
    names = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    return f"{names[0]} is {here.get(names[0], 'not there')}" if names else None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    with _no_extra_state(model):
        state = model.state_dict(keep_vars=True)
    return {
        bare: tuple(state[name].shape)
        for name, bare in bare_names(model, state).items()
        if isinstance(state[name], Tensor)
    }
