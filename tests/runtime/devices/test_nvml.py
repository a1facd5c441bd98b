"""What the driver tells of GPUs, and what it does not: NVML's own error without a driver, and a fake of it with one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
import torch
from support.fakenvml import GIB, UUIDS, FakeNvml, plant
from support.realplan import lm_job, real_plan
from support.whole import cluster

from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.workload import Cluster
from hydraplan.runtime import execute
from hydraplan.runtime.devices.nvml import Gpu, Holder, gpu_by_uuid, gpus
from hydraplan.runtime.devices.room import refuse_without_room


def nvml_is_here() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


def backed(*backings: str, budget: int = 8 * GIB) -> Cluster:
    made = cluster(len(backings), budget_bytes=budget)
    devices = tuple(replace(device, backing=each) for device, each in zip(made.devices, backings, strict=True))
    return replace(made, devices=devices)


# -- without a driver ---------------------------------------------------------------------------------


@pytest.mark.skipif(nvml_is_here(), reason="this machine has a driver")
def test_without_a_driver_there_are_no_gpus() -> None:
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlInit()
    assert gpus() == ()
    assert gpu_by_uuid(UUIDS[0]) is None


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_NO_PERMISSION]
)
def test_a_driver_that_does_not_answer_is_none(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plant(monkeypatch, FakeNvml())
    fake.refuses["nvmlInit"] = code
    assert gpus() == ()
    assert "nvmlShutdown" not in fake.asked


def test_a_cluster_of_cpus_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plant(monkeypatch, FakeNvml())
    refuse_without_room(backed("cpu", "cpu"))
    assert not fake.asked


# -- with one -----------------------------------------------------------------------------------------


def test_gpus_as_the_driver_tells_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plant(monkeypatch, FakeNvml())
    fake.processes[0] = [(42, GIB), (os.getpid(), 2 * GIB), (43, 3 * GIB), (44, None)]
    fake.process_names[43] = "/usr/bin/python3"
    first, second = gpus()
    assert fake.open == 0
    assert first == Gpu(
        name="NVIDIA L4",
        uuid=f"GPU-{UUIDS[0]}",
        total_bytes=23 * GIB,
        free_bytes=9 * GIB,
        link_generation=4,
        link_width=8,
        mig=False,
        holders=(
            Holder(pid=43, name="python3", used_bytes=3 * GIB),
            Holder(pid=42, name=None, used_bytes=GIB),
            Holder(pid=44, name=None, used_bytes=None),
        ),
    )
    assert gpu_by_uuid(UUIDS[1]) == second


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetMemoryInfo", "free_bytes"),
        ("nvmlDeviceGetMaxPcieLinkGeneration", "link_generation"),
        ("nvmlDeviceGetCurrPcieLinkWidth", "link_width"),
        ("nvmlDeviceGetUUID", "uuid"),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_SUPPORTED])
def test_what_may_not_be_read_is_none_and_the_rest_is_there(
    function: str, field: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = plant(monkeypatch, FakeNvml())
    expected = gpus()[0]
    fake.refuses[function] = code
    found = gpus()[0]
    assert getattr(found, field) is None
    assert found.name == expected.name and found.holders == expected.holders


def test_a_card_that_is_split_tells_no_memory_of_its_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plant(monkeypatch, FakeNvml())
    fake.mig.add(0)
    split, whole = gpus()
    assert split.mig and split.free_bytes is None and split.holders is None
    assert not whole.mig and whole.free_bytes == 23 * GIB


# -- room ---------------------------------------------------------------------------------------------


def test_a_budget_above_what_is_free_is_refused_with_who_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plant(monkeypatch, FakeNvml())
    fake.processes[0] = [(42, 13 * GIB), (7, GIB)]
    fake.process_names[42] = "/opt/bin/train"
    refuse_without_room(backed("cuda:0", "cpu", "cuda:1", budget=9 * GIB))
    with pytest.raises(RunError) as refused:
        refuse_without_room(backed("cuda:0", budget=9 * GIB + 1))
    assert str(refused.value) == (
        "cpu0 may use 9.0 GiB of cuda:0 (NVIDIA L4), which has 9.0 GiB of 23.0 GiB free: "
        "train (pid 42) holds 13.0 GiB, pid 7 holds 1.0 GiB; "
        "end what holds it, or lower the budgets in the workload and plan again"
    )


def test_devices_of_one_gpu_add_up_and_all_gpus_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, FakeNvml())
    refuse_without_room(backed("cuda:1", "cuda:1", budget=11 * GIB))
    with pytest.raises(RunError) as refused:
        refuse_without_room(backed("cuda:0", "cuda:0", "cuda:1", "cuda:1", budget=12 * GIB))
    text = str(refused.value)
    assert "cpu0, cpu1 may use 24.0 GiB of cuda:0 (NVIDIA L4)" in text
    assert "no process that can be seen from here holds 14.0 GiB" in text
    assert "cpu2, cpu3 may use 24.0 GiB of cuda:1 (NVIDIA Unheard Of 9000)" in text


def test_a_run_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant(monkeypatch, FakeNvml())
    made = real_plan([lm_job()], repeat=4)
    devices = tuple(replace(each, backing="cuda:0", budget_bytes=5 * GIB) for each in made.workload.cluster.devices)
    where = replace(made.workload.cluster, devices=devices)
    with pytest.raises(RunError, match=r"may use 10.0 GiB of cuda:0 \(NVIDIA L4\), which has 9.0 GiB"):
        execute(replace(made, workload=replace(made.workload, cluster=where)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["no permission", "split", "no driver"])
def test_where_nvml_does_not_tell_what_is_free_torch_does(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = plant(monkeypatch, FakeNvml())
    if how == "split":
        fake.mig.add(0)
    else:
        fake.refuses["nvmlInit" if how == "no driver" else "nvmlDeviceGetMemoryInfo"] = pynvml.NVML_ERROR_NO_PERMISSION
    refuse_without_room(backed("cuda:0", budget=5 * GIB))
    with pytest.raises(
        RunError, match=r"may use 6.0 GiB of cuda:0 \(NVIDIA L4\), which has 5.0 GiB of 23.0 GiB free: "
    ):
        refuse_without_room(backed("cuda:0", budget=6 * GIB))


def test_a_gpu_that_is_not_there_is_left_to_its_backing(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, FakeNvml())
    refuse_without_room(backed("cuda:7", budget=1 << 60))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_this_machine_s_gpu() -> None:
    found = gpu_by_uuid(str(torch.cuda.get_device_properties(0).uuid))
    assert found is not None
    assert found.name == torch.cuda.get_device_name(0)
    refuse_without_room(backed("cuda:0", budget=1 << 20))
    with pytest.raises(RunError, match="may use"):
        refuse_without_room(backed("cuda:0", budget=1 << 50))
