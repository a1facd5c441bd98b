"""Modules of fake tensors convert like real ones: `.to(...)`, `.float()` and the like, called while a model is made.

torch swaps a fake parameter with its conversion, and refuses where anything else knows the tensor, as the fake mode
itself does of one that an operator has initialised for the first time. A fake tensor has no content to swap: taking
the conversion's metadata is enough, and keeps tied names one parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


@contextmanager
def converting_fake_modules() -> Iterator[None]:
    """Let `torch.nn.Module` convert its fake parameters; real ones as ever."""
    swap: Callable[[Tensor, Tensor], None] = torch.utils.swap_tensors

    def take(parameter: Tensor, converted: Tensor) -> None:
        if not isinstance(parameter, FakeTensor):
            swap(parameter, converted)
        elif _form(parameter) != _form(converted):
            parameter.data = converted.data

    torch.utils.swap_tensors = take
    try:
        yield
    finally:
        torch.utils.swap_tensors = swap


def _form(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.dtype, tensor.device, tensor.stride())
