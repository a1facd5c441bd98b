"""Jobs end one by one: each is told when all its steps are done, with its final state in the host store."""

from __future__ import annotations

import torch
from support.chain import Numbers
from support.chainrun import ChainJobs, assert_same
from support.toyplan import toy_phase

from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.runtime.memory.store import HostStore
from hydraplan.runtime.progress import NoProgress
from hydraplan.runtime.training import train


class Ends(NoProgress):
    """Copies the state of each job when it is told that it has finished."""

    def __init__(self, store: HostStore) -> None:
        self.store = store
        self.steps = {"a": 0, "b": 0}
        self.states: dict[str, dict[str, torch.Tensor]] = {}
        self.others: dict[str, int] = {}
        self.failed: list[str] = []

    def step(self, job: str, step: int, loss: float) -> None:
        self.steps[job] += 1

    def fail(self, job: str, message: str) -> None:
        self.failed.append(job)

    def finish(self, job: str) -> None:
        assert job not in self.states, "told once"
        self.states[job] = self.store.state_dict(job)
        self.others[job] = self.steps["b" if job == "a" else "a"]


def one_after_another(setup: ChainJobs) -> Plan:
    """Job a in two phases, updated on the device it is resident on in the first; then job b, on the same device."""
    layouts = dict.fromkeys("ab", setup.layout)
    resident = Placement(job="a", device="cpu0", steps=2, resident=("0", "1"), device_updates=("1",))
    streamed = Placement(job="a", device="cpu1", steps=2)
    phases = [
        toy_phase(layouts, setup.workload.jobs, placements, repeat=repeat)
        for placements, repeat in (
            ([resident], 2),
            ([streamed], 1),
            ([Placement(job="b", device="cpu1", steps=4)], 4),
        )
    ]
    return setup.plan(phases=phases)


def test_a_job_is_told_when_its_last_step_is_done_and_the_others_go_on() -> None:
    setup = ChainJobs(jobs=2, steps=4)
    store = setup.store()
    ends = Ends(store)
    sources = {job.name: Numbers(job.batch_size) for job in setup.workload.jobs}
    train(one_after_another(setup), graphs=setup.graphs, sources=sources, store=store, watch=ends)
    assert list(ends.states) == ["a", "b"]
    assert ends.others["a"] < 4, "before the other had finished"
    for job in "ab":
        assert_same(ends.states[job], store.state_dict(job))
    assert_same(ends.states["a"], setup.plain()[1])


def test_a_job_that_has_failed_has_not_finished() -> None:
    setup = ChainJobs(jobs=2, steps=4)
    setup.graphs["a"].programs[2].fail_at = 3
    store = setup.store()
    ends = Ends(store)
    sources = {job.name: Numbers(job.batch_size) for job in setup.workload.jobs}
    train(one_after_another(setup), graphs=setup.graphs, sources=sources, store=store, watch=ends)
    assert (ends.failed, list(ends.states)) == (["a"], ["b"])
