"""Replay of plans, drawn and hand-made, of a small chain: the same bits as the plain loop and as each other."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import pytest
import torch
from support.chain import Numbers
from support.chainrun import LAYERS, ChainJobs, adamw, assert_same
from support.drawn import Coverage, draw_phase
from support.toyplan import toy_phase

from hydraplan.plans.language.plan import Placement
from hydraplan.plans.language.workload import Target
from hydraplan.runtime.progress import NoProgress
from hydraplan.runtime.training import Trained, train


@pytest.mark.parametrize(
    "optimizer",
    [
        adamw(weight_decay=0.1),
        Target(path="Adam", arguments=(("amsgrad", True), ("lr", 1e-2))),
        Target(path="SGD", arguments=(("lr", 0.05), ("momentum", 0.9), ("nesterov", True))),
        Target(path="SGD", arguments=(("lr", 0.05),)),
    ],
    ids=["adamw", "adam amsgrad", "sgd nesterov", "sgd"],
)
@pytest.mark.parametrize("kind", ["streamed", "mixed"])
def test_replay_equals_plain_loop(optimizer: Target, kind: str) -> None:
    setup = ChainJobs(optimizer=optimizer)
    placement = Placement(job="a", device="cpu0", steps=4)
    if kind == "mixed":
        placement = replace(placement, resident=("1", "2"), keep=(0, 2), device_updates=("2", f"0+{LAYERS - 1}"))
    store = setup.store()
    trained = setup.train(setup.plan(placements=[placement], repeat=4), store)
    losses, state = setup.plain()
    assert trained.failures == {}
    assert list(trained.losses["a"]) == losses
    assert_same(store.state_dict("a"), state)


def test_drawn_plans_have_the_same_bits() -> None:
    setup = ChainJobs(microbatches=3, dropout=0.3, steps=4)
    expected: tuple[object, dict[str, torch.Tensor]] | None = None
    coverage = Coverage()
    for draw in range(25):
        phase = draw_phase(
            "a",
            setup.layout,
            microbatches=3,
            devices=["cpu0", "cpu1"],
            steps=4,
            random=Random(draw),
            coverage=coverage,
        )
        store = setup.store()
        trained = setup.train(setup.plan(phases=[phase]), store)
        assert trained.failures == {}
        assert len(trained.losses["a"]) == 4
        if expected is None:
            expected = trained.losses["a"], store.state_dict("a")
        assert trained.losses["a"] == expected[0]
        assert_same(store.state_dict("a"), expected[1])
    assert coverage.seen >= {"two devices in one job", "kept", "updated on a device", "resident", "tied weights"}


def test_phases_follow_each_other() -> None:
    """Two phases, another device and another residency in each, equal one phase of all steps."""
    setup = ChainJobs(steps=4)
    layouts, jobs = {"a": setup.layout}, setup.workload.jobs
    first = Placement(job="a", device="cpu0", steps=2, resident=("0", "1"), device_updates=("1",))
    second = Placement(job="a", device="cpu1", steps=2, keep=(1, 2))
    phases = [
        toy_phase(layouts, jobs, [first], repeat=2),
        toy_phase(layouts, jobs, [second], repeat=1),
    ]
    store = setup.store()
    trained = setup.train(setup.plan(phases=phases), store)
    losses, state = setup.plain()
    assert list(trained.losses["a"]) == losses
    assert_same(store.state_dict("a"), state)


def test_a_failing_job_takes_no_other_down() -> None:
    setup = ChainJobs(jobs=2, steps=4)
    setup.graphs["a"].programs[2].fail_at = 2
    placements = [Placement(job=job, device="cpu0", steps=4, resident=("1",), keep=(0, 1)) for job in "ab"]
    store = setup.store()
    trained = setup.train(setup.plan(placements=placements, repeat=4), store)
    assert set(trained.failures) == {"a"}
    message = trained.failures["a"].message
    assert message.startswith("forward of shard 2, microbatch 0 of a on cpu0 (/phases/0/cycle/")
    assert message.endswith(", iteration 2) failed: ValueError: layer broke")
    assert len(trained.losses["a"]) == 2
    alone = ChainJobs(jobs=2, steps=4)
    other = alone.store()
    expected = alone.train(alone.plan(placements=placements, repeat=4), other)
    assert trained.losses["b"] == expected.losses["b"]
    assert_same(store.state_dict("b"), other.state_dict("b"))


def test_an_arena_is_resized_though_the_job_that_comes_first_has_failed() -> None:
    """Phase 0 has the large arena, phase 1 keeps much: together they would be beyond the peak."""
    setup = ChainJobs(jobs=2, steps=4)
    setup.graphs["a"].programs[2].fail_at = 0
    layouts, slabs = dict.fromkeys("ab", setup.layout), tuple(slab.name for slab in setup.layout.slabs)
    resident = [Placement(job=job, device="cpu0", steps=2, resident=slabs, device_updates=slabs) for job in "ab"]
    keeping = [Placement(job=job, device="cpu0", steps=2, keep=(0, 1, 2, 3)) for job in "ab"]
    phases = [toy_phase(layouts, setup.workload.jobs, each, repeat=2) for each in (resident, keeping)]
    plan = setup.plan(phases=phases)
    predicted = plan.predictions.devices[0]
    assert predicted.peak_bytes < predicted.arena_bytes + predicted.kept_bytes
    trained = setup.train(plan, setup.store())
    assert set(trained.failures) == {"a"}
    assert trained.devices["cpu0"].peak_bytes == predicted.peak_bytes


def test_keeping_more_than_planned_is_refused() -> None:
    setup = ChainJobs()
    setup.graphs["a"].programs[1].keeps = setup.layout.shards[1].kept_bytes + 1
    plan = setup.plan(placements=[Placement(job="a", device="cpu0", steps=4, keep=(1,))], repeat=4)
    trained = setup.train(plan, setup.store())
    assert "the forward of shard 1, microbatch 0 of a keeps 65537 bytes; the plan has room for 65536" in (
        trained.failures["a"].message
    )


def test_memory_is_what_the_plan_says() -> None:
    setup = ChainJobs(microbatches=2)
    plan = setup.plan(placements=[Placement(job="a", device="cpu0", steps=4, keep=(0, 1, 2, 3))], repeat=4)
    trained = setup.train(plan, setup.store())
    predicted = plan.predictions.devices[0]
    assert trained.devices["cpu0"].arena_bytes == predicted.arena_bytes
    assert trained.devices["cpu0"].kept_bytes == predicted.kept_bytes
    assert trained.devices["cpu0"].peak_bytes == predicted.peak_bytes


def test_every_step_is_recorded_once_and_after_what_it_depends_on() -> None:
    setup = ChainJobs(microbatches=2)
    plan = setup.plan(repeat=2)
    trained = setup.train(plan, setup.store())
    flow = trained.program.flow
    when = {(span.site, span.iteration): span for span in list(trained.times.spans())}
    assert len(when) == len(list(trained.times.spans())) == sum(instruction_counts(trained))
    for segments in trained.program.lanes.values():
        for segment in segments:
            for instruction in segment.instructions:
                assert flow.sites[instruction.site].step == instruction.step
    loads = [span for span in list(trained.times.spans()) if type(flow.sites[span.site].step).__name__ == "Load"]
    assert min(span.start_ns for span in loads) >= trained.started_ns


def instruction_counts(trained: Trained) -> list[int]:
    return [
        segment.repeat * len(segment.instructions)
        for segments in trained.program.lanes.values()
        for segment in segments
    ]


def test_compute_context_surrounds_the_compute_thread_of_each_device() -> None:
    setup = ChainJobs()
    entered: dict[str, int] = {}
    left: dict[str, int] = {}

    @contextmanager
    def context(device: str):
        entered[device] = threading.get_ident()
        yield
        left[device] = threading.get_ident()

    setup.train(setup.plan(repeat=4), setup.store(), compute_context=context)
    assert entered == left
    assert set(entered) == {"cpu0"}
    assert threading.get_ident() not in entered.values()


def test_a_broken_compute_context_ends_the_run() -> None:
    setup = ChainJobs()

    @contextmanager
    def context(device: str):
        yield
        raise ValueError(f"{device} held too much")

    with pytest.raises(ValueError, match="cpu0 held too much"):
        setup.train(setup.plan(repeat=4), setup.store(), compute_context=context)


def test_batches_that_do_not_fit_the_graph_are_refused() -> None:
    setup = ChainJobs()
    store = setup.store()
    plan = setup.plan(repeat=4)
    trained = train(plan, graphs=setup.graphs, sources={"a": Numbers(3)}, store=store, watch=NoProgress())
    assert "gives torch.float32 (3, 8) as x in training step 0" in trained.failures["a"].message
