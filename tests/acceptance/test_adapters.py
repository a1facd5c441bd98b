"""Adapters: what is frozen is read and nothing else, and the plan never changes the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from support.whole import Draws, cluster, plain_loop, run, traced, whole_job
from torch import Tensor

from hydraplan.planner.frontend.models.model import make_model
from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.planner.frontend.tracing import trace as tracing
from hydraplan.planner.frontend.tracing.traced import Placeholder
from hydraplan.planner.pipeline import plan
from hydraplan.plans.checking.check import check
from hydraplan.plans.language.facts import Facts, ShardFacts, SlabFacts
from hydraplan.plans.language.steps import Backward, Load, Spill, SpillGradients, Update
from hydraplan.plans.language.workload import Job, Target, Workload
from hydraplan.runtime.devices import cpu
from hydraplan.runtime.memory.store import HostStore

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


def some(draws: Draws, random: Random) -> Facts:
    """Cuts into six shards."""
    return draws.cut(random.sample(draws.graph.cut_positions, 5))


# -- bits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [lora_job(), guided_job()], ids=lambda job: job.name)
def test_equals_the_plain_loop(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    draws, random = Draws.of(job, monkeypatch, expected=plain_loop(job)), Random(job.name)
    for _ in range(3):
        draws.train(draws.draw(some(draws, random), random))
    assert "no backward" in draws.coverage.seen


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_equals_the_plain_loop(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    job = whole_job("support.adapters:peft_llama", {}, name="peft", base=True)
    expected = plain_loop(job)
    made = plan(Workload(cluster=cluster(1, budget_bytes=300_000), jobs=(job,)))
    found = run(made, tmp_path / "run")["peft"]
    assert found.same_bits(expected)
    make_model(job).load_state_dict(found.weights)  # all of its names, and no other
    assert not all(shard.has_backward for shard in made.facts.layouts[0].shards)


def test_every_valid_plan_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, four microbatches; plans drawn over all that may differ between them."""
    job = whole_job("support.adapters:lora_llama", {"dropout": 0.2}, name="drawn", microbatches=4, steps=2)
    draws, random = Draws.of(job, monkeypatch), Random(3)
    choices = [some(draws, random) for _ in range(2)]
    for _ in range(DRAWN_PLANS):
        draws.train(draws.draw(random.choice(choices), random))
    assert draws.coverage.seen >= {
        "two devices in one job",
        "kept",
        "recomputed",
        "no backward",
        "updated on a device",
        "loaded over a present copy",
        "resident",
        "gradient ranges of part of the microbatches",
    }


def test_training_every_parameter_is_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    job = lora_job()
    expected = plain_loop(job)

    def naive(**fields: object) -> Placeholder:
        return Placeholder(**fields | {"trainable": fields["role"] == "parameter"})  # type: ignore[arg-type]

    monkeypatch.setattr(tracing, "Placeholder", naive)
    draws, random = Draws(job=job, graph=traced(job)), Random(1)
    found = draws.train(draws.draw(some(draws, random), random))
    frozen = {name for name, parameter in make_model(job).named_parameters() if not parameter.requires_grad}
    assert not any(torch.equal(found.weights[name], expected.weights[name]) for name in frozen)


@pytest.mark.parametrize("by", ["updated on a device", "loaded over a present copy"], ids=["spill", "refresh"])
def test_a_copy_that_moves_too_little_is_another_result(
    by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = lora_job()
    expected = plain_loop(job)
    draws, random = Draws.of(job, monkeypatch), Random(2)
    facts = some(draws, random)
    monkeypatch.setattr(SlabFacts, "updated_bytes", property(lambda slab: min(1, slab.trainable_bytes)))
    while by not in draws.coverage.seen:
        draws.coverage.seen.clear()
        made = draws.draw(facts, random)
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
    draws, random = Draws.of(job, monkeypatch), Random(5)
    trained = sum(each.numel() for each in make_model(job).parameters() if each.requires_grad) * 4
    copies = Copies(monkeypatch)
    facts = some(draws, random)
    for number in range(4):
        run(draws.draw(facts, random), tmp_path / str(number))
    assert "updated on a device" in draws.coverage.seen
    assert copies.state_bytes == 4 * 2 * trained
    assert (copies.written_bytes == 0) is not naive


# -- what is refused ----------------------------------------------------------------------------------


def test_a_backward_that_nothing_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A naive list, with a backward of every shard."""
    job = lora_job()
    draws, random = Draws(job=job, graph=traced(job)), Random(7)
    facts = some(draws, random)
    with monkeypatch.context() as patch:
        patch.setattr(ShardFacts, "has_backward", property(lambda shard: True))
        naive = draws.draw(facts, random)
    findings = check(naive)
    assert findings
    assert any(
        "nothing upstream needs it" in finding.cause and finding.remedy == "delete the line" for finding in findings
    )
