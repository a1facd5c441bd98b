"""What both sides of an audit run under, and what the process has again afterwards."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

from hydraplan.planner.frontend.models.quiet import quiet
from hydraplan.planner.frontend.shards.deterministic import deterministic


@contextmanager
def numerics(threads: int) -> Iterator[None]:
    """A job's threads and deterministic algorithms, in grad mode; afterwards these and the random states of torch,
    numpy and Python are as they were."""
    before, states = torch.get_num_threads(), (random.getstate(), numpy.random.get_state())
    eager = torch.compiler.set_stance("force_eager")  # parts that are compiled train as they are written
    with torch.random.fork_rng(devices=[]), deterministic(), torch.enable_grad(), quiet(), eager:
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            random.setstate(states[0])
            numpy.random.set_state(states[1])


def outside_state() -> bytes:
    """The states of Python's and numpy's generators, to compare."""
    return pickle.dumps((random.getstate(), numpy.random.get_state()))
