"""What any backing must do (`tools.gpu.contract`). A new one joins `BACKINGS`; without processor: a visible skip."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest
import torch

from hydraplan.plans.language.errors import RunError
from hydraplan.runtime.devices import cuda
from hydraplan.tools.gpu.contract import CONTRACT, open_device

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
BACKINGS = ["cpu", pytest.param("cuda:0", marks=NO_GPU)]


@pytest.mark.parametrize("backing", BACKINGS)
@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(check: Callable[[str], None], backing: str) -> None:
    check(backing)


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


@pytest.mark.parametrize(("kind", "text"), [("cuda:99", r"torch sees \d CUDA GPUs here"), ("tpu", "unknown backing")])
def test_backings_that_are_not_there_are_refused(kind: str, text: str) -> None:
    with pytest.raises(RunError, match=text):
        open_device(kind)


class FakeCudart:
    """CUDA's runtime as torch binds it: its errors are an enum, whose members are all true."""

    class cudaError:
        def __init__(self, number: int) -> None:
            self.number = number

        def __int__(self) -> int:
            return self.number

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.registered: set[int] = set()

    def cudaHostRegister(self, address: int, size: int, flags: int) -> cudaError:
        self.registered.add(address)
        return self.cudaError(self.answer)

    def cudaHostUnregister(self, address: int) -> cudaError:
        self.registered.remove(address)
        return self.cudaError(0)


def test_host_memory_of_a_gpu_is_registered_as_long_as_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart(0)
    monkeypatch.setattr("torch.cuda.cudart", lambda: cudart)
    memory = cuda.CudaBacking("cuda:0").host_memory(1000)
    part = memory[:10]
    del memory
    assert cudart.registered == {part.data_ptr()}
    assert not part.any()
    del part
    assert not cudart.registered


def test_host_memory_that_cannot_be_registered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.cudart", lambda: FakeCudart(2))
    with pytest.raises(RunError, match="the host has no 1000 bytes of memory that a GPU may read"):
        cuda.CudaBacking("cuda:0").host_memory(1000)


def test_cublas_is_asked_for_the_same_bits_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cuda.WORKSPACE_CONFIG, raising=False)
    cuda.CudaBacking("cuda:0")
    assert cuda.os.environ[cuda.WORKSPACE_CONFIG] == ":4096:8"
    monkeypatch.setenv(cuda.WORKSPACE_CONFIG, ":16:8")
    cuda.CudaBacking("cuda:0")
    assert cuda.os.environ[cuda.WORKSPACE_CONFIG] == ":16:8", "what a user has chosen stays"
