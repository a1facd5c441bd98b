"""Jobs of the small chain with all that training needs, and the plain loop that they are held against."""

from __future__ import annotations

from dataclasses import replace

import torch
from support.chain import Chain, Numbers, built_chain, chain_graph, chain_layout
from support.toyplan import PROFILE, toy_cluster, toy_plan, toy_workload

from hydraplan.plans.analysis.flow import trace
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.workload import Target
from hydraplan.runtime.devices.cpu import CpuBacking
from hydraplan.runtime.memory.store import HostStore
from hydraplan.runtime.progress import NoProgress
from hydraplan.runtime.training import Trained, train

LAYERS = 4


def adamw(**more: object) -> Target:
    return Target(path="AdamW", arguments=tuple(sorted({"lr": 1e-2, **more}.items())))


class ChainJobs:
    """Jobs of one chain, with all that training needs."""

    def __init__(
        self,
        *,
        jobs: int = 1,
        steps: int = 4,
        microbatches: int = 1,
        dropout: float = 0.0,
        optimizer: Target | None = None,
        devices: int = 2,
    ) -> None:
        workload = toy_workload(
            jobs, cluster=toy_cluster(devices, bytes_per_s=10**9), steps=steps, microbatches=microbatches
        )
        self.workload = replace(
            workload, jobs=tuple(replace(job, optimizer=optimizer or adamw()) for job in workload.jobs)
        )
        job = self.workload.jobs[0]
        self.graphs = {
            each.name: chain_graph(LAYERS, job.batch_size // microbatches, dropout) for each in workload.jobs
        }
        self.layout = chain_layout(self.graphs[job.name], PROFILE)
        self.state = state_of(job.optimizer, job.precision)
        self.dropout = dropout

    def model(self, number: int = 0) -> Chain:
        torch.manual_seed(number)
        return Chain(LAYERS, self.dropout)

    def store(self) -> HostStore:
        store = HostStore(CpuBacking().host_memory)
        for number, job in enumerate(self.workload.jobs):
            store.add(job.name, self.graphs[job.name], self.state, built_chain(self.model(number)))
        return store

    def plan(self, **more: object) -> Plan:
        plan = toy_plan(self.workload, self.layout, state_copies=self.state.copies, **more)
        assert trace(plan).problems == ()
        return plan

    def train(self, plan: Plan, store: HostStore, **more: object) -> Trained:
        sources = {job.name: Numbers(job.batch_size) for job in self.workload.jobs}
        return train(plan, graphs=self.graphs, sources=sources, store=store, watch=NoProgress(), **more)

    def plain(self) -> tuple[list[float], dict[str, torch.Tensor]]:
        """The plain loop, one microbatch."""
        model, job = self.model(), self.workload.jobs[0]
        numbers = Numbers(job.batch_size)
        optimizer = getattr(torch.optim, job.optimizer.path)(
            model.parameters(), **dict(job.optimizer.arguments), fused=True
        )
        losses = []
        torch.set_num_threads(1)
        for step in range(job.steps):
            loss = model(**numbers.batch(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, model.state_dict()


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
