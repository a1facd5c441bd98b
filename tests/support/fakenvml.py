"""NVML's interface, as pynvml has it, of a machine that we have not: what each function answers, or raises."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

GIB = 1 << 30
UUIDS = ("5f0e5a3c-0000-0000-0000-000000000001", "5f0e5a3c-0000-0000-0000-000000000002")


class FakeNvml:
    """Two cards. Handles are their numbers; `answers` and `refuses` change single functions."""

    NVMLError = pynvml.NVMLError

    def __init__(self, names: tuple[str, ...] = ("NVIDIA L4", "NVIDIA Unheard Of 9000")) -> None:
        self.names = names
        self.refuses: dict[str, int] = {}
        """Function -> NVML's error code."""
        self.processes: dict[int, list[tuple[int, int | None]]] = {}
        """Card -> (pid, bytes)."""
        self.process_names: dict[int, str] = {}
        self.free = {0: 9 * GIB, 1: 23 * GIB}
        self.mig: set[int] = set()
        self.open = 0
        self.asked: set[str] = set()

    def __getattribute__(self, name: str) -> object:
        if name.startswith("nvml"):
            self.asked.add(name)
            refused = self.refuses.get(name)
            if refused is not None:

                def refuse(*_: object) -> None:
                    raise pynvml.NVMLError(refused)

                return refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        for number, each in enumerate(UUIDS):
            if uuid == f"GPU-{each}":
                return number
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.names[handle]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{UUIDS[handle]}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=23 * GIB, free=self.free[handle], used=23 * GIB - self.free[handle])

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: int) -> int:
        return 4

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: int) -> int:
        return 8

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        return [int(handle in self.mig), 0]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes.get(handle, [])]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes.get(handle, [])[:1]]

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        if pid not in self.process_names:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.process_names[pid]


def plant(monkeypatch: pytest.MonkeyPatch, fake: FakeNvml) -> FakeNvml:
    """A machine with these cards: NVML and torch tell of them, and torch's own functions hold to what pynvml has."""
    from hydraplan.runtime.devices import nvml

    missing = [name for name in vars(FakeNvml) if name.startswith("nvml") and not hasattr(pynvml, name)]
    assert not missing, f"pynvml has no {missing}"
    monkeypatch.setattr(nvml, "pynvml", fake)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(fake.names))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: SimpleNamespace(uuid=UUIDS[number]))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: fake.names[number])
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda number: (5 * GIB, 23 * GIB))
    return fake
