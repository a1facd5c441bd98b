"""Forms that fake tensors have and real ones get."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import hydraplan.planner.frontend.tracing.kernels  # noqa: F401 - what is tested
from hydraplan.planner.frontend.models.fakes import making_fakes

OFFS = torch.tensor([2, 2, 5, 6], dtype=torch.int32)
Factors = Callable[[], tuple[Tensor, Tensor, Tensor | None]]
TAKEN: dict[str, Factors] = {
    "rows": lambda: (torch.randn(6, 8), torch.randn(4, 8, 12), OFFS),
    "transposed": lambda: (torch.randn(6, 8), torch.randn(4, 5, 8).mT, OFFS),
    "half": lambda: (torch.randn(6, 8).half(), torch.randn(4, 5, 8).mT.half(), OFFS),
    "columns": lambda: (torch.randn(4, 6, 8), torch.randn(5, 8).mT, torch.tensor([1, 2, 3, 5], dtype=torch.int32)),
    "inner": lambda: (torch.randn(8, 16), torch.randn(5, 16).mT, torch.tensor([1, 2, 3, 16], dtype=torch.int32)),
    "all": lambda: (torch.randn(4, 6, 8), torch.randn(4, 5, 8).mT, None),
    "narrow": lambda: (torch.randn(6, 16)[:, 4:12], torch.randn(4, 8, 8), OFFS),
}
REFUSED: dict[str, Factors] = {
    "double": lambda: (torch.randn(6, 8).double(), torch.randn(4, 8, 8).double(), OFFS),
    "mixed": lambda: (torch.randn(6, 8).bfloat16(), torch.randn(4, 8, 8), OFFS),
    "strided": lambda: (torch.randn(12, 16)[::2, ::2], torch.randn(4, 8, 8), OFFS),
    "unaligned": lambda: (torch.randn(6, 8), torch.randn(4, 8, 5), OFFS),
    "offs": lambda: (torch.randn(6, 8), torch.randn(4, 8, 8), OFFS.long()),
}


def faked(factors: Factors) -> tuple[Tensor, Tensor, Tensor | None]:
    mode = FakeTensorMode()
    one, other, offs = factors()
    return mode.from_tensor(one), mode.from_tensor(other), None if offs is None else mode.from_tensor(offs)


def product(one: Tensor, other: Tensor, offs: Tensor | None) -> Tensor:
    return torch.nn.functional.grouped_mm(one, other, offs=offs)


def gradients(one: Tensor, other: Tensor, offs: Tensor | None) -> tuple[Tensor, ...]:
    leaves = [each.detach().requires_grad_() for each in (one, other)]
    return torch.autograd.grad(product(*leaves, offs).square().sum(), leaves)


def forms(*values: Tensor) -> list[tuple[object, ...]]:
    return [(each.shape, each.stride(), each.dtype) for each in values]


@pytest.mark.parametrize("name", TAKEN)
def test_grouped_products_have_the_forms_that_the_kernel_makes(name: str) -> None:
    assert forms(product(*faked(TAKEN[name]))) == forms(product(*TAKEN[name]()))


@pytest.mark.parametrize("name", ["rows", "narrow"])
def test_so_have_their_gradients(name: str) -> None:
    assert forms(*gradients(*faked(TAKEN[name]))) == forms(*gradients(*TAKEN[name]()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_kernel_refuses_is_refused_for_fakes(name: str) -> None:
    for factors in (REFUSED[name](), faked(REFUSED[name])):
        with pytest.raises(RuntimeError):
            product(*factors)


def test_parameters_that_are_made_fake_too() -> None:
    with making_fakes():
        one, other = torch.empty(6, 8), torch.empty(4, 8, 8)
        assert torch.nn.functional.grouped_mm(one, other, offs=torch.empty(4, dtype=torch.int32)).shape == (6, 8)
