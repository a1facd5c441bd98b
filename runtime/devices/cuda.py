"""The CUDA backing: a device is a part of a GPU's memory and three CUDA streams; an event stands behind every step.

    compute thread   issues F0 F1 F2 ...      a thread waits for another only until what it depends on is issued;
    load thread      issues L0 L1 ...         that it is done too is waited for on the GPU, by the stream
    spill thread     issues S0 ...

Host threads (updates, losses) wait for the events themselves. Several devices may share one GPU: they share its
processors and copy engines, not their memory.

The arena is a range of virtual addresses, behind whose first bytes there is memory, in pieces of 2 MiB:

    address   |== piece ==|== piece ==|== piece ==|.......... reserved, no memory ..........|
    arena     |--------- arena_bytes --------|

What cells allocate (workspace, kept activations) comes from torch's caching allocator, which rounds up and holds on to
what is free: it is counted as the plan counts it, and not yet held to the budget.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from threading import Condition, Thread
from typing import Any

import torch
from torch import Tensor

from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.workload import Device as DeviceSpec
from hydraplan.runtime.devices.cpu import set_threads
from hydraplan.runtime.devices.device import view_of
from hydraplan.runtime.devices.links import PacedLink, Pacer
from hydraplan.runtime.devices.timelines import FOR_EVER, Timeline

WORKSPACE_CONFIG = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACE_OF_CUBLAS = ":4096:8"
"""What cuBLAS needs to give the same bits in every run, set before its first use: 32 MiB a stream, of torch's
allocator."""

ANCHOR_NS = 1_000_000_000
"""How far apart two events may be: the time between them is told in milliseconds, as fp32."""


class CudaTimeline:
    """A timeline that a CUDA stream moves: each value is an event, recorded behind the work of a step."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._events: dict[int, torch.cuda.Event] = {}
        """Recorded, and not known to have happened."""
        self._recorded = 0
        self._reached = 0
        self._ticket = 0
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._watcher: Thread | None = None

    def has_reached(self, value: int) -> bool:
        event = self._events.get(value)
        return self._reached >= value if event is None else bool(event.query())

    def wait(self, value: int) -> None:
        event = self.event(value)
        if event is not None:
            event.synchronize()

    def event(self, value: int) -> torch.cuda.Event | None:
        """The event, once it is recorded; None: it has happened."""
        if self._recorded < value:
            with self._condition:
                self._condition.wait_for(lambda: self._recorded >= value)
        return self._events.get(value)

    def when(self, value: int, callback: Callable[[], None]) -> None:
        with self._condition:
            if not self.has_reached(value):
                self._ticket += 1
                heappush(self._waiting, (value, self._ticket, callback))
                if self._watcher is None:
                    self._watcher = Thread(target=self._watch, name="CUDA events", daemon=True)
                    self._watcher.start()
                self._condition.notify_all()
                return
        callback()

    def record(self, event: torch.cuda.Event) -> None:
        """The next value is this event, recorded just now."""
        with self._condition:
            if self._recorded < FOR_EVER:
                self._recorded += 1
                self._events[self._recorded] = event
                self._condition.notify_all()

    def reach(self, value: int) -> None:
        """All events up to this one have happened."""
        before, self._reached = self._reached, max(self._reached, value)
        for each in range(before + 1, value + 1):
            self._events.pop(each, None)

    def release(self) -> None:
        with self._condition:
            self._recorded = self._reached = FOR_EVER
            self._events.clear()
            self._condition.notify_all()

    def _watch(self) -> None:
        """Call back, event by event; ends when the run is over."""
        while self._recorded < FOR_EVER or self._waiting:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._recorded == FOR_EVER or (self._waiting and self._recorded >= self._waiting[0][0])
                )
                if not self._waiting:
                    continue
                value, _, callback = heappop(self._waiting)
            self.wait(value)
            callback()


class CudaStream:
    """Work is queued by the thread that gives it, and done by the GPU in that order."""

    def __init__(self, gpu: torch.device, pacer: Pacer | None) -> None:
        self.timeline = CudaTimeline()
        self._stream = torch.cuda.Stream(gpu)
        self._pacer = pacer
        self._spans: list[tuple[int, int]] = []
        self._done = 0
        self._steps: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        """Start and end of those steps that are not known to be done."""
        self._started = self._anchor = self._mark()
        self._anchor.synchronize()
        self._anchor_ns = time.perf_counter_ns()

    def after(self, timeline: Timeline, value: int) -> None:
        if not isinstance(timeline, CudaTimeline):
            timeline.wait(value)
            return
        event = timeline.event(value)
        if event is not None:
            self._stream.wait_event(event)

    def begin(self) -> None:
        self._started = self._mark()

    def end(self) -> None:
        event = self._mark()
        self._steps.append((self._started, event))
        self.timeline.record(event)
        self._note_done()

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]], size: int) -> None:
        set_threads(1)
        with torch.cuda.stream(self._stream):
            if self._pacer is None:
                _copy(pairs)
            else:  # a stretch of the link begins when the copy can, and ends before anything follows it
                self._stream.synchronize()
                self._pacer.carry(size, lambda: _copy(pairs))
                self._stream.synchronize()

    def run(self, work: Callable[[], None], threads: int) -> None:
        set_threads(threads)
        with torch.cuda.stream(self._stream):
            work()

    def synchronize(self) -> None:
        """Block until the GPU has done all that was given so far."""
        self._stream.synchronize()

    def finish(self) -> None:
        self.synchronize()
        self._note_done()

    def new_spans(self) -> Sequence[tuple[int, int]]:
        spans, self._spans = self._spans, []
        return spans

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True, blocking=True)
        event.record(self._stream)
        return event

    def _note_done(self) -> None:
        """Turn the events of steps that are done into times."""
        done = 0
        while self._steps and self._steps[0][1].query():
            start, end = self._steps.popleft()
            start_ns, end_ns = self._moment(start), self._moment(end)
            self._spans.append((start_ns, end_ns))
            if end_ns - self._anchor_ns > ANCHOR_NS:
                self._anchor, self._anchor_ns = end, end_ns
            done += 1
        if done:
            self._done += done
            self.timeline.reach(self._done)

    def _moment(self, event: torch.cuda.Event) -> int:
        milliseconds: float = self._anchor.elapsed_time(event)
        return self._anchor_ns + round(1e6 * milliseconds)


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.copy_(source, non_blocking=True)


class CudaDevice:
    """A part of a GPU."""

    def __init__(self, spec: DeviceSpec, link: PacedLink, gpu: torch.device) -> None:
        self.name = spec.name
        self._gpu = gpu
        self.compute = CudaStream(gpu, None)
        self.load = CudaStream(gpu, link.load)
        self.spill = CudaStream(gpu, link.spill)
        self._range: AddressRange | None = None
        self._arena: Tensor | None = None
        self.arena_bytes = 0

    def allocate(self, size: int) -> None:
        assert self._arena is None
        self._range = AddressRange(self._gpu, size)
        self._range.back(size)
        self._arena = self._range.tensor()
        self.arena_bytes = size

    def resize(self, size: int) -> None:
        """Give the memory beyond `size` back, or take it again, once the GPU has done all that was given."""
        assert self._arena is not None
        assert self._range is not None
        assert size <= self._arena.numel(), f"{size} bytes of an arena of {self._arena.numel()}"
        for stream in (self.compute, self.load, self.spill):
            stream.synchronize()
        self._range.back(size)
        self.arena_bytes = size

    def view(self, address: int, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        assert self._arena is not None
        return view_of(self._arena, address, shape, stride, dtype)

    def close(self) -> None:
        for stream in (self.compute, self.load, self.spill):
            stream.synchronize()
            stream.timeline.release()
        if self._range is not None:
            self._range.free()
        self._range = self._arena = None


class AddressRange:
    """`size` bytes of a GPU's virtual addresses, the first of them backed by memory, a whole number of pieces.

    https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__VA.html
    """

    def __init__(self, gpu: torch.device, size: int) -> None:
        try:
            from cuda.bindings import driver  # comes with torch's CUDA builds
        except ImportError as error:
            raise RunError(f"{gpu} needs the package cuda-bindings: {error}; pip install cuda-bindings") from error

        self._driver, self._gpu, self._size = driver, gpu, size
        place = driver.CUmemLocation()
        place.type, place.id = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE, gpu.index
        self._properties = driver.CUmemAllocationProp()
        self._properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._properties.location = place
        self._access = driver.CUmemAccessDesc()
        self._access.location = place
        self._access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        smallest = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self._piece = int(self._call(driver.cuMemGetAllocationGranularity(self._properties, smallest)))
        self._handles: list[Any] = []
        self._reserved = self._rounded(size)
        self._start = int(self._call(driver.cuMemAddressReserve(self._reserved, 0, 0, 0))) if size else 0

    def back(self, size: int) -> None:
        """Have memory behind the first `size` bytes, and behind no more than the piece they end in."""
        driver, pieces = self._driver, self._rounded(size) // self._piece
        while len(self._handles) > pieces:
            handle = self._handles.pop()
            self._call(driver.cuMemUnmap(self._start + len(self._handles) * self._piece, self._piece))
            self._call(driver.cuMemRelease(handle))
        first = len(self._handles)
        while len(self._handles) < pieces:
            handle = self._call(driver.cuMemCreate(self._piece, self._properties, 0))
            self._call(driver.cuMemMap(self._start + len(self._handles) * self._piece, self._piece, 0, handle, 0))
            self._handles.append(handle)
        if pieces > first:
            start, more = self._start + first * self._piece, (pieces - first) * self._piece
            self._call(driver.cuMemSetAccess(start, more, [self._access], 1))

    def tensor(self) -> Tensor:
        """All of it as bytes; what is not backed must not be touched."""
        if not self._size:
            return torch.empty(0, dtype=torch.uint8, device=self._gpu)
        return torch.as_tensor(self, device=self._gpu)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (self._size,), "typestr": "|u1", "data": (self._start, False), "version": 3}

    def free(self) -> None:
        self.back(0)
        if self._size:
            self._call(self._driver.cuMemAddressFree(self._start, self._reserved))

    def _rounded(self, size: int) -> int:
        return -(-size // self._piece) * self._piece

    def _call(self, answer: tuple[Any, ...]) -> Any:
        code, *values = answer
        if code != self._driver.CUresult.CUDA_SUCCESS:
            raise RunError(
                f"{self._gpu} gave no memory for an arena of {self._size} bytes: {code.name}; "
                "see with nvidia-smi who uses it, or lower the budgets of its devices and plan again"
            )
        return values[0] if values else None


class CudaBacking:
    def __init__(self, backing: str) -> None:
        self._gpu = torch.device(backing)
        os.environ.setdefault(WORKSPACE_CONFIG, WORKSPACE_OF_CUBLAS)

    def open(self, spec: DeviceSpec, link: PacedLink) -> CudaDevice:
        there = torch.cuda.device_count()
        if self._gpu.index >= there:
            raise RunError(
                f"device {spec.name} is backed by {spec.backing}, and torch sees {there} CUDA GPUs here; "
                "correct its backing in the workload and plan again"
            )
        return CudaDevice(spec, link, self._gpu)

    def host_memory(self, size: int) -> Tensor:
        if size == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(PinnedPages(-1, size), dtype=torch.uint8)


class PinnedPages(mmap.mmap):
    """Zeroed pages that the GPU reads and writes itself: exact, where torch's pinned memory is a power of two."""

    def __init__(self, *_: Any) -> None:
        self._pinned = 0
        address = torch.frombuffer(self, dtype=torch.uint8).data_ptr()
        # torch's enum of errors is true whatever it says: success has to be asked for.
        if int(torch.cuda.cudart().cudaHostRegister(address, len(self), 0)) != 0:
            raise RunError(
                f"the host has no {len(self)} bytes of memory that a GPU may read; "
                "see how much memory is free, and whether `ulimit -l` limits it"
            )
        self._pinned = address

    def __del__(self) -> None:
        if self._pinned:
            with suppress(Exception):  # at the end of the interpreter torch may be gone before it
                torch.cuda.cudart().cudaHostUnregister(self._pinned)
