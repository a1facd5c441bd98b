"""What any backing of a device has to do: each check takes a backing ("cpu", "cuda:0") and fails by an assertion.

Without pytest, so that whoever has a GPU can run it; tests/runtime/devices/test_device_contract.py runs the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import torch
from torch import Tensor

from hydraplan.plans.language.workload import Device as DeviceSpec
from hydraplan.runtime.devices.backings import backing_of
from hydraplan.runtime.devices.device import Device
from hydraplan.runtime.devices.links import PacedLink, Pacer
from hydraplan.runtime.devices.timelines import HostTimeline

ARENA_BYTES = 4096


def spec(backing: str) -> DeviceSpec:
    return DeviceSpec(name="d0", backing=backing, budget_bytes=1 << 20, link="l", profile="p")


def open_device(backing: str, link: PacedLink | None = None) -> Device:
    return backing_of(spec(backing)).open(spec(backing), link or PacedLink(load=None, spill=None))


@contextmanager
def opened(backing: str, size: int = ARENA_BYTES, link: PacedLink | None = None) -> Iterator[Device]:
    device = open_device(backing, link)
    device.allocate(size)
    try:
        yield device
    finally:
        device.close()


def floats(device: Device, address: int, count: int) -> Tensor:
    return device.view(address, (count,), (1,), torch.float32)


def an_arena_is_exactly_as_large_as_asked_and_aligned(backing: str) -> None:
    with opened(backing) as device:
        view = device.view(0, (ARENA_BYTES,), (1,), torch.uint8)
        assert view.untyped_storage().nbytes() == ARENA_BYTES
        assert view.data_ptr() % 256 == 0


def an_empty_arena_is_allowed(backing: str) -> None:
    with opened(backing, 0) as device:
        assert device.view(0, (0,), (1,), torch.uint8).numel() == 0


def views_share_memory_but_not_versions(backing: str) -> None:
    with opened(backing) as device:
        whole = device.view(256, (16,), (1,), torch.uint8)
        part = device.view(256, (2, 2), (1, 2), torch.float32)
        before = part._version
        whole.zero_()
        part.fill_(1.0)
        assert part._version == before + 1
        assert device.view(256, (4,), (1,), torch.float32).tolist() == [1.0] * 4
        whole.zero_()
        assert part._version == before + 1


def a_resized_arena_keeps_its_first_bytes_and_grows_back(backing: str) -> None:
    """Views from before stay good; half an arena is less than a page, and is kept to the byte."""
    with opened(backing) as device:
        whole = device.view(0, (ARENA_BYTES,), (1,), torch.uint8)
        for size in (2048, 256, 3000):
            whole.fill_(7)
            device.resize(size)
            assert device.arena_bytes == size
            first = device.view(0, (size,), (1,), torch.uint8)
            assert bool((first == 7).all())
            first.fill_(8)
            device.resize(ARENA_BYTES)
            assert bool((whole[:size] == 8).all())
            whole.fill_(9)
            assert bool((device.view(0, (ARENA_BYTES,), (1,), torch.uint8) == 9).all())
        device.resize(0)
        device.resize(ARENA_BYTES)
        whole.fill_(7)
        assert bool((whole == 7).all())


def host_memory_is_zeroed_and_aligned(backing: str) -> None:
    memory = backing_of(spec(backing)).host_memory(1000)
    assert memory.dtype == torch.uint8
    assert memory.numel() == memory.untyped_storage().nbytes() == 1000
    assert memory.data_ptr() % 256 == 0
    assert not memory.any()
    assert backing_of(spec(backing)).host_memory(0).numel() == 0


def load_compute_spill(backing: str) -> None:
    with opened(backing) as device:
        host = backing_of(spec(backing)).host_memory(2048)
        source, result = host[:1024].view(torch.float32), host[1024:].view(torch.float32)
        source.copy_(torch.arange(256.0))
        there = floats(device, 512, 256)
        device.load.begin()
        device.load.copy([(there, source)], 1024)
        device.load.end()
        device.compute.after(device.load.timeline, 1)
        device.compute.begin()
        device.compute.run(lambda: there.mul_(2), threads=1)  # type: ignore[arg-type]
        device.compute.end()
        device.spill.after(device.compute.timeline, 1)
        device.spill.begin()
        device.spill.copy([(result, there)], 1024)
        device.spill.end()
        device.spill.finish()
        assert torch.equal(result, torch.arange(256.0) * 2)


def a_stream_waits_for_what_another_thread_has_not_given_yet(backing: str) -> None:
    with opened(backing) as device:
        there, order = floats(device, 0, 4), []

        def later() -> None:
            device.compute.after(device.load.timeline, 1)
            device.compute.begin()
            device.compute.run(lambda: order.append("compute"), threads=1)
            device.compute.end()
            device.compute.finish()

        thread = Thread(target=later)
        thread.start()
        time.sleep(0.02)
        order.append("load")
        device.load.begin()
        device.load.copy([(there, torch.ones(4))], 16)
        device.load.end()
        thread.join()
        assert order == ["load", "compute"]


def a_stream_waits_for_the_host(backing: str) -> None:
    with opened(backing) as device:
        host, order = HostTimeline(), []

        def compute() -> None:
            device.compute.after(host, 2)
            device.compute.begin()
            device.compute.run(lambda: order.append("compute"), threads=1)
            device.compute.end()

        thread = Thread(target=compute)
        thread.start()
        host.advance()
        time.sleep(0.02)
        order.append("host")
        host.advance()
        thread.join()
        assert order == ["host", "compute"]


def the_host_waits_for_a_stream(backing: str) -> None:
    with opened(backing) as device:
        called: list[str] = []
        happened = Event()

        def when() -> None:
            called.append("when")
            happened.set()

        device.compute.timeline.when(1, when)
        assert not device.compute.timeline.has_reached(1)
        device.compute.begin()
        device.compute.run(lambda: called.append("run"), threads=1)
        device.compute.end()
        device.compute.timeline.wait(1)
        device.compute.finish()
        assert device.compute.timeline.has_reached(1)
        assert happened.wait(timeout=10)
        assert called == ["run", "when"]


def spans_are_in_order_and_one_a_step(backing: str) -> None:
    with opened(backing) as device:
        before = time.perf_counter_ns()
        for _ in range(3):
            device.compute.begin()
            device.compute.run(lambda: None, threads=1)
            device.compute.end()
        device.compute.finish()
        spans = list(device.compute.new_spans())
        assert len(spans) == 3
        moments = [moment for span in spans for moment in span]
        assert moments == sorted(moments)
        assert moments[0] >= before


def threads_are_those_of_the_call_whatever_others_set(backing: str) -> None:
    with opened(backing) as device:
        seen: dict[str, list[int]] = {"one": [], "two": []}
        devices = {"one": device.compute, "two": device.load}

        def drive(name: str, threads: int) -> None:
            for _ in range(20):
                devices[name].run(lambda: seen[name].append(torch.get_num_threads()), threads)

        workers = [Thread(target=drive, args=("one", 1)), Thread(target=drive, args=("two", 2))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert seen == {"one": [1] * 20, "two": [2] * 20}


def loads_keep_their_link_s_pace(backing: str) -> None:
    """20 copies of 50 kB at 10 MB/s take 100 ms: never less, and not much more."""
    _keeps_pace(backing, "load")


def spills_keep_their_link_s_pace(backing: str) -> None:
    _keeps_pace(backing, "spill")


def _keeps_pace(backing: str, direction: str) -> None:
    pacer = Pacer(10_000_000)
    with opened(backing, 1 << 16, PacedLink(load=pacer, spill=pacer)) as device:
        host = torch.zeros(50_000, dtype=torch.uint8)
        there = device.view(0, (50_000,), (1,), torch.uint8)
        stream = device.load if direction == "load" else device.spill
        pair = (there, host) if direction == "load" else (host, there)
        for _ in range(20):
            stream.begin()
            stream.copy([pair], 50_000)
            stream.end()
        stream.finish()
        spans = stream.new_spans()
        ratio = (spans[-1][1] - spans[0][0]) / 100e6
    assert 0.99 <= ratio < 2, ratio


def devices_on_one_link_share_its_pace(backing: str) -> None:
    link = PacedLink(load=Pacer(10_000_000), spill=None)
    devices = [open_device(backing, link) for _ in range(2)]
    host = torch.zeros(100_000, dtype=torch.uint8)
    started = time.perf_counter_ns()

    def drive(device: Device) -> None:
        device.allocate(100_000)
        there = device.view(0, (100_000,), (1,), torch.uint8)
        for _ in range(3):
            device.load.copy([(there, host)], 100_000)
        device.load.finish()

    workers = [Thread(target=drive, args=(device,)) for device in devices]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ratio = (time.perf_counter_ns() - started) / 60e6
    for device in devices:
        device.close()
    assert 0.99 <= ratio < 3, ratio


CONTRACT: tuple[Callable[[str], None], ...] = (
    an_arena_is_exactly_as_large_as_asked_and_aligned,
    an_empty_arena_is_allowed,
    views_share_memory_but_not_versions,
    a_resized_arena_keeps_its_first_bytes_and_grows_back,
    host_memory_is_zeroed_and_aligned,
    load_compute_spill,
    a_stream_waits_for_what_another_thread_has_not_given_yet,
    a_stream_waits_for_the_host,
    the_host_waits_for_a_stream,
    spans_are_in_order_and_one_a_step,
    threads_are_those_of_the_call_whatever_others_set,
    loads_keep_their_link_s_pace,
    spills_keep_their_link_s_pace,
    devices_on_one_link_share_its_pace,
)
