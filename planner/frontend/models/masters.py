"""fp32 masters beside a checkpoint, as a bf16 job saves them: the next one goes on from them, to the bit.

    model.safetensors      bf16   w        what from_pretrained loads
    masters.safetensors    F32    w        what updates work on, by the names of the model's state_dict

Without them a weight starts from its rounded value, and what updates had added below its last bit is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from hydraplan.planner.frontend.models.checkpoint import MASTERS, Stored, Weights, read_header
from hydraplan.planner.frontend.models.links import refuse_links_out
from hydraplan.planner.frontend.models.saved import saved_names
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Checkpoint, Job

REMEDY = f"delete {MASTERS} to start from the rounded weights, or restore the checkpoint as it was saved"
COMPARED_AT_ONCE = 1 << 22


def read_masters(folder: Path) -> Weights | None:
    """The header of the masters' file. Raises WorkloadError where it is broken."""
    refuse_links_out(folder)
    path = folder / MASTERS
    return read_header(path) if path.is_file() else None


def stored_masters(checkpoint: Checkpoint, model: nn.Module) -> dict[str, Stored]:
    """Parameter of a model -> where its master lies; none where the checkpoint has no masters.

    Raises WorkloadError where they are of another model.
    """
    weights = read_masters(Path(checkpoint.folder))
    if weights is None:
        return {}
    sources, parameters = saved_names(model), dict(model.named_parameters())
    found = {}
    for name, stored in weights.tensors.items():
        parameter = parameters.get(sources.get(name, ""))
        if parameter is None or stored.shape != tuple(parameter.shape) or stored.dtype != "F32":
            here = "which the model has not" if parameter is None else f"and the model {tuple(parameter.shape)} of it"
            raise WorkloadError(f"{weights.file} holds {name} as {stored.dtype} {stored.shape}, {here}: {REMEDY}")
        found[sources[name]] = stored
    return found


def refuse_other_master(stored: Stored, master: Tensor, parameter: Tensor) -> None:
    """Raises WorkloadError where a weight is not what its master rounds to: one of the two was changed alone."""
    ours, theirs = master.detach().reshape(-1), parameter.detach().reshape(-1)
    for first in range(0, ours.numel(), COMPARED_AT_ONCE):
        part = slice(first, first + COMPARED_AT_ONCE)
        rounded = ours[part].bfloat16()
        if not torch.equal(rounded.view(torch.int16), theirs[part].view(torch.int16)):
            raise WorkloadError(f"{stored.file} holds another {stored.name} than the weights beside it: {REMEDY}")


def unread_masters(jobs: Iterable[Job]) -> Iterator[str]:
    """What to tell of masters that a job does not go on from."""
    for job in jobs:
        if job.checkpoint is not None and job.precision != "bf16":
            weights = read_masters(Path(job.checkpoint.folder))
            if weights is not None:
                yield (
                    f"job {job.name}: {weights.file} is not read, as the job's precision is {job.precision}: "
                    "it starts from the rounded weights"
                )
