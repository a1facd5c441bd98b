"""Whether the GPUs that devices are backed by have room for their budgets, before anything is taken of them.

gpu0 (cuda:0, 8 GiB)  --+
                        +-->  NVIDIA L4, 23 GiB: 9 GiB free, python (pid 4242) holds 13 GiB    -> refused
gpu1 (cuda:0, 8 GiB)  --+
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.quantities import format_bytes
from hydraplan.plans.language.workload import Cluster, Device
from hydraplan.runtime.devices.nvml import Gpu, Holder, gpu_by_uuid

MOST_HOLDERS = 3


def refuse_without_room(cluster: Cluster) -> None:
    """Raises RunError with every GPU whose devices' budgets together are more than is free, and who holds it.

    A GPU that is not there is left to its backing, which says so.
    """
    sharing: dict[int, list[Device]] = defaultdict(list)
    for device in cluster.devices:
        kind, _, number = device.backing.partition(":")
        if kind == "cuda" and number.isdigit():
            sharing[int(number)].append(device)
    there = torch.cuda.device_count() if sharing else 0
    short = [text for number in sorted(sharing) if number < there and (text := _short(number, sharing[number]))]
    if short:
        raise RunError(f"{'; '.join(short)}; end what holds it, or lower the budgets in the workload and plan again")


def _short(number: int, devices: Sequence[Device]) -> str | None:
    gpu = gpu_by_uuid(str(torch.cuda.get_device_properties(number).uuid))
    free: int
    total: int | None
    if gpu is None or gpu.free_bytes is None:
        free, total = torch.cuda.mem_get_info(number)
    else:
        free, total = gpu.free_bytes, gpu.total_bytes
    wanted = sum(device.budget_bytes for device in devices)
    if wanted <= free:
        return None
    names = ", ".join(device.name for device in devices)
    name = gpu.name if gpu is not None else torch.cuda.get_device_name(number)
    of = f" of {format_bytes(total)}" if total is not None else ""
    return (
        f"{names} may use {format_bytes(wanted)} of cuda:{number} ({name}), which has {format_bytes(free)}{of} free: "
        f"{_held(gpu, free, total)}"
    )


def _held(gpu: Gpu | None, free: int, total: int | None) -> str:
    if gpu is None or gpu.holders is None:
        return "the driver does not tell who holds the rest (nvidia-smi may)"
    told = [_holder(each) for each in gpu.holders[:MOST_HOLDERS]]
    if len(gpu.holders) > MOST_HOLDERS:
        told.append(f"{len(gpu.holders) - MOST_HOLDERS} more processes the rest")
    elif not told:
        held = format_bytes(total - free) if total is not None else "the rest"
        told.append(f"no process that can be seen from here holds {held} (the driver, or another container)")
    return ", ".join(told)


def _holder(each: Holder) -> str:
    who = f"{each.name} (pid {each.pid})" if each.name else f"pid {each.pid}"
    return f"{who} holds {format_bytes(each.used_bytes)}" if each.used_bytes is not None else f"{who} holds some"
