"""Promise 2: a checked plan does not exceed a device's budget; counted here independently of the ledger."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from support.models import GPT2
from support.toyplan import toy_phase
from support.whole import Draws, cluster, dropout_job, facts_of, plan_of, traced, whole_job
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hydraplan.planner import SolverOptions, plan
from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.plans.language.workload import Precision, Target, Workload
from hydraplan.runtime import RunResult, execute


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of all storages that operators of this thread have made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.operators = 0
        self.known: set[int] = set()
        self.lock = threading.RLock()
        """Storages end on other threads too, and while the lock is held on this one."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        before = {self.address(each) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)}
        made = func(*args, **kwargs)
        self.operators += 1
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and self.address(each) not in before | self.known:
                self.add(each.untyped_storage())
        return made

    @staticmethod
    def address(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def add(self, storage: torch.UntypedStorage) -> None:
        size, address = storage.nbytes(), storage._cdata
        with self.lock:
            self.known.add(address)
            self.live += size
            self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.remove, address, size)

    def remove(self, address: int, size: int) -> None:
        with self.lock:
            self.known.discard(address)
            self.live -= size


def counted_run(made: Plan, directory: Path) -> tuple[RunResult, dict[str, LiveStorages]]:
    """Execute a plan with a counter on each device's thread; the result, and the counters by device."""
    counters: dict[str, LiveStorages] = {}

    def counted(device: str) -> AbstractContextManager[object]:
        counters[device] = LiveStorages()
        return counters[device]

    done = execute(made, directory, compute_context=counted)
    assert not done.failed
    return done, counters


@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast"])
def test_parameters_of_four_budgets_train_within_one(precision: Precision, tmp_path: Path) -> None:
    wide = GPT2 | {"n_layer": 8, "n_embd": 192}
    parameter_bytes = (2 if precision == "bf16" else 4) * (8 * 12 * 192 * 192)
    where = cluster(1, budget_bytes=parameter_bytes // 4)
    job = whole_job("transformers:GPT2LMHeadModel", wide, name="wide", steps=3, batch_size=2, microbatches=2)
    job = replace(job, precision=precision)
    made = plan(Workload(cluster=where, jobs=(job,)), solver=SolverOptions(effort=2_000))
    assert sum(slab.parameter_bytes for slab in made.facts.layouts[0].slabs) >= 4 * where.devices[0].budget_bytes
    done, counters = counted_run(made, tmp_path / "run")
    (device,), (predicted,) = where.devices, made.predictions.devices
    (used,) = done.devices
    counter = counters[device.name]
    assert counter.operators > 1000, "the counter saw the run"
    assert used.arena_bytes == predicted.arena_bytes
    assert counter.peak > 0
    assert predicted.arena_bytes + counter.peak <= predicted.peak_bytes <= device.budget_bytes
    assert counter.peak <= predicted.workspace_bytes + predicted.kept_bytes
    assert used.kept_bytes <= predicted.kept_bytes


def test_one_job_on_two_devices_stays_within_both_budgets(tmp_path: Path) -> None:
    """Lists drawn over both; each device's budget is just what the plan says that it needs."""
    job, random = dropout_job(steps=2), Random(4)
    draws = Draws(job=job, graph=traced(job))
    wanted = {"two devices in one job", "kept", "recomputed", "updated on a device", "resident"}
    while not draws.coverage.seen >= wanted:
        draws.coverage.seen.clear()
        made = draws.draw(draws.cut(draws.graph.cut_positions[8:24:5]), random)
    peaks = {each.device: each.peak_bytes for each in made.predictions.devices}
    devices = tuple(replace(each, budget_bytes=peaks[each.name]) for each in draws.where.devices)
    made = plan_of(job, made.facts, made.phases, replace(draws.where, devices=devices))
    done, counters = counted_run(made, tmp_path / "run")
    assert len(counters) == len(done.devices) == 2
    for used, predicted in zip(done.devices, made.predictions.devices, strict=True):
        counter = counters[used.device]
        assert counter.operators > 100, "the counter saw the run"
        assert used.arena_bytes == predicted.arena_bytes
        assert 0 < counter.peak <= predicted.workspace_bytes + predicted.kept_bytes
        assert predicted.arena_bytes + counter.peak <= predicted.peak_bytes == used.budget_bytes
        assert used.kept_bytes <= predicted.kept_bytes


def test_gradients_that_updates_on_a_device_cast_are_counted(tmp_path: Path) -> None:
    """All of a small slab's at once; without counting them, a plan's workspace would be that of its cells."""
    where = cluster(1)
    job = whole_job("support.models:Skips", {"width": 64}, name="low", batch_size=1, precision="bf16")
    job = replace(
        job, data=Target(path="support.whole:rows", arguments=(("length", 2), ("target", True), ("width", 64)))
    )
    graph = traced(job)
    facts = facts_of(job, graph, ())
    (layout,) = facts.layouts
    (slab,), (shard,) = layout.slabs, layout.shards
    placement = Placement(job="low", device=where.devices[0].name, steps=job.steps, device_updates=(slab.name,))
    made = plan_of(job, facts, [toy_phase({"low": layout}, [job], [placement], repeat=job.steps)], where)
    done, counters = counted_run(made, tmp_path / "run")
    (counter,), (predicted,) = counters.values(), made.predictions.devices
    of_cells = max(shard.forward_workspace_bytes, shard.recompute_workspace_bytes)
    assert of_cells < counter.peak <= predicted.workspace_bytes == 2 * slab.trainable_bytes
    assert predicted.arena_bytes + counter.peak <= predicted.peak_bytes
    assert done.devices[0].peak_bytes <= predicted.peak_bytes
