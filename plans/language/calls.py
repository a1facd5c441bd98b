"""What executing a plan imports and calls, and which checkpoints it reads: the list that a person reads first.

/workload/jobs/0/model   mylab.models:small_gpt(width=64)
/workload/jobs/0/model   transformers:GPT2LMHeadModel, read from /data/gpt2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hydraplan.plans.language.workload import Job, Target

Role: TypeAlias = Literal["model", "data", "loss", "optimizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One target of a job."""

    pointer: str
    """JSON pointer of the target in the plan."""
    role: Role
    job: str
    target: Target
    checkpoint: str | None = None
    """The folder that a model is read from."""

    @property
    def module(self) -> str:
        return self.target.path.partition(":")[0]

    @property
    def text(self) -> str:
        """As it would be written in Python; nothing in it can move a terminal's cursor."""
        written = ", ".join(f"{_printable(name)}={value!r}" for name, value in self.target.arguments)
        read = f", read from {_printable(self.checkpoint)}" if self.checkpoint is not None else ""
        return f"{_printable(self.target.path)}({written}){read}"


def calls(jobs: Sequence[Job]) -> Iterator[Call]:
    """All targets of all jobs, in the plan's order. Those of optimizers are of torch.optim."""
    for number, job in enumerate(jobs):
        at = f"/workload/jobs/{number}"
        folder = job.checkpoint.folder if job.checkpoint is not None else None
        yield Call(pointer=f"{at}/model", role="model", job=job.name, target=job.model, checkpoint=folder)
        yield Call(pointer=f"{at}/data", role="data", job=job.name, target=job.data)
        if job.loss is not None:
            yield Call(pointer=f"{at}/loss", role="loss", job=job.name, target=job.loss)
        optimizer = Target(path=f"torch.optim:{job.optimizer.path}", arguments=job.optimizer.arguments)
        yield Call(pointer=f"{at}/optimizer", role="optimizer", job=job.name, target=optimizer)


def imported(jobs: Sequence[Job]) -> Iterator[Call]:
    """Those that name something to import freely: all but the optimizers, which are one of a few of torch's."""
    return (call for call in calls(jobs) if call.role != "optimizer")


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]
