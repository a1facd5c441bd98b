"""Forms of results that torch's own fake tensors do not know: what CPU kernels take and make, registered on import.

_grouped_mm         the products of a mixture of experts; torch's fake one takes bf16 alone, as its fast CUDA kernel
mkldnn_rnn_layer    an LSTM; torch's fake one leaves out the workspace that its backward needs, most of what it keeps
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_impls import op_implementations_dict
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from hydraplan.planner.frontend.tracing.operators import given

_ROW_BYTES = 16
"""Rows of factors and results begin at multiples of it."""
_GROUPED = (torch.float32, torch.bfloat16, torch.float16)


def _grouped_mm(mode: FakeTensorMode, target: OpOverload, *args: Any, **kwargs: Any) -> Tensor:
    """The result's form; RuntimeError for what the kernel would refuse.

    Shapes, with G groups that `offs` divides the rows or columns into: (M, K) x (G, K, N) -> (M, N);
    (G, M, K) x (K, N) -> (M, N); (M, K) x (K, N) -> (G, M, N); without groups (G, M, K) x (G, K, N) -> (G, M, N).
    """
    one, other, offs, out_dtype = (given(target, args, kwargs, name) for name in ("self", "mat2", "offs", "out_dtype"))
    if one.dtype != other.dtype or one.dtype not in _GROUPED or out_dtype not in (None, one.dtype):
        raise RuntimeError(
            f"grouped_mm takes two factors of one dtype among {_GROUPED} and keeps it; "
            f"it gets {one.dtype} and {other.dtype}, for {out_dtype or one.dtype}"
        )
    for factor in (one, other):
        _check_strides(factor)
    rows, columns = one.shape[-2], other.shape[-1]
    if (one.dim() == 2 or other.dim() == 2) and (offs is None or offs.dtype != torch.int32):
        raise RuntimeError("grouped_mm takes offs, of dtype int32, where one factor has no groups")
    per_row = _ROW_BYTES // one.itemsize
    padded = -(-columns // per_row) * per_row
    shape, stride = [rows, columns], [padded, 1]
    if one.dim() == other.dim():
        groups = one.shape[0] if one.dim() == 3 else offs.shape[0]
        shape, stride = [groups, *shape], [rows * padded, *stride]
    with mode:
        return torch.empty_strided(shape, stride, dtype=one.dtype, device=one.device)


def _check_strides(factor: Tensor) -> None:
    (rows, columns), (down, right) = factor.shape[-2:], factor.stride()[-2:]
    per_row = _ROW_BYTES // factor.itemsize
    by_columns = down == 1 and right >= max(1, rows) and right % per_row == 0
    by_rows = right == 1 and down >= max(1, columns) and down % per_row == 0
    if not by_columns and not by_rows:
        raise RuntimeError(
            f"grouped_mm takes factors whose rows or columns lie at multiples of {_ROW_BYTES} bytes; "
            f"it gets shape {tuple(factor.shape)} with strides {factor.stride()}"
        )


def _mkldnn_rnn_layer(mode: FakeTensorMode, target: OpOverload, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """All four results; how large oneDNN makes the workspace is asked of oneDNN itself, on zeros of these shapes."""
    layer = given(target, args, kwargs, "input")
    forms = tree_map_only(Tensor, lambda each: _Form(tuple(each.shape), each.dtype), (args, tuple(kwargs.items())))
    made = _made_of_zeros(target, *map(_hashable, forms), torch.is_grad_enabled())
    with mode:
        return tuple(torch.empty(form.shape, dtype=form.dtype, device=layer.device) for form in made)


class _Form(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype


def _hashable(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not isinstance(value, _Form):
        return tuple(map(_hashable, value))
    return value


@lru_cache(maxsize=64)
def _made_of_zeros(target: OpOverload, args: Any, kwargs: Any, grad: bool) -> tuple[_Form, ...]:
    def zeros(value: Any) -> Any:
        if isinstance(value, _Form):
            return torch.zeros(value.shape, dtype=value.dtype)
        return [zeros(each) for each in value] if isinstance(value, tuple) else value

    with _disable_current_modes(), torch.set_grad_enabled(grad):
        made = target(*map(zeros, args), **{name: zeros(value) for name, value in kwargs})
    nothing = torch.empty(0, dtype=torch.uint8)  # under no_grad there is no workspace
    return tuple(_Form(tuple(each.shape), each.dtype) for each in (nothing if each is None else each for each in made))


op_implementations_dict.setdefault(torch.ops.aten._grouped_mm.default, _grouped_mm)
op_implementations_dict.setdefault(torch.ops.aten.mkldnn_rnn_layer.default, _mkldnn_rnn_layer)
