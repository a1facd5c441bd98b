"""Work of operators, from shapes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from hydraplan.planner.costs.operators import CountWork, Work, duration_us
from hydraplan.plans.language.workload import Profile

PROFILE = Profile(
    name="p",
    flops_per_s=1_000_000,
    bytes_per_s=1_000_000,
    node_ns=1_000,
    copy_bytes_per_s=1,
    update_bytes_per_s=1,
    functions_per_s=1_000_000,
)


def test_products_count_operations_and_traffic() -> None:
    left, right = torch.ones(4, 8), torch.ones(8, 16)
    with CountWork() as count:
        left @ right
    assert count.work == Work(flops=2 * 4 * 8 * 16, traffic_bytes=4 * (32 + 128 + 64), functions=0.0, operators=1)


def test_views_cost_only_their_dispatch() -> None:
    value = torch.ones(4, 8)
    with CountWork() as count:
        value.t().reshape(2, 2, 8)[0]
    assert count.work.traffic_bytes == 4 * (32 + 32), "the reshape copies"
    assert count.work.operators >= 3
    with CountWork() as count:
        value.view(8, 4).t()
    assert count.work == Work(operators=2)


def test_expanded_and_looked_up_tensors_count_what_is_read() -> None:
    table, rows = torch.ones(1000, 8), torch.tensor([1, 2])
    with CountWork() as count:
        functional.embedding(rows, table)
    assert count.work.traffic_bytes == 2 * 8 + 2 * (2 * 8 * 4)
    with CountWork() as count:
        torch.ones(1, 8).expand(1000, 8) + 1
    assert count.work.traffic_bytes == 8 * 4 + 8 * 4 + 8000 * 4


def test_fused_attention_counts_its_two_products() -> None:
    query = torch.ones(1, 2, 16, 8, requires_grad=True)
    with CountWork() as count:
        result = functional.scaled_dot_product_attention(query, query, query)
    products = 2 * 2 * (2 * 16 * 16 * 8)
    assert count.work.flops == pytest.approx(products / 0.8)
    with CountWork() as count:
        torch.autograd.grad(result.sum(), query)
    assert count.work.flops == pytest.approx(2.5 * products / 0.8)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_fake_tensors_count_as_real_ones(dropout: float) -> None:
    works = []
    for mode in (FakeTensorMode(), nullcontext()):
        with mode:
            value, weight = torch.rand(2, 3, 8, 8), torch.rand(8, 8, requires_grad=True)
            with CountWork() as count:
                query = functional.gelu(functional.layer_norm(value @ weight, (8,)))
                result = functional.scaled_dot_product_attention(query, query, query, dropout_p=dropout)
                torch.autograd.grad(torch.log_softmax(result, -1).sum(), weight)
            works.append(count.work)
    assert works[0] == works[1]


def test_products_in_bf16_count_by_their_dtype() -> None:
    value, weight = torch.ones(4, 8), torch.ones(8, 16, requires_grad=True)
    with CountWork() as count, torch.autocast("cpu", dtype=torch.bfloat16):
        result = value @ weight
        (result.float() @ torch.ones(16, 2)).sum()
    assert count.work.bf16_flops == 2 * (4 * 8 * 16 + 4 * 16 * 2)
    assert count.work.flops == 0
    with CountWork() as count:
        torch.autograd.grad(result.float().sum(), weight)
    assert (count.work.flops, count.work.bf16_flops) == (0, 2 * 4 * 8 * 16)
    assert duration_us(Work(bf16_flops=6.0), PROFILE) == 6
    assert duration_us(Work(bf16_flops=6.0), replace(PROFILE, bf16_flops_per_s=3_000_000)) == 2


def test_parts_add_up_to_a_duration() -> None:
    work = Work(flops=2.0, traffic_bytes=3.0, functions=4.0) + Work(operators=5)
    assert duration_us(work, PROFILE) == 2 + 3 + 4 + 5
