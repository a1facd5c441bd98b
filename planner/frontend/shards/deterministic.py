"""The algorithms that shards run by, and the plain loop that they are held against."""

from __future__ import annotations

import torch


class deterministic:  # noqa: N801 - a context manager that reads as a word
    """Deterministic algorithms for all threads, as a job's numerics want (EXACTNESS.md, rule 12), then as before.

    Memory is not filled on allocation: no kernel of ours reads what was not written.
    """

    def __enter__(self) -> None:
        self._before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        )
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def __exit__(self, *_: object) -> None:
        enabled, warn_only, fill = self._before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
