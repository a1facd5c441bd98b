"""The audit: what trains to the same bits is equal, and every habit that a graph does not hold is a difference."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy
import pytest
import torch
from support.habits import habit_job
from support.models import batch_for, gpt2, jobs, mixtral

from hydraplan.planner.frontend.auditing.audit import Audited, audit, batches_of
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job


def even_cuts(graph: TracedGraph, shards: int) -> tuple[int, ...]:
    places = graph.cut_positions
    return tuple(sorted({places[len(places) * number // shards] for number in range(1, shards)}))


def audited(job: Job, shards: int = 3) -> Audited:
    """Of a job of `support.models`, by its own graph."""
    batches = [[batch_for(job, step, number) for number in range(job.microbatches)] for step in range(2)]
    graph = trace(job, batches[0][0])
    return audit(job, batches, graph, even_cuts(graph, shards))


def beside_twin(kind: str, **more: object) -> Audited:
    """A model with a habit, by the graph of its twin."""
    twin, live = habit_job("Habit", kind=kind, live=False), habit_job("Habit", kind=kind, live=True)
    batches = batches_of(open_data(live))
    graph = trace(twin, batches[0][0])
    return audit(replace(live, **more), batches, graph, even_cuts(graph, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", jobs())
def test_what_trains_as_its_plain_loop_is_equal(name: str) -> None:
    assert audited(jobs()[name]) == Audited(verdict="equal")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast"])
def test_in_every_precision_with_dropout_over_microbatches(precision: str) -> None:
    job = replace(gpt2(dropout=True, microbatches=4), precision=precision)  # type: ignore[arg-type]
    assert audited(job).verdict == "equal"


def test_experts_of_which_each_token_takes_two() -> None:
    assert audited(mixtral()).verdict == "equal"


@pytest.mark.parametrize("microbatches", [1, 4])
def test_random_operators_of_all_sorts_draw_as_their_nodes(microbatches: int) -> None:
    job = habit_job("Draws", microbatches=microbatches)
    batches = batches_of(open_data(job))
    graph = trace(job, batches[0][0])
    assert audit(job, batches, graph, even_cuts(graph, 4)) == Audited(verdict="equal")


def test_the_twins_own_graph_is_equal() -> None:
    job = habit_job("Habit", kind="draws", live=True)
    batches = batches_of(open_data(job))
    graph = trace(job, batches[0][0])
    assert audit(job, batches, graph, even_cuts(graph, 3)).verdict == "equal"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("annealed", ("step 1", "loss", "module second", "buffer")),
        ("counter", ("step 1", "loss", "module second", "buffer")),
        ("cache", ("step 1", "loss", "mean", "habits.py:", "buffer")),
        ("custom backward", ("step 0", "the gradient of first.", "module first", "torch.autograd.Function")),
        ("data written", ("step 0", "loss", "module second", "operators")),
        ("one memory", ("step 0", "after the update", "one object")),
        ("buffer kept", ("step 0", "after the forward seen differs", "in place")),
        ("frozen by the forward", ("step 0", "the gradient of last.weight is made in the graph alone")),
        ("python", ("step 1", "Python's", "data set")),
        ("numpy", ("step 1", "numpy's", "data set")),
        ("draws more", ("step 0", "loss")),
        ("other weights", ("before the first step", "first.weight", "made otherwise each time")),
    ],
)
def test_a_habit_is_a_difference_with_its_place_and_remedy(kind: str, said: tuple[str, ...]) -> None:
    found = beside_twin(kind)
    assert found.verdict in ("differs", "unsteady")
    for part in said if found.verdict == "differs" else ("first.weight",):
        assert part in found.text, found.text


def test_a_model_that_does_not_repeat_itself_is_told_as_that() -> None:
    found = beside_twin("unsteady")
    assert found.verdict == "unsteady"
    assert "does not repeat itself" in found.text


def test_a_forward_that_fails_is_told_with_the_job() -> None:
    with pytest.raises(TraceError, match="job habit: its audit stopped: ValueError: the third call breaks"):
        beside_twin("fails")


def test_the_process_is_left_as_it_was() -> None:
    torch.manual_seed(9)
    random.seed(9)
    numpy.random.seed(9)
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr]
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    dropped = torch.nn.functional.dropout
    assert beside_twin("draws", threads=2).verdict == "equal"
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == states[1:]  # type: ignore[union-attr]
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, strict)
    value = torch.ones(64)
    torch.manual_seed(1)
    one = dropped(value, 0.5)
    torch.manual_seed(1)
    assert torch.equal(dropped(value, 0.5), one) and one.unique().numel() == 2


def test_a_buffer_that_is_not_saved_may_be_made_by_the_forward() -> None:
    assert beside_twin("harmless cache") == Audited(verdict="equal")
