"""Making a model under fake tensors: its parameters have shapes and no values, but a constructor may look at some.

drop path rates     [each.item() for each in torch.linspace(0, rate, depth)]     linspace has its values,
                    linspace.split(depths)[0].tolist()                           and so has what is made of them
trunc_normal_       draws again until no value is out of bounds                   draws nothing: there are none
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode, fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

MOST_VALUES = 4096
"""Of the largest tensor whose values are made."""


@contextmanager
def making_fakes() -> Iterator[None]:
    """In force while a model is made that only gets traced."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    drawing, limit = nn.init._no_grad_trunc_normal_, fake_tensor.CONSTANT_NUMEL_LIMIT
    nn.init._no_grad_trunc_normal_ = _left_as_it_is
    fake_tensor.CONSTANT_NUMEL_LIMIT = MOST_VALUES
    try:
        with mode, _Ramps(mode):
            yield
    finally:
        nn.init._no_grad_trunc_normal_, fake_tensor.CONSTANT_NUMEL_LIMIT = drawing, limit


def without_values(tensor: Tensor) -> None:
    """Forget a fake tensor's values: the real model that is traced for execution has none to look at either."""
    if isinstance(tensor, FakeTensor):
        tensor.constant = None


def _left_as_it_is(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


class _Ramps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fake tensors that linspace makes carry their values."""

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.aten.linspace.default or args[2] > MOST_VALUES:
            return func(*args, **kwargs)
        with _disable_current_modes():
            real = func(*args, **(kwargs | {"device": torch.device("cpu")}))
        return self._mode.fake_tensor_converter.from_real_tensor(self._mode, real, make_constant=True)
