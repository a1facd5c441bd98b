"""What kernels really allocate while they run, by torch's own count, against what is planned for them: never above."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hydraplan.planner.costs.scratch import scratch_bytes

SLACK_BYTES = 1024
"""Of numbers and sizes that every operator makes."""


class RealScratch(TorchDispatchMode):
    """Runs every operator under torch's allocation profile: (operator, allocated beyond its results, planned)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, int]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        before = {each.untyped_storage()._cdata for each in tree_leaves((args, given)) if isinstance(each, Tensor)}
        with profile(profile_memory=True) as seen:
            result = func(*args, **given)
        made = {
            each.untyped_storage()._cdata: each.untyped_storage().nbytes()
            for each in tree_leaves(result)
            if isinstance(each, Tensor) and each.untyped_storage()._cdata not in before
        }
        events = [each for each in seen.kineto_results.events() if each.name() == "[memory]"]
        live = peak = 0
        for event in sorted(events, key=lambda each: each.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
        planned = scratch_bytes(func, args, given, result, torch.get_num_threads())
        self.found.append((str(func), peak - sum(made.values()), planned))
        return result


def real(function: Callable[..., Tensor], *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> RealScratch:
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    parameters = list(function.parameters()) if isinstance(function, nn.Module) else []
    with RealScratch() as counted:
        made = function(*leaves)
        torch.autograd.grad(made, [*leaves, *parameters], torch.ones_like(made), allow_unused=True)
    return counted


ROWS = torch.randint(0, 50, (400,), generator=torch.Generator().manual_seed(1))

CONVOLUTIONS: Mapping[str, tuple[nn.Module, tuple[int, ...]]] = {
    "long window": (nn.Conv1d(4, 32, 401), (4, 4, 2000)),
    "long window, one item": (nn.Conv1d(4, 32, 401), (1, 4, 2000)),
    "many channels, long": (nn.Conv1d(64, 65, 101, 2), (3, 64, 1000)),
    "double precision": (nn.Conv1d(4, 32, 101, dtype=torch.float64), (4, 4, 1000)),
    "pictures": (nn.Conv2d(3, 64, 7, 2, 3), (2, 3, 64, 64)),
    "blocks": (nn.Conv2d(64, 64, 3, padding=1), (2, 64, 24, 24)),
    "odd channels": (nn.Conv2d(33, 65, 3, padding=1), (2, 33, 24, 24)),
    "depthwise": (nn.Conv2d(64, 64, 3, groups=64), (2, 64, 24, 24)),
    "groups": (nn.Conv2d(24, 24, 3, groups=4), (2, 24, 24, 24)),
    "dilated": (nn.Conv2d(16, 16, 3, dilation=2), (2, 16, 24, 24)),
    "volume": (nn.Conv3d(8, 16, 3), (2, 8, 10, 12, 12)),
    "tiny volume": (nn.Conv3d(3, 1, 3), (1, 3, 6, 6, 6)),
    "transposed": (nn.ConvTranspose1d(32, 4, 101), (2, 32, 500)),
    "transposed, groups": (nn.ConvTranspose2d(64, 64, 4, 2, 1, groups=4), (2, 64, 14, 14)),
    "transposed, double": (nn.ConvTranspose2d(33, 24, 2, dtype=torch.float64), (5, 33, 32, 32)),
    "transposed volume": (nn.ConvTranspose3d(8, 16, 3), (2, 8, 6, 10, 10)),
    "bf16": (nn.Conv2d(16, 33, 3, dtype=torch.bfloat16), (2, 16, 24, 24)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_allocate_no_more_than_planned(name: str) -> None:
    module, shape = CONVOLUTIONS[name]
    found = real(module, shape, dtype=next(module.parameters()).dtype).found
    assert [each for each in found if each[1] > each[2] + SLACK_BYTES] == []
    own = [each for each in found if each[0].startswith("aten.convolution")]
    assert len(own) == 2
    assert max(taken for _, taken, _ in own) > 10_000, "the count sees oneDNN's own"


@pytest.mark.parametrize(("channels", "made"), [(3, 8), (16, 16), (33, 65), (64, 64)])
def test_channels_last_is_not_counted_as_copied(channels: int, made: int) -> None:
    module = nn.Conv2d(channels, made, 3, padding=1).to(memory_format=torch.channels_last)
    found = real(lambda x: module(x.contiguous(memory_format=torch.channels_last)), (4, channels, 24, 24)).found
    own = [each for each in found if each[0].startswith("aten.convolution")]
    assert len(own) == 2 and [each for each in found if each[1] > each[2] + SLACK_BYTES] == []
    weights = 2 * 4 * 9 * (-(-channels // 16) * 16) * (-(-made // 16) * 16)
    assert all(planned <= weights + 40_000 for _, _, planned in own)


OPERATORS: Mapping[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "matrix product of scattered rows": (lambda a, b: a[::2, ::2] @ b[::2, ::2], ((200, 200), (200, 200))),
    "batched product of scattered rows": (lambda a, b: torch.bmm(a[:, ::2, ::2], b[:, ::2, ::2]), ((3, 80, 80),) * 2),
    "attention": (lambda a: F.scaled_dot_product_attention(a, a, a, is_causal=True), ((2, 4, 200, 32),)),
    "short attention": (lambda a: F.scaled_dot_product_attention(a, a, a), ((2, 4, 17, 8),)),
    "mixed types": (lambda a: a.double() * a, ((300, 40),)),
    "a mask of bool times numbers": (lambda a: (a > 0) * a, ((300, 40),)),
    "cumulative product": (lambda a: a.cumprod(0), ((100, 200),)),
    "sort": (lambda a: a.sort(0)[0], ((300, 40),)),
    "k-th value": (lambda a: a.kthvalue(5, 0)[0], ((300, 40),)),
    "median": (lambda a: a.median(0)[0], ((300, 40),)),
    "logsumexp": (lambda a: a.logsumexp(0), ((300, 40),)),
    "softmax of columns": (lambda a: a.t().softmax(-1), ((300, 200),)),
    "batch norm": (nn.BatchNorm2d(16), ((4, 16, 12, 12),)),
    "group norm": (nn.GroupNorm(4, 16), ((4, 16, 12, 12),)),
    "layer norm": (nn.LayerNorm(256), ((300, 256),)),
    "resized": (lambda a: F.interpolate(a, scale_factor=2, mode="bilinear"), ((2, 3, 40, 40),)),
    "resized with antialias": (
        lambda a: F.interpolate(a, scale_factor=0.5, mode="bicubic", antialias=True),
        ((2, 3, 80, 80),),
    ),
    "unfold": (lambda a: F.unfold(a, 3), ((2, 4, 24, 24),)),
    "fold": (lambda a: F.fold(a, (16, 16), 3, padding=1), ((2, 36, 256),)),
    "distances": (lambda a, b: torch.cdist(a, b), ((2, 100, 16), (2, 80, 16))),
    "bilinear form": (nn.Bilinear(16, 24, 20), ((64, 16), (64, 24))),
    "Fourier": (lambda a: torch.fft.irfft(torch.fft.rfft(a, dim=0), dim=0), ((300, 200),)),
    "inverse": (lambda a: torch.linalg.inv(a), ((3, 40, 40),)),
    "singular values": (lambda a: torch.linalg.svd(a, full_matrices=False)[1], ((3, 40, 20),)),
    "bag": (lambda w: F.embedding_bag(ROWS.view(40, 10), w, mode="mean"), ((50, 64),)),
    "bag of largest": (lambda w: F.embedding_bag(ROWS.view(40, 10), w, mode="max"), ((50, 64),)),
    "rows added": (lambda w, v: w.index_add(0, ROWS, v), ((50, 64), (400, 64))),
    "written": (lambda w, v: w.index_put((ROWS,), v, accumulate=True), ((50, 64), (400, 64))),
    "largest by place": (
        lambda w, v: w.scatter_reduce(0, ROWS[:, None].expand(-1, 64), v, "amax"),
        ((50, 64), (400, 64)),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_allocate_no_more_than_planned(name: str) -> None:
    function, shapes = OPERATORS[name]
    found = real(function, *shapes).found
    assert len(found) >= 2
    assert [each for each in found if each[1] > each[2] + SLACK_BYTES] == []


def test_a_bidirectional_lstm_allocates_no_more_than_planned() -> None:
    layer = nn.LSTM(24, 40, num_layers=2, bidirectional=True, batch_first=True)
    found = real(lambda x: layer(x)[0], (3, 20, 24)).found
    assert sum("mkldnn_rnn_layer" in name for name, _, _ in found) >= 4
    assert [each for each in found if each[1] > each[2] + SLACK_BYTES] == []
