"""Kernels' own scratch memory: layers whose convolution takes far more than its tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Series:
    """8 rows of sound."""

    x = torch.randn(8, 4, 8192, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index]}


class Pictures(Series):
    x = torch.randn(8, 4, 96, 96, generator=torch.Generator().manual_seed(5))


LAYERS = {
    "wide kernel": (lambda: nn.Conv1d(4, 32, 401), Series),
    "upsampling": (lambda: nn.ConvTranspose1d(4, 16, 256, stride=2), Series),
    "wide picture kernel": (lambda: nn.Conv2d(4, 16, 21), Pictures),
}


def make(name: str) -> nn.Module:
    return LAYERS[name][0]()


def data(name: str) -> Series:
    return LAYERS[name][1]()


def squared(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).square().mean()


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since it was reset."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def step_bytes(name: str) -> int:
    """What a forward and a backward of a layer add to the process at most."""
    model, rows = make(name), data(name)
    batch = {"x": torch.stack([rows[index]["x"] for index in range(8)])}
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    squared(model, batch).backward()
    return resident("VmHWM") - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    squared(nn.Conv1d(4, 4, 3), {"x": torch.randn(1, 4, 16)}).backward()  # what a first call loads
    for each in LAYERS:
        print(step_bytes(each))
