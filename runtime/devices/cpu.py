"""The CPU backing: the arena is a buffer of its own, copies are real copies, each stream is its driving thread."""

from __future__ import annotations

import errno
import mmap
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from hydraplan.plans.language.quantities import format_bytes
from hydraplan.plans.language.workload import Device as DeviceSpec
from hydraplan.runtime.devices.device import view_of
from hydraplan.runtime.devices.links import PacedLink, Pacer
from hydraplan.runtime.devices.timelines import HostTimeline, Timeline


def set_threads(threads: int) -> None:
    """Set the intra-op threads of the calling thread.

    torch gives every thread the process-wide number at its first use, which another thread may just have
    changed; asking first takes that default, so that setting is final.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


class CpuStream:
    """Work is done by the thread that gives it, at once."""

    __slots__ = ("_pacer", "_spans", "_started", "timeline")

    def __init__(self, pacer: Pacer | None) -> None:
        self.timeline = HostTimeline()
        self._pacer = pacer
        self._spans: list[tuple[int, int]] = []
        self._started = 0

    def after(self, timeline: Timeline, value: int) -> None:
        timeline.wait(value)

    def begin(self) -> None:
        self._started = time.perf_counter_ns()

    def end(self) -> None:
        self._spans.append((self._started, time.perf_counter_ns()))
        self.timeline.advance()

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]], size: int) -> None:
        set_threads(1)
        if self._pacer is None:
            _copy(pairs)
        else:
            self._pacer.carry(size, lambda: _copy(pairs))

    def run(self, work: Callable[[], None], threads: int) -> None:
        set_threads(threads)
        work()

    def finish(self) -> None:
        """Nothing is ever queued."""

    def new_spans(self) -> Sequence[tuple[int, int]]:
        spans, self._spans = self._spans, []
        return spans


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.copy_(source)


class CpuDevice:
    """A device in host memory."""

    def __init__(self, spec: DeviceSpec, link: PacedLink) -> None:
        self.name = spec.name
        self.compute = CpuStream(None)
        self.load = CpuStream(link.load)
        self.spill = CpuStream(link.spill)
        self._arena: Tensor | None = None
        self._memory: mmap.mmap | None = None
        self.arena_bytes = 0

    def allocate(self, size: int) -> None:
        assert self._arena is None
        self._memory = anonymous(size)
        self._arena = on_pages(self._memory)
        self.arena_bytes = self._arena.numel()

    def resize(self, size: int) -> None:
        """Give the pages beyond `size` back; a page comes again, zeroed, when it is written to."""
        assert self._arena is not None
        assert size <= self._arena.numel(), f"{size} bytes of an arena of {self._arena.numel()}"
        self.arena_bytes = size
        first = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._memory is not None and first < len(self._memory):
            self._memory.madvise(mmap.MADV_DONTNEED, first, len(self._memory) - first)

    def view(self, address: int, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        assert self._arena is not None
        return view_of(self._arena, address, shape, stride, dtype)

    def close(self) -> None:
        self._arena = self._memory = None


class CpuBacking:
    def open(self, spec: DeviceSpec, link: PacedLink) -> CpuDevice:
        return CpuDevice(spec, link)

    def host_memory(self, size: int) -> Tensor:
        return pages(size)


def pages(size: int) -> Tensor:
    """`size` zeroed bytes on whole pages of their own: exact, aligned, and given back when unused."""
    return on_pages(anonymous(size))


def on_pages(memory: mmap.mmap | None) -> Tensor:
    return torch.empty(0, dtype=torch.uint8) if memory is None else torch.frombuffer(memory, dtype=torch.uint8)


def anonymous(size: int) -> mmap.mmap | None:
    """Zeroed pages; None: no bytes. Raises OSError (ENOMEM) that says how much was asked for."""
    if size == 0:
        return None
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError, OverflowError) as error:
        raise OSError(errno.ENOMEM, f"no {format_bytes(size)} ({size} bytes) could be had ({error})") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages refuses the advice; small pages do as well
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
