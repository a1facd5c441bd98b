"""The machine's GPUs, as NVIDIA's driver tells of them (NVML): what they are, what is free, and who holds the rest.

What a driver does not tell (no permission, a part of a GPU under MIG, an old card) is None; without a driver there are
no GPUs.

https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

try:
    import pynvml
except ImportError:  # a core package; a checkout that runs without installation may lack it
    pynvml = None

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Another process that has memory of a GPU."""

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    name: str
    uuid: str | None
    total_bytes: int | None
    free_bytes: int | None
    link_generation: int | None
    """Of PCI Express, the most that card and slot do: an idle card goes down."""
    link_width: int | None
    """Lanes."""
    mig: bool
    """Whether it is split: then the figures of memory would be of all parts together, and are left out."""
    holders: tuple[Holder, ...] | None
    """Other processes, the largest first."""


def gpus() -> tuple[Gpu, ...]:
    """All GPUs of the machine, in NVML's order, which is that of their slots. None where there is no driver."""
    with _nvml() as there:
        if not there:
            return ()
        count = _told(pynvml.nvmlDeviceGetCount) or 0
        handles = [_told(pynvml.nvmlDeviceGetHandleByIndex, number) for number in range(count)]
        return tuple(_gpu(handle) for handle in handles if handle is not None)


def gpu_by_uuid(uuid: str) -> Gpu | None:
    """The GPU, or the part of one, that has a UUID, as CUDA writes it (without a prefix)."""
    with _nvml() as there:
        for prefix in ("GPU-", "MIG-") if there else ():
            handle = _told(pynvml.nvmlDeviceGetHandleByUUID, f"{prefix}{uuid}")
            if handle is not None:
                return _gpu(handle)
    return None


@contextmanager
def _nvml() -> Iterator[bool]:
    """NVML, opened; False: there is no driver, or none that answers, or not its package."""
    if pynvml is None:
        yield False
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        _told(pynvml.nvmlShutdown)


def _told(ask: Callable[..., Value], *arguments: object) -> Value | None:
    """What NVML answers; None: it does not."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


def _gpu(handle: Any) -> Gpu:
    mig = _told(pynvml.nvmlDeviceGetMigMode, handle)
    split = bool(mig and mig[0])
    memory: Any = None if split else _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return Gpu(
        name=_told(pynvml.nvmlDeviceGetName, handle) or "a GPU without a name",
        uuid=_told(pynvml.nvmlDeviceGetUUID, handle),
        total_bytes=None if memory is None else memory.total,
        free_bytes=None if memory is None else memory.free,
        link_generation=_told(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        link_width=_told(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        mig=split,
        holders=None if split else _holders(handle),
    )


def _holders(handle: Any) -> tuple[Holder, ...] | None:
    """Of computing and of drawing; a process that does both is told once."""
    lists = [
        _told(ask, handle)
        for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses)
    ]
    if all(each is None for each in lists):
        return None
    used: dict[int, int | None] = {}
    for process in (each for found in lists for each in found or ()):
        if process.pid != os.getpid():
            used[process.pid] = max(used.get(process.pid) or 0, process.usedGpuMemory or 0) or None
    found = [Holder(pid=pid, name=_process(pid), used_bytes=size) for pid, size in used.items()]
    return tuple(sorted(found, key=lambda each: (-(each.used_bytes or 0), each.pid)))


def _process(pid: int) -> str | None:
    name = _told(pynvml.nvmlSystemGetProcessName, pid)
    return os.path.basename(name) or None if name else None
