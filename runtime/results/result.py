"""What a run comes to, predicted against actual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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
    """Folder of its final weights; None where there are none."""
    notes: tuple[str, ...] = ()
    """What has to be told of its weights: what is not saved, or in another form than its library's."""
    buckets: tuple[int, ...] = ()
    """Of a job with lengths: the bucket of every training step whose batch was made."""


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
    unwritten: Mapping[str, str] = field(default_factory=dict)
    """Files that could not be written -> why; the others are whole."""

    @property
    def failed(self) -> tuple[JobResult, ...]:
        return tuple(job for job in self.jobs if job.error is not None)
