"""Which module backs a device: the one place that knows them all."""

from __future__ import annotations

import re

from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.workload import Device as DeviceSpec
from hydraplan.runtime.devices.cpu import CpuBacking
from hydraplan.runtime.devices.cuda import CudaBacking
from hydraplan.runtime.devices.device import Backing


def backing_of(spec: DeviceSpec) -> Backing:
    """The backing of a device. Raises RunError where there is none."""
    if spec.backing == "cpu":
        return CpuBacking()
    if re.fullmatch(r"cuda:\d+", spec.backing):
        return CudaBacking(spec.backing)
    raise RunError(f'device {spec.name}: unknown backing {spec.backing!r}; it is "cpu" or "cuda:N"')
