"""Habits of people who write PyTorch: each trains to a plain loop's bits, or is refused at plan, by its line.

Written by someone who has not seen how hydraplan deals with them. A row is a model class (or a factory, or a data set)
in a module of its kind; `harness.check` is the verdict. All rows of a kind, or one:

    python -m pytest -n 0 tests/habits -k caches                      # its first three instances, as in make test
    python -m pytest -n 0 tests/habits -k caches -m 'long or not long'  # all of them; the others are in make test-long
    python -m pytest -n 0 tests/habits -k RotaryCache

| module | kinds |
| --- | --- |
| functions.py | functions bound before tracing begins |
| modes.py | modes, contexts and flags of a forward: gradients, kernels, precision, saved tensors, seeds |
| memory.py | tensors that share memory |
| state.py | counters, attributes, caches, flags and data of parameters, layers made in a forward, buffers of None |
| constants.py | constants in containers, draws in constructors, imports and forwards |
| parts.py | parts and roots in eval mode |
| language.py | ordinary settings of transformers |
| checkpoints.py | batch norm inside of activation checkpointing |
| layers.py | LSTM, channels_last, complex, non-deterministic, autocast, extra state, lazy, sparse, packed, and so on |
| datasets.py | augmentation; what differs at each call |
| scratch.py | kernels' own scratch memory |
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from habits import (  # noqa: F401 - each enters its rows
    checkpoints,
    constants,
    datasets,
    functions,
    language,
    layers,
    memory,
    modes,
    parts,
    scratch,
    state,
)
from habits.harness import CASES, check
from habits.known import known
from support.whole import cluster

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.workload import Job, Target, Workload


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows() -> list[object]:
    """The first three instances of each kind; the others take long, all together."""
    made, seen = [], Counter[str]()
    for key, case in CASES.items():
        seen[case.kind] += 1
        marks: list[pytest.MarkDecorator] = [pytest.mark.long] if seen[case.kind] > 3 else []
        marks += known(key)
        made.append(pytest.param(key, id=key.replace(" ", "_"), marks=marks))
    return made


@pytest.mark.parametrize("key", rows())
@pytest.mark.filterwarnings("ignore")
def test_right_bits_or_a_refusal(key: str) -> None:
    check(CASES[key])


def test_every_kind_has_three_instances() -> None:
    kinds = [case.kind for case in CASES.values()]
    assert not {kind for kind in kinds if kinds.count(kind) < 3}


# -- augmentation by epoch ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [case.name for case in CASES.values() if case.kind == "seeded augmentation"])
def test_augmented_items_are_other_in_each_epoch_and_the_same_at_each_reading(name: str) -> None:
    (job,) = CASES[f"seeded augmentation-{name}"].jobs
    data, again = open_data(job), open_data(job)
    read = {step: data.batch(step)["x"] for step in range(8)}
    torch.rand(3)  # whatever else draws in between
    for step in (7, 0, 3):
        assert torch.equal(again.batch(step)["x"], read[step])
        halves = [again.microbatch(step, number)["x"] for number in range(job.microbatches)]
        assert torch.equal(torch.cat(halves), read[step])
    first, second = ({tuple(row.tolist()) for step in steps for row in read[step]} for steps in (range(4), range(4, 8)))
    assert len(first) == len(second) == 16
    assert len(first & second) <= 8, "a row is augmented alike in both epochs"


# -- scratch memory -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> dict[str, int]:
    """What a training step of each layer takes in a process of its own."""
    done = subprocess.run([sys.executable, scratch.__file__], capture_output=True, text=True, check=True)
    return dict(zip(scratch.LAYERS, map(int, done.stdout.split()), strict=True))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures by /proc")
@pytest.mark.parametrize("name", [pytest.param(each, marks=known(f"scratch-{each}")) for each in scratch.LAYERS])
def test_scratch_memory_of_a_kernel_is_planned(name: str, measured: dict[str, int]) -> None:
    arguments = (("name", name),)
    job = Job(
        name="scratch",
        model=Target(path="habits.scratch:make", arguments=arguments),
        data=Target(path="habits.scratch:data", arguments=arguments),
        loss=Target(path="habits.scratch:squared"),
        optimizer=Target(path="AdamW"),
        steps=1,
        batch_size=8,
        microbatches=1,
        seed=0,
        threads=1,
        precision="fp32",
    )
    made = plan(Workload(cluster=cluster(1, budget_bytes=1 << 32), jobs=(job,)), solver=SolverOptions(effort=1000))
    assert made.predictions.devices[0].peak_bytes >= 0.9 * measured[name]
