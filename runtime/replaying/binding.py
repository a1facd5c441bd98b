"""Bind every site of a program to the operation that does it, in the memory that its flow names."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence

from hydraplan.planner.frontend.shards.program import ShardedGraph
from hydraplan.plans.analysis.flow import Accumulation, Instance, Kind, Site, Uses, layouts_of, refreshes
from hydraplan.plans.analysis.memory import update_workspace_bytes
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import (
    Backward,
    Drop,
    Fetch,
    FetchBatch,
    Forward,
    Load,
    Save,
    Spill,
    SpillGradients,
    Update,
)
from hydraplan.plans.language.workload import HOST
from hydraplan.plans.prediction.durations import Durations
from hydraplan.runtime.memory.optimizer import Kernel, SlabUpdate, kernel_of
from hydraplan.runtime.memory.regions import Region
from hydraplan.runtime.replaying.batches import Batches
from hydraplan.runtime.replaying.memory import Memory
from hydraplan.runtime.replaying.operations import (
    ByBucket,
    Cell,
    CellName,
    Copy,
    CopyValues,
    FetchRows,
    KeptCells,
    LossSink,
    Operation,
    RunBackward,
    RunForward,
    RunUpdate,
    SaveLoss,
    SpillAccumulator,
)
from hydraplan.runtime.replaying.program import Program

SIZED_BY_BUCKET = (FetchBatch, Fetch, Save, Forward, Backward)
"""Steps that touch values whose size depends on the length of a job's batches."""


class Binder:
    """Makes the operations of a plan's sites."""

    def __init__(
        self,
        *,
        plan: Plan,
        program: Program,
        graphs: Mapping[str, ShardedGraph],
        memory: Memory,
        batches: Batches,
        losses: LossSink,
        kept: Mapping[str, KeptCells],
    ) -> None:
        """`kept`: by device."""
        self._program, self._graphs, self._memory = program, graphs, memory
        self._batches, self._losses, self._kept = batches, losses, kept
        self._jobs = {job.name: job for job in plan.workload.jobs}
        self._layouts = layouts_of(plan)
        self._kernels: dict[str, Kernel] = {
            job.name: kernel_of(job.optimizer, job.precision) for job in plan.workload.jobs
        }
        self._durations = Durations(plan)
        self._keeps: set[tuple[object, ...]] = set()
        self._fetches = Counter(
            self._batch_of(site) for site in program.flow.sites if isinstance(site.step, FetchBatch)
        )

        self._smaller = {
            job: [self._at(job, each) for each in graph.shorter] for job, graph in graphs.items() if graph.shorter
        }

    def operations(self) -> list[Operation | None]:
        """By site; None: a drop."""
        flow = self._program.flow
        over_present = refreshes(flow.sites)
        return [
            self._by_bucket(site, uses, refresh=number in over_present)
            for number, (site, uses) in enumerate(zip(flow.sites, flow.uses, strict=True))
        ]

    def _by_bucket(self, site: Site, uses: Uses, *, refresh: bool) -> Operation | None:
        """One operation for each bucket of the job, of which a training step takes its own."""
        job = site.step.job
        operation = self._operation(site, uses, refresh=refresh)
        if operation is None or job not in self._smaller or not isinstance(site.step, SIZED_BY_BUCKET):
            return operation
        lengths = self._jobs[job].lengths
        assert lengths is not None, "prepare made graphs for the job's buckets"
        operations = {lengths.buckets[-1]: operation}
        for bucket, smaller in zip(lengths.buckets, self._smaller[job], strict=False):
            of_bucket = smaller._operation(site, uses, refresh=refresh)
            assert of_bucket is not None
            operations[bucket] = of_bucket
        return ByBucket(operations, self._batches, job)

    def _at(self, job: str, graph: ShardedGraph) -> Binder:
        """What binds the job's values at a smaller bucket; what is counted is counted once."""
        smaller = copy.copy(self)
        smaller._graphs, smaller._memory = {job: graph}, self._memory.at(job, graph)
        return smaller

    def _operation(self, site: Site, uses: Uses, *, refresh: bool) -> Operation | None:
        """`refresh`: the site loads over a present copy."""
        step = site.step
        match step:
            case Load() | Spill():
                # both touch the copy in the host store and the one on the device, nothing else
                target, source = (step.device, HOST) if isinstance(step, Load) else (HOST, step.device)
                touched = {each.place: self._memory.of(each) for each in (*uses.reads, *uses.writes)}
                size = self._durations.bytes_of(step, refresh=refresh)
                return Copy(touched[target], touched[source], size)
            case Drop():
                return None
            case FetchBatch():
                return self._fetch_batch(site, step, uses)
            case Fetch():
                return CopyValues(self._only(uses.writes), self._only(uses.reads))
            case Save():
                return self._save(step, uses)
            case SpillGradients():
                return SpillAccumulator(self._only(uses.reads), self._targets(self._first(uses)))
            case Forward():
                return self._forward(site, step, uses)
            case Backward():
                return self._backward(site, step, uses)
            case Update():
                return self._update(step, uses)

    # -- copies -----------------------------------------------------------------------------------

    def _fetch_batch(self, site: Site, step: FetchBatch, uses: Uses) -> Operation:
        job = self._jobs[step.job]
        rows = job.batch_size // job.microbatches
        return FetchRows(
            self._only(uses.writes),
            [tensor.name for tensor in self._graphs[step.job].batch[step.shard].tensors],
            self._batches,
            step.job,
            (step.microbatch * rows, rows),
            self._fetches[self._batch_of(site)],
        )

    def _save(self, step: Save, uses: Uses) -> Operation:
        landed = self._only(uses.writes)
        copy = CopyValues(landed, self._only(uses.reads))
        if step.what == "activations" and step.shard == len(self._layouts[step.job].shards) - 1:
            return SaveLoss(copy, landed, step.job, step.microbatch, self._losses)
        return copy

    # -- cells ------------------------------------------------------------------------------------

    def _forward(self, site: Site, step: Forward, uses: Uses) -> Operation:
        made = self._find(uses.writes, "activations", step.shard)
        if step.keep:
            self._keeps.add((site.phase, site.section, site.copy, self._cell_name(step)))
        facts = self._layouts[step.job].shards[step.shard]
        return RunForward(
            self._cell(step, uses),
            made,
            self._find(uses.writes, "buffers", step.shard),
            self._kept[step.device],
            facts.kept_bytes if step.keep else None,
            facts.keep_workspace_bytes if step.keep else facts.forward_workspace_bytes,
        )

    def _backward(self, site: Site, step: Backward, uses: Uses) -> Operation:
        running: dict[int, Region] = {}
        fresh: dict[int, Region] = {}
        facts = self._layouts[step.job].shards[step.shard]
        for producer in facts.gradients_to:
            before = self._find(uses.reads, "activation_gradients", producer)
            if before is not None:
                running[producer] = before
            else:
                fresh[producer] = self._must_find(uses.writes, "activation_gradients", producer)
        kept = (site.phase, site.section, site.copy, self._cell_name(step)) in self._keeps
        return RunBackward(
            self._cell(step, uses),
            kept=self._kept[step.device],
            was_kept=kept,
            workspace_bytes=facts.backward_workspace_bytes if kept else facts.recompute_workspace_bytes,
            own=self._find(uses.reads, "activation_gradients", step.shard),
            running=running,
            fresh=fresh,
            accumulators=[(each.slab, self._targets(each), each.stored) for each in uses.accumulations],
            loss_seed=1 / self._jobs[step.job].microbatches,
        )

    def _cell(self, step: Forward | Backward, uses: Uses) -> Cell:
        job = self._jobs[step.job]
        shard = self._layouts[step.job].shards[step.shard]
        slabs = {each.key.slab: self._memory.of(each) for each in uses.reads if each.key.kind == "parameters"}
        return Cell(
            program=self._graphs[step.job].programs[step.shard],
            slabs=[slabs[name] for name in shard.slabs],
            inputs={producer: self._must_find(uses.reads, "activations", producer) for producer in shard.reads},
            batch=self._find(uses.reads, "batch", step.shard),
            buffers=self._find(uses.reads, "buffers", step.shard),
            name=self._cell_name(step),
            seed=job.seed,
            threads=job.threads,
        )

    # -- updates ----------------------------------------------------------------------------------

    def _update(self, step: Update, uses: Uses) -> RunUpdate:
        graph, job = self._graphs[step.job], self._jobs[step.job]
        touched = {each.key.kind: self._memory.of(each) for each in uses.writes}
        update = SlabUpdate(
            kernel=self._kernels[step.job],
            slab=next(slab for slab in graph.slabs if slab.name == step.slab),
            state=state_of(job.optimizer, job.precision),
            use_sites=graph.use_sites,
            parameters=touched["parameters"],
            optimizer=touched.get("optimizer"),
            buffers=next((self._memory.of(each) for each in uses.reads if each.key.kind == "buffers"), None),
            gradients={each.key.shard: self._memory.of(each) for each in uses.reads if each.key.kind == "gradients"},
        )
        workspace_bytes = update_workspace_bytes(self._layouts[step.job].slab(step.slab), job.precision)
        return RunUpdate(update, job.threads, self._kept.get(step.device), workspace_bytes)

    # -- finding what a site touches --------------------------------------------------------------

    def _find(self, instances: Sequence[Instance], kind: Kind, shard: int) -> Region | None:
        for each in instances:
            if each.key.kind == kind and each.key.shard == shard:
                return self._memory.of(each)
        return None

    def _must_find(self, instances: Sequence[Instance], kind: Kind, shard: int) -> Region:
        region = self._find(instances, kind, shard)
        assert region is not None, "the plan's flow was checked"
        return region

    def _only(self, instances: Sequence[Instance]) -> Region:
        return self._memory.of(instances[0])

    def _first(self, uses: Uses) -> Accumulation:
        (accumulation,) = uses.accumulations
        return accumulation

    def _targets(self, accumulation: Accumulation) -> list[Region]:
        return [self._memory.of(each) for each in accumulation.targets]

    def _cell_name(self, step: Forward | Backward) -> CellName:
        return (step.job, step.shard, step.microbatch, step.step)

    def _batch_of(self, site: Site) -> tuple[object, ...]:
        step = site.step
        assert isinstance(step, FetchBatch)
        return (site.phase, site.section, site.copy, step.job, step.step)
