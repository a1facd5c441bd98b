"""What any backing must do. A new backing joins `BACKINGS`; a missing processor is a visible skip."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event, Thread

import psutil
import pytest
import torch

from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.workload import Device as DeviceSpec
from hydraplan.runtime.devices.backings import backing_of
from hydraplan.runtime.devices.device import Backing, Device
from hydraplan.runtime.devices.links import PacedLink, Pacer
from hydraplan.runtime.devices.timelines import HostTimeline

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
BACKINGS = ["cpu", pytest.param("cuda:0", marks=NO_GPU)]


def spec(backing: str) -> DeviceSpec:
    return DeviceSpec(name="d0", backing=backing, budget_bytes=1 << 20, link="l", profile="p")


def open_device(backing: str, link: PacedLink | None = None) -> Device:
    return backing_of(spec(backing)).open(spec(backing), link or PacedLink(load=None, spill=None))


@pytest.fixture(params=BACKINGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backing(name: str) -> Backing:
    return backing_of(spec(name))


@pytest.fixture
def device(name: str) -> Iterator[Device]:
    device = open_device(name)
    device.allocate(4096)
    yield device
    device.close()


def floats(device: Device, address: int, count: int) -> torch.Tensor:
    return device.view(address, (count,), (1,), torch.float32)


def test_arena_is_exactly_as_large_as_asked_and_aligned(device: Device) -> None:
    view = device.view(0, (4096,), (1,), torch.uint8)
    assert view.untyped_storage().nbytes() == 4096
    assert view.data_ptr() % 256 == 0


def test_an_empty_arena_is_allowed(name: str) -> None:
    device = open_device(name)
    device.allocate(0)
    assert device.view(0, (0,), (1,), torch.uint8).numel() == 0
    device.close()


def test_views_share_memory_but_not_versions(device: Device) -> None:
    whole = device.view(256, (16,), (1,), torch.uint8)
    part = device.view(256, (2, 2), (1, 2), torch.float32)
    before = part._version
    whole.zero_()
    part.fill_(1.0)
    assert part._version == before + 1
    assert device.view(256, (4,), (1,), torch.float32).tolist() == [1.0] * 4
    whole.zero_()
    assert part._version == before + 1


def test_a_resized_arena_keeps_its_first_bytes_and_grows_back(device: Device) -> None:
    """Views from before stay good; half an arena is less than a page, and is kept to the byte."""
    whole = device.view(0, (4096,), (1,), torch.uint8)
    for size in (2048, 256, 3000):
        whole.fill_(7)
        device.resize(size)
        assert device.arena_bytes == size
        first = device.view(0, (size,), (1,), torch.uint8)
        assert bool((first == 7).all())
        first.fill_(8)
        device.resize(4096)
        assert bool((whole[:size] == 8).all())
        whole.fill_(9)
        assert bool((device.view(0, (4096,), (1,), torch.uint8) == 9).all())
    device.resize(0)
    device.resize(4096)
    whole.fill_(7)
    assert bool((whole == 7).all())


def test_the_cpu_gives_back_what_is_beyond_a_resized_arena() -> None:
    device, size = open_device("cpu"), 64 << 20
    device.allocate(size)
    whole = device.view(0, (size,), (1,), torch.uint8)
    resident = psutil.Process().memory_info
    for _ in range(2):
        before = resident().rss
        whole.fill_(7)
        assert resident().rss - before > 0.8 * size
        device.resize(1 << 20)
        assert resident().rss - before < 0.2 * size
    assert bool((whole[: 1 << 20] == 7).all())
    device.close()


@NO_GPU
def test_a_gpu_gives_back_what_is_beyond_a_resized_arena() -> None:
    device, size = open_device("cuda:0"), 64 << 20
    device.allocate(size)
    whole = device.view(0, (size,), (1,), torch.uint8)
    free = [torch.cuda.mem_get_info()[0]]
    whole.fill_(7)
    for kept in (1 << 20, size, 1 << 20):
        device.resize(kept)
        free.append(torch.cuda.mem_get_info()[0])
    assert [after - free[0] for after in free[1:]] == [62 << 20, 0, 62 << 20]
    assert bool((whole[: 1 << 20] == 7).all())
    device.close()
    assert torch.cuda.mem_get_info()[0] - free[0] == size


def test_host_memory_is_zeroed_and_aligned(backing: Backing) -> None:
    memory = backing.host_memory(1000)
    assert memory.dtype == torch.uint8
    assert memory.numel() == memory.untyped_storage().nbytes() == 1000
    assert memory.data_ptr() % 256 == 0
    assert not memory.any()
    assert backing.host_memory(0).numel() == 0


def test_load_compute_spill(device: Device, backing: Backing) -> None:
    host = backing.host_memory(2048)
    source, result = host[:1024].view(torch.float32), host[1024:].view(torch.float32)
    source.copy_(torch.arange(256.0))
    there = floats(device, 512, 256)
    device.load.begin()
    device.load.copy([(there, source)], 1024)
    device.load.end()
    device.compute.after(device.load.timeline, 1)
    device.compute.begin()
    device.compute.run(lambda: there.mul_(2), threads=1)
    device.compute.end()
    device.spill.after(device.compute.timeline, 1)
    device.spill.begin()
    device.spill.copy([(result, there)], 1024)
    device.spill.end()
    device.spill.finish()
    assert torch.equal(result, torch.arange(256.0) * 2)


def test_a_stream_waits_for_what_another_thread_has_not_given_yet(device: Device) -> None:
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


def test_a_stream_waits_for_the_host(device: Device) -> None:
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


def test_the_host_waits_for_a_stream(device: Device) -> None:
    called: list[str] = []
    happened = Event()
    device.compute.timeline.when(1, lambda: (called.append("when"), happened.set()))
    assert not device.compute.timeline.has_reached(1)
    device.compute.begin()
    device.compute.run(lambda: called.append("run"), threads=1)
    device.compute.end()
    device.compute.timeline.wait(1)
    device.compute.finish()
    assert device.compute.timeline.has_reached(1)
    assert happened.wait(timeout=10)
    assert called == ["run", "when"]


def test_spans_are_in_order_and_one_a_step(device: Device) -> None:
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


def test_threads_are_those_of_the_call_whatever_others_set(device: Device) -> None:
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


@pytest.mark.parametrize("direction", ["load", "spill"])
def test_link_pace(name: str, direction: str) -> None:
    """20 copies of 50 kB at 10 MB/s take 100 ms: never less, and not much more."""
    pacer = Pacer(10_000_000)
    device = open_device(name, PacedLink(load=pacer, spill=pacer))
    device.allocate(1 << 16)
    host = torch.zeros(50_000, dtype=torch.uint8)
    there = device.view(0, (50_000,), (1,), torch.uint8)
    stream = getattr(device, direction)
    pair = (there, host) if direction == "load" else (host, there)
    for _ in range(20):
        stream.begin()
        stream.copy([pair], 50_000)
        stream.end()
    stream.finish()
    spans = stream.new_spans()
    ratio = (spans[-1][1] - spans[0][0]) / 100e6
    device.close()
    assert 0.99 <= ratio < 2


def test_devices_on_one_link_share_its_pace(name: str) -> None:
    link = PacedLink(load=Pacer(10_000_000), spill=None)
    devices = [open_device(name, link) for _ in range(2)]
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
    assert 0.99 <= ratio < 3


@pytest.mark.parametrize(("kind", "text"), [("cuda:99", r"torch sees \d CUDA GPUs here"), ("tpu", "unknown backing")])
def test_backings_that_are_not_there_are_refused(kind: str, text: str) -> None:
    with pytest.raises(RunError, match=text):
        open_device(kind)
