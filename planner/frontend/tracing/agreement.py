"""Whether a job's batches give the answers that its graph was traced by (`planner.frontend.tracing.answers`).

planned     the first batches are read and asked: what a plan would fail at later is refused now
executed    every batch is asked as it is read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hydraplan.planner.frontend.tracing.answers import disagreeing, refuse_disagreeing
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import JobData, open_data
from hydraplan.planner.frontend.users.lengths import examples, length_of
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job

MOST_ITEMS = 4096
"""Of a data set, that are read while planning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreeing:
    """A job's data, each of whose batches has to give its graph's answers."""

    job: Job
    data: JobData
    graph: TracedGraph

    def batch(self, step: int) -> dict[str, Tensor]:
        """The whole batch of a training step. Raises TraceError where a microbatch of it gives another answer."""
        batch = self.data.batch(step)
        rows = self.job.batch_size // self.job.microbatches
        for number in range(self.job.microbatches):
            part = {name: value[number * rows : (number + 1) * rows] for name, value in batch.items()}
            graph = self._at_its_length(part)
            try:
                refuse_disagreeing(graph.answers, part, f"microbatch {number} of step {step}")
            except TraceError as error:
                raise TraceError(f"job {self.job.name}: {error}") from None
        return batch

    def _at_its_length(self, batch: Mapping[str, Tensor]) -> TracedGraph:
        if self.job.lengths is None:
            return self.graph
        return self.graph.buckets[self.job.lengths.buckets.index(length_of(batch, self.job.lengths))]


def asks(graph: TracedGraph) -> bool:
    """Whether the graph was traced by any answer of a batch's."""
    return any(bucket.answers for bucket in graph.buckets)


def serves(graph: TracedGraph, job: Job, batch: Mapping[str, Tensor]) -> bool:
    """Whether a job whose first microbatch this is would be traced by the same answers."""
    pairs = zip(graph.buckets, examples(job, batch), strict=True) if asks(graph) else ()
    return all(disagreeing(bucket.answers, example) is None for bucket, example in pairs)


def begins_alike(graph: TracedGraph, job: Job) -> bool:
    """The same, of a job whose data is not open."""
    return serves(graph, job, open_data(job).microbatch(0, 0))


def refuse_other_answers(graph: TracedGraph, job: Job) -> None:
    """TraceError where one of the job's first batches gives another answer than its graph was traced by."""
    data = Agreeing(job=job, data=open_data(job), graph=graph)
    steps = min(job.steps, data.data.steps_per_epoch * 2, max(1, MOST_ITEMS // job.batch_size))
    for step in range(steps):
        data.batch(step)
