"""The run directory: what a run leaves behind.

    run/
      record.json                  predicted against actual: jobs, devices, every step of the lists
      plan.json                    the plan that was replayed
      losses/JOB.csv               step, loss
      weights/JOB/model.safetensors    the model's state_dict; of a model of transformers what `save_pretrained` writes,
                                       and what else of a checkpoint belongs to its model (tokenizer files)
      weights/JOB/masters.safetensors  of a job in bf16: the fp32 masters of its trained parameters

It is written aside and renamed when complete, so a directory of that name is always a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hydraplan.planner.frontend.models.checkpoint import files_to_carry
from hydraplan.planner.frontend.models.quiet import quiet
from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Step
from hydraplan.plans.language.workload import Job
from hydraplan.runtime.memory.store import HostStore
from hydraplan.runtime.replaying.replay import Span
from hydraplan.runtime.training import Trained

FORMAT = "hydraplan-run/1"
LARGEST_FILE = "5GB"
"""A file of weights; a model with more gets several. What saving converts is in memory a file at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """One job, predicted against actual."""

    job: str
    shards: int
    steps: int
    losses: tuple[float, ...]
    """By training step; of a failed job, as far as it came."""
    predicted_finish_us: int
    finish_us: int
    """When its last step finished, from the start of the replay."""
    error: str | None
    """Why it failed, and at which step; None: it did not."""
    weights: Path | None
    """Folder of its final weights; None where it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceResult:
    """What a device held, planned against counted."""

    device: str
    budget_bytes: int
    predicted_peak_bytes: int
    arena_bytes: int
    kept_bytes: int
    peak_bytes: int
    """Arena as allocated, kept activations as counted, workspace of the running cell as planned."""
    compute_us: int
    load_us: int
    spill_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    directory: Path
    predicted_makespan_us: int
    makespan_us: int
    jobs: tuple[JobResult, ...]
    devices: tuple[DeviceResult, ...]

    @property
    def failed(self) -> tuple[JobResult, ...]:
        return tuple(job for job in self.jobs if job.error is not None)


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A folder aside, to write into; it goes where its block raises. `publish` gives it its name.

    Raises RunError where `directory` exists or no folder can be made there.
    """
    refuse_existing(directory)
    aside = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"{directory} cannot be made: {error}; name a run directory that can be written") from error
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def publish(aside: Path, directory: Path) -> Iterator[None]:
    """Inside, a finished run is written; then its folder gets its name. Whatever goes wrong, nothing is deleted.

    Raises RunError, which names the folder that the results are in.
    """
    try:
        yield
        refuse_existing(directory)
        aside.rename(directory)
    except (OSError, RunError) as error:
        raise RunError(f"training is done, but {error}; what was written of it is in {aside}") from error


def refuse_existing(directory: Path) -> None:
    if directory.exists():
        raise RunError(f"{directory} exists; name a new run directory, or move that one away")


def file_name(job: str) -> str:
    """A job's name as a file's."""
    return quote(job, safe=" =,+@[]()").replace("..", "%2E%2E")


def write_weights(folder: Path, job: Job, store: HostStore) -> None:
    """The final state of a job's model, as its class loads it, and what belongs to it beside its weights.

    Raises OSError or SafetensorError where the weights cannot be written, RunError where they are, but not all else.
    """
    folder.mkdir(parents=True)
    masters = store.masters(job.name)
    if masters:
        save_file(masters, folder / "masters.safetensors", metadata={"format": "pt"})
    model: Any = store.model(job.name)
    if model is None:
        _write_state(folder, store.state(job.name))
        return
    try:
        with quiet():
            model.save_pretrained(folder, state_dict=store.state(job.name), max_shard_size=LARGEST_FILE)
    except (OSError, SafetensorError):
        raise
    except Exception as error:  # the class's own code: whatever comes out of it, the weights are not lost
        _write_state(folder, store.state(job.name))
        raise RunError(
            f"{type(model).__name__}.save_pretrained failed: {type(error).__name__}: {error}; "
            "model.safetensors holds the state_dict instead"
        ) from error
    if job.checkpoint is not None:
        try:
            _carry_files(Path(job.checkpoint.folder), folder)
        except OSError as error:
            raise RunError(f"its weights are written, but not the tokenizer's files: {error}") from error


def _write_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """A state_dict as it is; a file knows no tied tensors, so each name gets its own."""
    seen: set[int] = set()
    alone = {}
    for name, value in state.items():
        alone[name] = value.clone() if id(value) in seen else value
        seen.add(id(value))
    save_file(alone, folder / "model.safetensors", metadata={"format": "pt"})


def _carry_files(source: Path, folder: Path) -> None:
    for each in files_to_carry(source):
        if each.is_dir():
            shutil.copytree(each, folder / each.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(each, folder / each.name)


def write_losses(path: Path, losses: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{step},{loss!r}\n" for step, loss in enumerate(losses))
    path.write_text("step,loss\n" + rows)


def finish_times(plan: Plan, trained: Trained) -> dict[str, int]:
    """Job -> when its last step finished, in microseconds from the start."""
    finish = {job.name: 0 for job in plan.workload.jobs}
    sites = trained.program.flow.sites
    for span in trained.spans:
        job = sites[span.site].step.job
        finish[job] = max(finish[job], microseconds(trained, span.finish_ns))
    return finish


def microseconds(trained: Trained, moment_ns: int) -> int:
    return (moment_ns - trained.started_ns) // 1000


def record(plan: Plan, result: RunResult, trained: Trained) -> dict[str, object]:
    """The run record, ready for JSON."""
    return {
        "format": FORMAT,
        "predicted_makespan_us": result.predicted_makespan_us,
        "makespan_us": result.makespan_us,
        "fingerprints": {each.name: each.value for each in plan.fingerprints},
        "jobs": [_job_row(job, result.directory) for job in result.jobs],
        "devices": [asdict(device) for device in result.devices],
        "buckets": {job: list(buckets) for job, buckets in trained.buckets.items()},
        "failures": {job: failure.details for job, failure in trained.failures.items()},
        "phases": step_times(plan, trained),
    }


def _job_row(job: JobResult, directory: Path) -> dict[str, object]:
    row = asdict(job)
    del row["losses"]  # they have a file of their own
    row["trained"] = len(job.losses)
    row["first_loss"], row["last_loss"] = (job.losses[0], job.losses[-1]) if job.losses else (None, None)
    row["weights"] = None if job.weights is None else str(job.weights.relative_to(directory))
    return row


Times = list[int] | None
"""Start and finish of a step in microseconds; None: a drop, which takes no time, or a step that was not done, since
its job failed there or before."""


def step_times(plan: Plan, trained: Trained) -> list[dict[str, object]]:
    """When every step ran: for each phase and list its lines in order; of cycles one such list per iteration."""
    runs: dict[tuple[int, str, int], list[Times]] = {}
    for number, phase in enumerate(plan.phases):
        runs[number, "prologue", 0] = _no_times(phase.prologue)
        for iteration in range(phase.repeat):
            runs[number, "cycle", iteration] = _no_times(phase.cycle)
        runs[number, "epilogue", 0] = _no_times(phase.epilogue)
    sites = trained.program.flow.sites
    for span in trained.spans:
        site = sites[span.site]
        runs[site.phase, site.section, span.iteration][site.line] = _times(trained, span)
    return [
        {
            "prologue": runs[number, "prologue", 0],
            "cycle": [runs[number, "cycle", iteration] for iteration in range(phase.repeat)],
            "epilogue": runs[number, "epilogue", 0],
        }
        for number, phase in enumerate(plan.phases)
    ]


def _no_times(steps: Sequence[Step]) -> list[Times]:
    return [None] * len(steps)


def _times(trained: Trained, span: Span) -> list[int]:
    return [microseconds(trained, span.start_ns), microseconds(trained, span.finish_ns)]


def write_record(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
