"""What a CPU kernel allocates for itself while it runs, beyond its arguments and results.

    before             in the kernel                                after
    arguments          arguments, results, scratch                  arguments, results

No dispatch mode sees it: it is found by counting torch's own allocations around single operators (torch's profiler
with `profile_memory`; oneDNN's buffers come out of the same allocator, as resident memory confirms; torch 2.13 with
AVX-512), and given here by formulas from shapes, which are held against real allocations by tests. Each is an upper
bound: what lies in a library and depends on the processor (oneDNN's choice of an algorithm) is taken at its largest.
An operator that is named nowhere here was found to allocate nothing, or is not known.

    convolution        oneDNN: arguments and results once more, channels in blocks; else im2col of the whole batch
    recurrent layers   oneDNN: weights packed, gates of every step
    pointwise          an operand of another dtype is converted whole first
    matrix products    a factor without a dense row or column is copied; of 16 bits, packed
    others             the table `FORMULAS`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from hydraplan.planner.costs.convolutions import (
    CHANNEL_BLOCK,
    SMALL_BYTES,
    convolution_bytes,
    dense_bytes,
    strided_bytes,
    total_bytes,
)

TRANSPOSED_BLOCK = 60
"""Rows and columns that ATen turns at a time when it copies a transposed matrix (Copy.cpp)."""
FEW_CHANNELS = 4
KEY_BLOCK = 512
"""Keys that the CPU's fused attention takes at a time."""
_INDEX_BYTES = 8


def scratch_bytes(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, threads: int) -> int:
    """At most so much, at so many threads; 0: nothing that is known of."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((list(args), dict(kwargs))) if isinstance(leaf, Tensor)]
    made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not tensors or not made:
        return 0
    if name in ("convolution", "convolution_backward"):
        return convolution_bytes(func, args, kwargs, made, backward=name.endswith("backward"))
    if name == "_trilinear":
        return _trilinear(args, tensors, made)
    if name in PER_THREAD:
        return PER_THREAD[name](tensors, threads)
    formula = FORMULAS.get(name)
    if formula is not None:
        return formula(tensors, made)
    if name.startswith(CHOOSING):
        return _converted([each for each in tensors if each.dtype != torch.bool] or tensors, made)
    if torch.Tag.pointwise in func.tags or name in CONVERTING:
        return _converted(tensors, made)
    if name in FACTORING:
        return total_bytes(tensors) + 16 * SMALL_BYTES
    return 0


# -- one formula a kind -------------------------------------------------------------------------------


def _converted(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """TensorIterator on the CPU converts whole operands to the type that it computes in (`promote_inputs`), and a
    result from it."""
    common = tensors[0].dtype
    for each in tensors[1:]:
        common = torch.promote_types(common, each.dtype)
    if common.itemsize < made[0].dtype.itemsize and made[0].dtype != torch.bool:
        common = made[0].dtype
    others = [each for each in tensors if each.dtype != common and each.numel() > 1 and each.dim()]
    return sum(each.numel() * common.itemsize for each in others)


def _products(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """BLAS takes matrices whose rows or columns are dense."""
    factors = [each for each in tensors if each.dim() >= 2]
    of_one = [dense_bytes(each) // (each.shape[0] if each.dim() > 2 else 1) for each in factors if _scattered(each)]
    copied = sum(of_one) + (SMALL_BYTES if of_one else 0)
    if made[0].dtype in (torch.bfloat16, torch.float16):
        copied += total_bytes(factors[-1:]) + min(64 * SMALL_BYTES, total_bytes(factors))
    return copied


def _scattered(factor: Tensor) -> bool:
    return factor.numel() > 1 and 1 not in factor.stride()[-2:]


def _attention(tensors: Sequence[Tensor], threads: int) -> int:
    """Scores of a block of queries and keys, their sums and weighted values, in fp32 for each thread; packed keys and
    values of 16 bits. ATen's FlashAttentionKernel.cpp: blocks of 32, 64 or 256 queries, of 512 keys."""
    query, key, value = tensors[:3]
    queries, width = query.shape[-2:]
    block = min(queries, 256 if queries >= 768 else 64 if queries >= 192 else 32)
    keys = min(KEY_BLOCK, key.shape[-2])
    scores = threads * block * (2 * keys + 2 + width) * 4
    packed = dense_bytes(key) + dense_bytes(value) if query.itemsize < 4 else 0
    return scores + packed + strided_bytes(tensors[3:]) + SMALL_BYTES


def _attention_backward(tensors: Sequence[Tensor], threads: int) -> int:
    """The same with two blocks of scores; the gradient of the result is made dense."""
    gradient, query, key, value = tensors[:4]
    return 2 * _attention([query, key, value], threads) + dense_bytes(gradient)


def _resized(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """Resizing with antialias goes dimension by dimension."""
    small, large = sorted((dense_bytes(tensors[0]), dense_bytes(made[0])))
    longest = max(max(tensors[0].shape), max(made[0].shape))
    ratio = max(1.0, large / max(1, small))
    return math.ceil(small * ratio) + 2 * 32 * longest * math.ceil(math.sqrt(ratio)) + SMALL_BYTES


def _weights_of(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """Factors of every place; pictures of few channels are turned to channels last and back."""
    turned = dense_bytes(tensors[0]) + dense_bytes(made[0]) if tensors[0].shape[1] <= FEW_CHANNELS else 0
    return turned + 64 * (sum(made[0].shape[2:]) + sum(tensors[0].shape[2:])) + strided_bytes(tensors) + SMALL_BYTES


def _channels(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    first = tensors[0]
    return 4 * 2 * 4 * (first.shape[0] * first.shape[1] if first.dim() > 1 else first.numel()) + SMALL_BYTES


def _recurrent(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """oneDNN's LSTM: weights packed (in the backward their gradients too), gates of every step."""
    sequence, into, hidden = tensors[:3]
    steps, batch, _ = sequence.shape
    gates = steps * batch * (into.shape[0] + CHANNEL_BLOCK) * 4
    copies = 3 if len(made) > 4 else 2
    return gates + copies * (dense_bytes(into) + dense_bytes(hidden)) + strided_bytes(tensors) + 16 * SMALL_BYTES


Formula = Callable[[Sequence[Tensor], Sequence[Tensor]], int]
"""(tensor arguments, results) -> bytes."""


def _sum_of(*parts: Formula) -> Formula:
    return lambda tensors, made: sum(part(tensors, made) for part in parts)


def _first(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    return dense_bytes(tensors[0])


def _result(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    return dense_bytes(made[0])


def _strides(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    return strided_bytes(tensors)


def _with_indices(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    first = tensors[0]
    return first.numel() * (first.itemsize + _INDEX_BYTES) + SMALL_BYTES


def _copy(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """A block of a transposed matrix."""
    turned = [each for each in tensors if each.dim() == 2 and each.numel() >= TRANSPOSED_BLOCK**2]
    if not any(each.stride(0) == 1 for each in turned):
        return 0
    return TRANSPOSED_BLOCK**2 * max(each.itemsize for each in turned)


def _softmax(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    return strided_bytes(tensors) + (4 * SMALL_BYTES if strided_bytes(tensors) else 0)


def _slices(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """Values and places of one slice at a time."""
    first = tensors[0]
    return 2 * max(first.shape, default=1) * (first.itemsize + _INDEX_BYTES) + strided_bytes(tensors)


def _bag_backward(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    gradient, indices = tensors[:2]
    return 4 * dense_bytes(indices) + 3 * dense_bytes(gradient) + SMALL_BYTES


def _indices(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    return 4 * sum(dense_bytes(each) for each in tensors if not each.is_floating_point()) + SMALL_BYTES


def _trilinear(args: Sequence[Any], tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """The three-fold product at one place of the dimension that is unrolled, before it is summed."""
    shapes = []
    for factor, added in zip(tensors, args[3:6], strict=False):
        shape = list(factor.shape)
        for place in sorted(added):
            shape.insert(place, 1)
        shapes.append(shape)
    whole = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    unrolled = args[7] if len(args) > 7 else 1
    return int(math.prod(whole)) // int(whole[unrolled]) * made[0].itemsize + 2 * total_bytes(made[:1]) + SMALL_BYTES


def _paths(tensors: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    return dense_bytes(tensors[-1]) + SMALL_BYTES


PER_THREAD: Mapping[str, Callable[[Sequence[Tensor], int], int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "native_layer_norm_backward": lambda tensors, threads: (
        2 * 4 * threads * tensors[1].shape[-1] * 2 + strided_bytes(tensors)
    ),
    "_fused_rms_norm_backward": lambda tensors, threads: (
        2 * 4 * threads * tensors[1].shape[-1] * 2 + strided_bytes(tensors)
    ),
}

CONVERTING = {"cumsum", "cumprod", "sum", "mean", "prod", "nansum"}
"""Not pointwise, and converts what it is given."""

CHOOSING = ("where", "masked_fill", "logical_", "bitwise_")
"""Reads booleans as they are."""

FACTORING = {
    "linalg_inv_ex", "linalg_qr", "_linalg_svd", "_linalg_eigh", "_linalg_det", "_linalg_slogdet", "linalg_eig",
    "_linalg_solve_ex", "linalg_lu",
    "linalg_lu_solve", "linalg_lu_factor_ex", "linalg_lstsq", "linalg_ldl_factor_ex", "geqrf",
}  # fmt: skip
"""LAPACK works in place on a copy, in column order."""

FORMULAS: Mapping[str, Formula] = {
    "mm": _products,
    "bmm": _products,
    "addmm": _products,
    "baddbmm": _products,
    "addbmm": _products,
    "mkldnn_rnn_layer": _recurrent,
    "mkldnn_rnn_layer_backward": _recurrent,
    "native_batch_norm": _sum_of(_channels, _strides),
    "_native_batch_norm_legit": _sum_of(_channels, _strides),
    "_native_batch_norm_legit_functional": _sum_of(_channels, _strides),
    "native_batch_norm_backward": _sum_of(_channels, _strides, lambda tensors, _: dense_bytes(tensors[1])),
    "native_group_norm": _sum_of(_channels, _strides),
    "native_group_norm_backward": _sum_of(_channels, _strides),
    "native_layer_norm": _strides,
    "clone": _copy,
    "copy_": _copy,
    "_to_copy": _copy,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    "_softmax_backward_data": _softmax,
    "_log_softmax_backward_data": _softmax,
    "_safe_softmax": _sum_of(_strides, lambda tensors, made: 2 * dense_bytes(made[0])),
    "logsumexp": _sum_of(_first, _result, _result, lambda tensors, made: SMALL_BYTES),
    "logcumsumexp": _strides,
    "kthvalue": _with_indices,
    "median": _sum_of(_first, _copy, lambda tensors, made: 8 * SMALL_BYTES),
    "nanmedian": _sum_of(_first, _copy, lambda tensors, made: 8 * SMALL_BYTES),
    "mode": _with_indices,
    "sort": _slices,
    "topk": _slices,
    "_upsample_bilinear2d_aa": _resized,
    "_upsample_bicubic2d_aa": _resized,
    "_upsample_bilinear2d_aa_backward": _resized,
    "_upsample_bicubic2d_aa_backward": _resized,
    "upsample_linear1d": _weights_of,
    "upsample_bilinear2d": _weights_of,
    "upsample_trilinear3d": _weights_of,
    "upsample_bicubic2d": _weights_of,
    "upsample_nearest1d": _weights_of,
    "upsample_nearest2d": _weights_of,
    "upsample_nearest3d": _weights_of,
    "max_pool2d_with_indices": _strides,
    "max_pool3d_with_indices": _strides,
    "max_pool2d_with_indices_backward": _strides,
    "max_pool3d_with_indices_backward": _strides,
    "avg_pool2d": _strides,
    "avg_pool2d_backward": _strides,
    "avg_pool3d": _strides,
    "_adaptive_avg_pool2d": _strides,
    "_adaptive_avg_pool2d_backward": _strides,
    "im2col": _first,
    "col2im": _first,
    "grid_sampler_2d": _strides,
    "grid_sampler_2d_backward": _strides,
    "_euclidean_dist": lambda tensors, made: 2 * total_bytes(tensors) + SMALL_BYTES,
    "_cdist_forward": _strides,
    "_cdist_backward": _strides,
    "_ctc_loss": _strides,
    "_ctc_loss_backward": _paths,
    "_embedding_bag": _indices,
    "_embedding_bag_forward_only": _indices,
    "_embedding_bag_backward": _bag_backward,
    "_embedding_bag_dense_backward": _bag_backward,
    "embedding_dense_backward": _strides,
    "_fft_r2c": _strides,
    "_fft_c2c": _strides,
    "_fft_c2r": _first,
}
