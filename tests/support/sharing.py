"""Models whose tensors share memory, one habit each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 16
EQUAL = ("by data", "new parameter", "assigned", "buffer", "frozen", "three", "one unread", "flattened", "pairs")
REFUSED = {
    "slice": r"b\.weight \(16, 16\) and c\.bias \(16,\) share memory in different layouts.*\.clone\(\)",
    "transpose": r"b\.weight \(16, 16\) and c\.weight \(16, 16\) share memory in different layouts",
    "buffer of a part": r"b\.weight \(16, 16\) and kept \(16,\) share memory in different layouts",
    "expanded": r"parameter scale \(4, 16\) has strides \(0, 0\).*expand it in the forward",
    "complex": r"parameter waves is torch\.complex64.*view_as_real.*view_as_complex",
    "written": r"the forward writes to buffer kept, which shares its memory",
}


class Sharing(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, size) for size in (WIDTH, WIDTH, WIDTH, 8))
        weight = self.b.weight.data
        match kind:
            case "by data" | "one unread":
                self.c.weight.data = weight
            case "new parameter":
                self.c.weight = nn.Parameter(weight)
            case "assigned":
                self.load_state_dict(self.state_dict() | {"b.weight": weight, "c.weight": weight}, assign=True)
            case "buffer":
                self.register_buffer("kept", weight)
            case "written":  # two buffers
                self.register_buffer("kept", torch.zeros(WIDTH))
                self.register_buffer("other", self.kept.data)
            case "frozen":
                self.c.weight = nn.Parameter(weight, requires_grad=False)
            case "three":
                self.a.weight.data = self.c.weight.data = weight
            case "flattened":
                flat = torch.randn(2 * WIDTH * WIDTH) / 8
                self.b.weight, self.c.weight = (nn.Parameter(each.view(WIDTH, WIDTH)) for each in flat.chunk(2))
            case "slice":
                self.c.bias = nn.Parameter(weight[0])
            case "transpose":
                self.c.weight = nn.Parameter(weight.t())
            case "buffer of a part":
                self.register_buffer("kept", weight[0])
            case "expanded":
                self.scale = nn.Parameter(torch.ones(1, 1).expand(4, WIDTH))
            case "complex":
                self.waves = nn.Parameter(torch.randn(9, dtype=torch.cfloat))
            case "pairs":  # what the refusal of complex parameters says to do
                self.waves = nn.Parameter(torch.view_as_real(torch.randn(9, dtype=torch.cfloat)).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.b(torch.tanh(self.a(x))))
        if self.kind == "buffer":
            hidden = hidden + self.kept.mean()
        if self.kind == "written":
            self.kept.add_(1.0)
            hidden = hidden + self.other
        if self.kind == "expanded":
            hidden = hidden * self.scale
        if self.kind in ("complex", "pairs"):
            waves = torch.view_as_complex(self.waves) if self.kind == "pairs" else self.waves
            hidden = torch.fft.irfft(torch.fft.rfft(hidden) * waves, n=WIDTH)
        return self.d(hidden if self.kind == "one unread" else torch.tanh(self.c(hidden)))


def make(kind: str) -> Sharing:
    return Sharing(kind)


class Rows:
    x = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": torch.tensor(index % 8)}


def rows() -> Rows:
    return Rows()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch["x"]), batch["y"])
