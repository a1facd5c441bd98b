"""What both sides of an audit run under, and what the process has again afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

from hydraplan.planner.frontend.models.quiet import quiet


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


@contextmanager
def numerics(threads: int) -> Iterator[None]:
    """A job's threads and deterministic algorithms, in grad mode; afterwards these and the random states of torch,
    numpy and Python are as they were."""
    before, states = torch.get_num_threads(), (random.getstate(), numpy.random.get_state())
    with torch.random.fork_rng(devices=[]), deterministic(), torch.enable_grad(), quiet():
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            random.setstate(states[0])
            numpy.random.set_state(states[1])


def outside_state() -> tuple[object, ...]:
    """The states of Python's and numpy's generators, to compare."""
    name, keys, *rest = numpy.random.get_state()
    return (random.getstate(), name, keys.tobytes(), *rest)  # type: ignore[union-attr]
