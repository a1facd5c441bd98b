"""Adapters: what is frozen is read and nothing else, and the plan never changes the result."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from support.drawn import Coverage, draw_phase
from support.whole import Result, cluster, facts_of, plain_loop, plan_of, run, traced, whole_job
from torch import Tensor

from planner.frontend import trace as tracing
from planner.frontend.build import Known, build
from planner.frontend.data import open_data
from planner.frontend.model import make_model
from planner.frontend.program import ShardedGraph
from planner.frontend.traced import Placeholder, TracedGraph
from planner.pipeline import plan
from plans.check import check
from plans.facts import Facts, ShardFacts, SlabFacts
from plans.plan import Plan
from plans.steps import Backward, Load, Spill, SpillGradients, Update
from plans.workload import Job, Target, Workload
from runtime import cpu, prepare
from runtime.store import HostStore

DRAWN_PLANS = 12


def lora_job(name: str = "lora", **more: object) -> Job:
    return whole_job("support.adapters:lora_llama", {}, name=name, **more)


def guided_job() -> Job:
    return whole_job(
        "support.adapters:Guided",
        {},
        name="guided",
        data=Target(path="support.whole:rows", arguments=(("length", 8), ("target", True))),
        loss=Target(path="support.models:squared_error"),
    )


def drawn(job: Job, facts: Facts, random: Random, coverage: Coverage) -> Plan:
    where = cluster()
    phase = draw_phase(
        job.name,
        facts.layouts[0],
        microbatches=job.microbatches,
        devices=[each.name for each in where.devices],
        steps=job.steps,
        random=random,
        coverage=coverage,
    )
    return plan_of(job, facts, [phase], where)


def cut(job: Job, graph: TracedGraph, random: Random, cuts: int = 5) -> Facts:
    return facts_of(job, graph, tuple(sorted(random.sample(graph.cut_positions, cuts))))


@cache
def graph_of(job: Job) -> TracedGraph:
    return traced(job)


@cache
def known(job: Job) -> Known:
    return Known.of(*build(job, open_data(job).microbatch(0, 0)))


def share_model(job: Job, monkeypatch: pytest.MonkeyPatch) -> TracedGraph:
    """The job is one and the same in all runs: its model is traced once here, not once a plan."""
    shared = known(job)
    monkeypatch.setattr(prepare, "build", lambda job, batch, known: build(job, batch, known=shared))
    return graph_of(job)


# -- bits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [lora_job(), guided_job()], ids=lambda job: job.name)
def test_equals_the_plain_loop(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = plain_loop(job)
    graph, random, coverage = share_model(job, monkeypatch), Random(job.name), Coverage()
    for number in range(3):
        found = run(drawn(job, cut(job, graph, random), random, coverage), tmp_path / str(number))[job.name]
        assert found.losses == expected.losses
        assert found.same_bits(expected)
    assert "no backward" in coverage.seen


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_equals_the_plain_loop(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    job = whole_job("support.adapters:peft_llama", {}, name="peft")
    expected = plain_loop(job)
    made = plan(Workload(cluster=cluster(1, budget_bytes=300_000), jobs=(job,)))
    found = run(made, tmp_path / "run")["peft"]
    assert found.same_bits(expected)
    make_model(job).load_state_dict(found.weights)  # all of its names, and no other
    assert not all(shard.has_backward for shard in made.facts.layouts[0].shards)


def test_every_valid_plan_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Dropout, four microbatches; plans drawn over all that may differ between them."""
    job = whole_job("support.adapters:lora_llama", {"dropout": 0.2}, name="drawn", microbatches=4, steps=2)
    graph, random, coverage = share_model(job, monkeypatch), Random(3), Coverage()
    choices = [cut(job, graph, random) for _ in range(2)]
    results: list[Result] = []
    for number in range(DRAWN_PLANS):
        made = drawn(job, random.choice(choices), random, coverage)
        results.append(run(made, tmp_path / str(number))[job.name])
        assert results[-1].losses == results[0].losses
        assert results[-1].same_bits(results[0])
    assert coverage.seen >= {
        "two devices in one job",
        "kept",
        "recomputed",
        "no backward",
        "updated on a device",
        "loaded over a present copy",
        "resident",
        "gradient ranges of part of the microbatches",
    }


def test_training_every_parameter_is_another_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = lora_job()
    expected = plain_loop(job)

    def naive(**fields: object) -> Placeholder:
        return Placeholder(**fields | {"trainable": fields["role"] == "parameter"})  # type: ignore[arg-type]

    monkeypatch.setattr(tracing, "Placeholder", naive)
    random = Random(1)
    found = run(drawn(job, cut(job, traced(job), random), random, Coverage()), tmp_path / "run")[job.name]
    frozen = {name for name, parameter in make_model(job).named_parameters() if not parameter.requires_grad}
    assert not any(torch.equal(found.weights[name], expected.weights[name]) for name in frozen)


@pytest.mark.parametrize("by", ["updated on a device", "loaded over a present copy"], ids=["spill", "refresh"])
def test_a_copy_that_moves_too_little_is_another_result(
    by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = lora_job()
    expected = plain_loop(job)
    graph, random = share_model(job, monkeypatch), Random(2)
    facts = cut(job, graph, random)
    monkeypatch.setattr(SlabFacts, "updated_bytes", property(lambda slab: min(1, slab.trainable_bytes)))
    coverage = Coverage()
    while by not in coverage.seen:
        coverage = Coverage()
        made = drawn(job, facts, random, coverage)
    assert not run(made, tmp_path / "run")[job.name].same_bits(expected)


# -- bytes --------------------------------------------------------------------------------------------


def test_a_plan_has_nothing_for_what_is_frozen() -> None:
    """By facts and lists: no gradient, optimizer state, spill or update of it, no backward where nothing needs one."""
    job = lora_job()
    made = plan(Workload(cluster=cluster(1, budget_bytes=200_000), jobs=(job,)))
    (layout,) = made.facts.layouts
    trained = sum(each.numel() for each in make_model(job).parameters() if each.requires_grad) * 4
    assert sum(slab.trainable_bytes for slab in layout.slabs) == trained
    assert sum(size for shard in layout.shards for _, size in shard.gradient_bytes) == trained
    frozen = {slab.name for slab in layout.slabs if not slab.trainable_bytes}
    assert frozen
    without = {number for number, shard in enumerate(layout.shards) if not shard.has_backward}
    assert without
    for shard in (layout.shards[number] for number in without):
        assert {each.backward_us for each in shard.times} == {0}
        assert shard.kept_bytes == shard.recompute_workspace_bytes == 0
    for phase in made.phases:
        for step in (*phase.prologue, *phase.cycle, *phase.epilogue):
            if isinstance(step, Spill | SpillGradients | Update):
                assert step.slab not in frozen
            if isinstance(step, Load) and step.what == "optimizer":
                assert step.slab not in frozen
            if isinstance(step, Backward):
                assert step.shard not in without


class Copies:
    """What a run writes into the frozen part of the host store's slabs, and how much optimizer state there is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frozen: list[tuple[int, int]] = []
        self.state_bytes = self.written_bytes = 0
        add, copy = HostStore.add, cpu._copy

        def adding(store: HostStore, job: str, graph: ShardedGraph, copies: int, model: object) -> None:
            add(store, job, graph, copies, model)  # type: ignore[arg-type]
            self.frozen.clear()  # of the run before: its memory may serve other ends now
            for slab in graph.slabs:
                first = store.slab(job, slab.name).parameters.bytes.data_ptr()
                self.frozen.append((first + slab.trainable_bytes, first + slab.parameter_bytes))
                self.state_bytes += store.slab(job, slab.name).optimizer.size

        def copying(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
            for target, _ in pairs:
                first, last = target.data_ptr(), target.data_ptr() + target.nbytes
                self.written_bytes += sum(max(0, min(last, high) - max(first, low)) for low, high in self.frozen)
            copy(pairs)

        monkeypatch.setattr(HostStore, "add", adding)
        monkeypatch.setattr(cpu, "_copy", copying)


@pytest.mark.parametrize("naive", [False, True], ids=["as it is", "naive: slabs move whole"])
def test_a_run_writes_nothing_of_what_is_frozen(naive: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if naive:
        monkeypatch.setattr(SlabFacts, "updated_bytes", property(lambda slab: slab.parameter_bytes))
    job = lora_job()
    graph, random, coverage = share_model(job, monkeypatch), Random(5), Coverage()
    trained = sum(each.numel() for each in make_model(job).parameters() if each.requires_grad) * 4
    copies = Copies(monkeypatch)
    facts = cut(job, graph, random)
    for number in range(4):
        run(drawn(job, facts, random, coverage), tmp_path / str(number))
    assert "updated on a device" in coverage.seen
    assert copies.state_bytes == 4 * 2 * trained
    assert (copies.written_bytes == 0) is not naive


# -- what is refused ----------------------------------------------------------------------------------


def test_a_backward_that_nothing_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A naive list, with a backward of every shard."""
    job = lora_job()
    random = Random(7)
    facts = cut(job, graph_of(job), random)
    with monkeypatch.context() as patch:
        patch.setattr(ShardFacts, "has_backward", property(lambda shard: True))
        naive = drawn(job, facts, random, Coverage())
    findings = check(naive)
    assert findings
    assert any(
        "nothing upstream needs it" in finding.cause and finding.remedy == "delete the line" for finding in findings
    )
