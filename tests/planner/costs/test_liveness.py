"""Counting live storages."""

from __future__ import annotations

import torch

from hydraplan.planner.costs.liveness import CountLiveBytes

KIB = 256
"""Elements of a float32 tensor of 1 KiB."""


def test_counts_the_peak_and_forgets_the_dead() -> None:
    outside = torch.ones(KIB)
    with CountLiveBytes([outside]) as count:
        first = outside + 1
        second = first + 1
        del first
        third = second + 1
        assert (count.live_bytes, count.peak_bytes) == (2048, 2048)
        fourth = third + 1
        assert (count.live_bytes, count.peak_bytes) == (3072, 3072)
        del second, third, fourth
        assert (count.live_bytes, count.peak_bytes) == (0, 3072)
        count.reset_peak()
        assert count.peak_bytes == 0


def test_views_and_what_was_there_before_count_nothing() -> None:
    outside = torch.ones(4, KIB)
    with CountLiveBytes([outside]) as count:
        outside[1].add_(1)
        view = outside.t()[0].view(2, 2)
        assert count.live_bytes == 0
        made = outside + 1
        view = made[0]
        del made
        assert view.numel() == KIB
        assert count.live_bytes == 4096, "a view holds its whole storage"


def test_what_only_autograd_holds_counts() -> None:
    leaf = torch.ones(KIB, requires_grad=True)
    with CountLiveBytes([leaf]) as count:
        result = leaf.exp().sum()
        assert count.live_bytes == 1024 + 4
        (gradient,) = torch.autograd.grad(result, leaf)
        del result
        assert count.live_bytes == gradient.untyped_storage().nbytes()
