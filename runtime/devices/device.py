"""What the runtime needs of a device: an arena, three streams, and events between them.

    host store  ==load stream==>  arena  <== compute stream ==>  arena  ==spill stream==>  host store

A stream does its work in the order in which it was given, and is driven by one thread at a time. A call
returns once the work is queued (CUDA) or done (CPU); only `finish` promises that it is done. Streams wait for each
other through points on their timelines (`runtime.devices.timelines`). A step on a stream is `begin`, its work,
`end`, and `end` moves the stream's timeline by one.

A backing is one module; `backings.backing_of` finds it by `Device.backing` of the workload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hydraplan.plans.language.workload import Device as DeviceSpec
from hydraplan.runtime.devices.links import PacedLink
from hydraplan.runtime.devices.timelines import Timeline


class Stream(Protocol):
    """One engine of a device."""

    @property
    def timeline(self) -> Timeline: ...

    def after(self, timeline: Timeline, value: int) -> None:
        """Work given from now on starts after that event, on whichever stream or host thread it is."""
        ...

    def begin(self) -> None:
        """A step's work starts here, as soon as the waits given so far allow."""
        ...

    def end(self) -> None:
        """The step's work ends here; the timeline moves by one when it is done."""
        ...

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]], size: int) -> None:
        """Copy each (target, source) across the link, `size` bytes in all, at the link's pace."""
        ...

    def run(self, work: Callable[[], None], threads: int) -> None:
        """Call `work`, which computes on the arena, with `threads` intra-op threads."""
        ...

    def finish(self) -> None:
        """Block until all work given so far is done."""
        ...

    def new_spans(self) -> Sequence[tuple[int, int]]:
        """When each step started and finished that is known to be done and was not told before, in nanoseconds of
        `time.perf_counter_ns`, in order; after `finish` all are known. From the thread that drives the stream."""
        ...


class Device(Protocol):
    """One logical accelerator of the workload."""

    @property
    def name(self) -> str: ...

    @property
    def compute(self) -> Stream: ...

    @property
    def load(self) -> Stream: ...

    @property
    def spill(self) -> Stream: ...

    @property
    def arena_bytes(self) -> int:
        """What the arena holds now: as allocated, or as last resized."""
        ...

    def allocate(self, size: int) -> None:
        """Take exactly `size` bytes for the arena, aligned to 256 bytes; once."""
        ...

    def resize(self, size: int) -> None:
        """Hold the first `size` bytes of the arena alone, at most what was allocated: they stay as they are.

        Nothing beyond them is alive. Views stay good; after growing again, what lies beyond is undefined.
        """
        ...

    def view(self, address: int, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in the arena at a byte address, with a version counter of its own."""
        ...

    def close(self) -> None:
        """Give the arena back. Views must not be used any more."""
        ...


class Backing(Protocol):
    """A kind of processor that devices can be backed by."""

    def open(self, spec: DeviceSpec, link: PacedLink) -> Device: ...

    def host_memory(self, size: int) -> Tensor:
        """`size` zeroed bytes of host memory, from which this backing copies at full speed; aligned to 256 bytes."""
        ...


def view_of(memory: Tensor, address: int, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on a flat memory of bytes, by address.

    It gets a version counter of its own: views that share one would make autograd take a copy into any
    region of an arena for a change of every saved tensor in it.
    """
    itemsize = dtype.itemsize
    assert address % itemsize == 0
    view = torch.empty(0, dtype=dtype, device=memory.device)
    return view.set_(memory.untyped_storage(), address // itemsize, tuple(shape), tuple(stride))
