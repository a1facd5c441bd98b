"""What makes any model hard, case by case: a whole run has the right bits, and a naive hydraplan has not.

Each row of CASES is a tiny model, cut into up to eight shards, checked and executed under drawn lists; where it has one
microbatch and draws nothing the plain loop is the measure, else a run of the graph in one piece. A row's naive version
takes one mechanism away, and the row says how that shows. What makes models hard, and the rows that show it:

    tied weights over distant shards, microbatches   tied weights over distant shards, tied weights and microbatches
    values that skip over many shards                skips of a U-Net, encoder outputs
    buffers that the forward updates                 buffers of a forward; once a microbatch: buffers under recompute
    non-persistent buffers, lifted constants         (rows of these names)
    dropout under recompute, in attention too        dropout under recompute, attention dropout under recompute
    several outputs, several losses                  (rows of these names)
    integers, booleans, strided values over cuts     (rows of these names)
    in-place operations, views                       in-place operators, views
    parameters without gradient, used twice          parameters without gradient, a parameter used twice
    convolutional, recurrent, mixture of experts     convolutions (and the U-Net's), recurrent, mixture of experts
    inputs of several tensors                        (the row of this name)
    custom autograd functions                        autograd functions
    registered custom operators                      operators that write, operators that hold their arguments
    a layer larger than the device                   the two tests at the end: cut inside; else named, and how much

More of the same: the rules of EXACTNESS.md one by one in planner/frontend/test_exactness_rules.py, every random
operator in test_random_operators.py and every kind of function in test_functions.py there, buffers in test_buffers.py
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support import hardmodels, hardoperators, naive
from support.drawn import Coverage, draw_phase
from support.whole import Result, cluster, facts_of, plain_loop, plan_of, read_result, run, whole_job
from torch import Tensor, nn

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.frontend.shards import gradients
from hydraplan.planner.frontend.shards.build import Known, build
from hydraplan.planner.frontend.shards.program import BuiltModel
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Job, Target, Workload
from hydraplan.runtime import execute, prepare

LOSS = "the loss of the first step"
TRAINING = "what is trained"


@dataclass(frozen=True, kw_only=True)
class Case:
    model: type[nn.Module]
    inputs: tuple[str, ...] = ("tokens",)
    naive: Callable[[pytest.MonkeyPatch], None]
    breaks: str = TRAINING
    """Where the naive version first differs: in LOSS, in TRAINING (that loss is right), or with what words it stops."""
    between: bool = False
    """The naive version would do if all plans did the same: what it makes of another plan is its measure."""
    traces: bool = False
    """Whether the naive version makes another graph."""
    cuts: int = 7
    microbatches: int = 1
    loss: Callable[..., Tensor] | None = None
    draws: bool = False

    @property
    def job(self) -> Job:
        job = whole_job(_path(self.model), {}, name="hard", microbatches=self.microbatches)
        loss = None if self.loss is None else Target(path=_path(self.loss))
        data = Target(path=_path(hardmodels.samples), arguments=(("names", self.inputs),))
        return replace(job, data=data, loss=loss, steps=2)

    @property
    def has_a_plain_loop(self) -> bool:
        return self.microbatches == 1 and not self.draws

    def failure(self) -> AbstractContextManager[object]:
        if self.breaks in (LOSS, TRAINING):
            return nullcontext()
        return pytest.raises(RuntimeError, match=self.breaks)


def _path(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__name__}"


CASES = {
    "tied weights and microbatches": Case(
        model=hardmodels.Tied, naive=naive.one_leaf_for_all_uses, between=True, microbatches=4, cuts=3
    ),
    "tied weights over distant shards": Case(model=hardmodels.Tied, naive=naive.first_reader_trains),
    "skips of a U-Net": Case(model=hardmodels.UNet, inputs=("image",), naive=naive.last_gradient_wins),
    "encoder outputs": Case(model=hardmodels.Translation, naive=naive.sums_added_afterwards, cuts=3),
    "buffers of a forward": Case(model=hardmodels.UNet, inputs=("image",), naive=naive.buffers_that_stay, cuts=3),
    "buffers under recompute": Case(
        model=hardmodels.UNet, inputs=("image",), naive=naive.buffers_of_a_module, cuts=3, microbatches=2
    ),
    "non-persistent buffers": Case(
        model=hardmodels.Constants, naive=naive.buffers_of_the_state_dict, breaks=LOSS, cuts=3
    ),
    "lifted constants": Case(model=hardmodels.Constants, naive=naive.constants_of_the_state_dict, breaks=LOSS, cuts=3),
    "dropout under recompute": Case(model=hardmodels.Dropped, naive=naive.recompute_draws_on, draws=True, cuts=3),
    "attention dropout under recompute": Case(
        model=hardmodels.Inattentive, naive=naive.recompute_draws_on, draws=True, cuts=3
    ),
    "several outputs": Case(
        model=hardmodels.Outputs, naive=naive.one_output_has_a_gradient, loss=hardmodels.of_all_outputs
    ),
    "several losses": Case(model=hardmodels.Outputs, naive=naive.one_output_at_a_time, loss=hardmodels.of_all_outputs),
    "integers": Case(
        model=hardmodels.Kinds, naive=naive.all_values_alike, breaks="only Tensors of floating point dtype", cuts=3
    ),
    "booleans": Case(model=hardmodels.Kinds, naive=naive.bytes_for_booleans, breaks=LOSS, cuts=3),
    "strided values": Case(model=hardmodels.Kinds, naive=naive.dense_values),
    "in-place operators": Case(
        model=hardmodels.Writes, naive=naive.cuts_anywhere, breaks="used in an in-place operation", traces=True
    ),
    "views": Case(model=hardmodels.Writes, naive=naive.writes_that_no_view_sees, breaks=LOSS, traces=True),
    "parameters without gradient": Case(model=hardmodels.Still, naive=naive.zero_gradients, cuts=1),
    "a parameter used twice": Case(
        model=hardmodels.Twice, naive=naive.one_leaf_for_all_uses, between=True, microbatches=4, cuts=2
    ),
    "convolutions": Case(model=hardmodels.Channels, inputs=("image",), naive=naive.dense_values, cuts=4),
    "recurrent": Case(model=hardmodels.Recurrent, naive=naive.forwards_without_grad_mode, breaks=LOSS),
    "mixture of experts": Case(model=hardmodels.Mixture, naive=naive.gates_computed_again, traces=True, cuts=3),
    "inputs of several tensors": Case(
        model=hardmodels.Inputs,
        inputs=("left", "right", "seen", "tokens", "weight"),
        naive=naive.inputs_by_form,
        breaks=LOSS,
        cuts=2,
    ),
    "autograd functions": Case(model=hardoperators.Quantised, naive=naive.functions_dissolved, traces=True),
    "operators that write": Case(
        model=hardoperators.Registered, naive=naive.operators_only_make_values, traces=True, cuts=4
    ),
    "operators that hold their arguments": Case(
        model=hardoperators.Holding, naive=naive.contexts_that_hold_the_arena, traces=True, microbatches=4
    ),
}

Built = tuple[BuiltModel, TracedGraph]


def built(job: Job) -> Built:
    return build(job, open_data(job).microbatch(0, 0))


once_built = cache(built)
"""Rows share models."""


def trained(job: Job, made: Built, count: int, directory: Path) -> Result:
    """A run of the job's graph under drawn lists, cut at so many positions, evenly spread; RuntimeError: it failed."""
    positions = made[1].cut_positions
    chosen = sorted({positions[(number + 1) * len(positions) // (count + 1)] for number in range(count)})
    facts = facts_of(job, made[1], tuple(chosen))
    phase = draw_phase(
        job.name,
        facts.layouts[0],
        microbatches=job.microbatches,
        devices=[each.name for each in cluster().devices],
        steps=job.steps,
        random=Random(1),
        coverage=Coverage(),
    )
    for failure in execute(plan_of(job, facts, [phase], cluster()), directory).failed:
        raise RuntimeError(failure.error)
    return read_result(directory, job.name)


@pytest.mark.parametrize("name", CASES)
def test_bits_are_right_and_those_of_a_naive_version_are_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    job, made = case.job, once_built(case.job)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "build", partial(again, Known.of(job, *made)))
        measure = plain_loop(job) if case.has_a_plain_loop else trained(job, made, 0, tmp_path / "whole")
        assert trained(job, made, case.cuts, tmp_path / "cut").same_bits(measure)

    monkeypatch.setattr(gradients, "_MEMORY", gradients._Memory(64))  # what a naive version finds is forgotten
    if not case.traces:
        monkeypatch.setattr(prepare, "build", partial(again, Known.of(job, *made)))
    case.naive(monkeypatch)
    if case.traces:
        made = built(job)
        monkeypatch.setattr(prepare, "build", partial(again, Known.of(job, *made)))
    if case.between:
        measure = trained(job, made, 0, tmp_path / "naive whole")
    with case.failure():
        found = trained(job, made, case.cuts, tmp_path / "naive")
        assert not found.same_bits(measure)
        assert (found.losses[0] == measure.losses[0]) is (case.breaks == TRAINING)


def again(shared: Known, job: Job, batch: Mapping[str, Tensor], *, known: Known | None) -> Built:
    """`build` without tracing the job's model anew."""
    return build(job, batch, known=shared)


# -- a layer larger than the device ---------------------------------------------------------------------


def planned(job: Job, budget_bytes: int) -> Plan:
    workload = Workload(cluster=cluster(1, budget_bytes=budget_bytes), jobs=(job,))
    return plan(workload, solver=SolverOptions(effort=1000))


def test_a_layer_larger_than_the_device_is_cut_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Case(model=hardmodels.Wide, inputs=("left",), naive=naive.cuts_between_modules).job
    budget = sum(each.numel() * 4 for each in hardmodels.Wide().wide.parameters()) - 1
    made = planned(job, budget)
    assert made.predictions.devices[0].peak_bytes <= budget
    assert run(made, tmp_path / "run")[job.name].same_bits(plain_loop(job))
    naive.cuts_between_modules(monkeypatch)
    with pytest.raises(InfeasibleError, match="fits no device"):
        planned(job, budget)


def test_a_tensor_larger_than_the_device_is_named_and_so_is_a_budget_that_will_do() -> None:
    job = Case(model=hardmodels.Huge, inputs=("left",), naive=naive.cuts_between_modules).job
    budget = hardmodels.Huge().huge.weight.numel() * 4 - 1

    def missing(budget: int) -> int:
        with pytest.raises(InfeasibleError, match=r"whose largest tensor is huge\.weight \(64\.0 KiB\)") as caught:
            planned(job, budget)
        return caught.value.missing_bytes

    enough = budget + missing(budget)
    assert planned(job, enough).predictions.devices[0].peak_bytes <= enough
    assert missing(enough - enough // 50) > 0
