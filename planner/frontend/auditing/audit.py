"""Two training steps of a job's real model beside two of its cut graph: equal to the bit, or the first difference.

    step 0    microbatch 0    forward, backward      losses, every parameter's gradient, every buffer
              microbatch 1    ...
              update                                 every parameter
    step 1    ...                                    what a forward keeps in Python shows here

Both sides start from a model made under the job's seed, read the job's first batches, and draw the same random
numbers. The gradients of a step's microbatches are compared one by one, and both sides are updated by one sum of
them, that of EXACTNESS.md, rule 14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from hydraplan.planner.frontend.auditing.comparison import (
    Difference,
    gradient_difference,
    loss_difference,
    same_bits,
    tensor_difference,
)
from hydraplan.planner.frontend.auditing.localising import Recorder, first_unknown
from hydraplan.planner.frontend.auditing.numerics import numerics, outside_state
from hydraplan.planner.frontend.auditing.sides import Batch, Cut, Eager, Ran, Sites
from hydraplan.planner.frontend.shards.build import Known
from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.keyed import CellKey
from hydraplan.planner.frontend.tracing.refusals import because
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import JobData
from hydraplan.planner.frontend.users.usercode import RAISED
from hydraplan.plans.language.errors import HydraplanError, TraceError
from hydraplan.plans.language.workload import Job

STEPS = 2
Batches: TypeAlias = Sequence[Sequence[Batch]]
"""By step and microbatch."""
Verdict: TypeAlias = Literal["equal", "differs", "unsteady", "inexact"]

REMEDIES = {
    "start": "draw all that the constructor draws with torch, numpy or Python, which the job's seed seeds",
    "draws": "draw random numbers in every forward alike",
    "outside": "draw with torch, whose numbers are keyed by the job's seed, or in the data set",
    "gradient": "a backward that the graph has not comes from a custom function that was not seen, a hook, or a "
    "derivative that the model takes itself: write it as a torch.autograd.Function, called by its class",
    "tensor": "tensors that share memory, or that the forward writes to (`.data = ...`), are in no graph: tie "
    "parameters by making them one object, and update buffers in place",
    "loss": "the graph is what torch.export saw of the forward: write what differs with operators on parameters, "
    "buffers and the batch",
}
"""What to do about a difference, by where it is."""
KEPT = (
    "what a forward keeps from step to step (a counter, an annealed attribute, a cache) is in no graph: keep it in a "
    "buffer and update that in place, or give it with the batch"
)
"""About one that shows in the second step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What came of an audit."""

    verdict: Verdict
    """`unsteady`: the plain loop does not reproduce itself; `inexact`: there are no bits to compare to."""
    text: str = ""
    """Where and how they differ, and what to do; why there is nothing to compare to."""


def batches_of(data: JobData) -> Batches:
    """What an audit of the job reads: the microbatches of its first steps."""
    return [[data.microbatch(step, number) for number in range(data.microbatches)] for step in range(STEPS)]


def audit(
    job: Job, batches: Batches, traced: TracedGraph, cuts: Sequence[int], *, known: Known | None = None
) -> Audited:
    """Audit a graph with one of its jobs. `known`: the real model's graph and constants, where it was traced already.

    Leaves the process as it was. Raises TraceError where either side fails.
    """
    with numerics(job.threads):
        try:
            return _audit(job, batches, traced, cuts, known)
        except HydraplanError:
            raise
        except RAISED as error:
            raise TraceError(f"job {job.name}: its audit stopped: {because(error, REMEDIES['loss'])}") from error


def refusal(job: Job, found: Audited, strict: Sequence[str]) -> str:
    """What to say of a difference that the jobs `strict` do not accept."""
    accept = 'audit = "tell"' if list(strict) == [job.name] else f'audit = "tell" in {", ".join(strict)}'
    what = "cannot be held to any bits" if found.verdict == "unsteady" else "does not train as its model does"
    return f"job {job.name}: audited, it {what}: {found.text}; {accept} plans it all the same"


def _audit(job: Job, batches: Batches, traced: TracedGraph, cuts: Sequence[int], known: Known | None) -> Audited:
    first = _Run(job, batches, traced, cuts, known)
    if first.cut.traced.digest != traced.digest:
        return Audited(
            verdict="differs", text=f"the real model has another graph than the one to plan by; {REMEDIES['loss']}"
        )
    found = first.difference()
    if found is None:
        return Audited(verdict="equal")
    losses = first.losses
    del first
    again = _Run(job, batches, traced, cuts, known, watched=found)
    repeated = again.difference()
    if repeated != found or not all(map(same_bits, losses, again.losses)):
        text = f"the model's plain loop does not repeat itself under one seed: {_at(found)} {found.text} in one run"
        other = "nothing differs" if repeated is None else f"{_at(repeated)} {repeated.text}"
        return Audited(verdict="unsteady", text=f"{text}, and in the next {other}")
    if _no_bits(job, traced):
        return Audited(
            verdict="inexact", text="attention with dropout under autocast has no plain loop with the same draws"
        )
    place = f"; {again.place}" if again.place else ""
    remedy = KEPT if found.part == "loss" and found.step > 0 else REMEDIES[found.part]
    return Audited(verdict="differs", text=f"{_at(found)} {found.text}{place}; {remedy}")


def _at(found: Difference) -> str:
    if found.part == "start":
        return "before the first step"
    return f"at step {found.step}, microbatch {found.microbatch},"


def _no_bits(job: Job, traced: TracedGraph) -> bool:
    """autocast casts what attention takes before anybody could take it over; the graph's form casts within."""
    return any(
        node.target is keyed.attention and (job.precision == "autocast" or node.meta["context"].autocast is not None)
        for graph in traced.buckets
        for node in graph.nodes
    )


class _Run:
    """Both sides, from the first step to the first difference."""

    def __init__(
        self,
        job: Job,
        batches: Batches,
        traced: TracedGraph,
        cuts: Sequence[int],
        known: Known | None,
        watched: Difference | None = None,
    ) -> None:
        """`watched`: what was found before; values are compared one by one where it was."""
        self._job, self._batches = job, batches
        self.cut = Cut(job, batches[0][0], traced, cuts, known)
        self.eager = Eager(job)
        self._watched = watched
        self.place: str | None = None
        self.losses: list[Tensor] = []
        """Of the plain loop, as far as it came."""

    def difference(self) -> Difference | None:
        eager, cut = self.eager.tensors(), self.cut.tensors()
        start = {name: value.clone() for name, value in eager.items() if name not in cut}
        wrong = tensor_difference(eager, cut, start, self.cut.traced)
        if wrong is not None:
            text = f"the model is made otherwise each time: {wrong}"
            return Difference(step=0, microbatch=0, part="start", text=text)
        for step in range(STEPS):
            parts: list[Sites] = []
            for microbatch in range(self._job.microbatches):
                found, sites = self._microbatch(step, microbatch, start)
                if found is not None:
                    return found
                parts.append(sites)
            found = self._update(step, parts, start)
            if found is not None:
                return found
        return None

    def _microbatch(self, step: int, microbatch: int, start: Mapping[str, Tensor]) -> tuple[Difference | None, Sites]:
        batch = self._batches[step][microbatch]
        key = CellKey(seed=self._job.seed, step=step, microbatch=microbatch)
        graph, _ = self.cut.graph_for(batch)
        draws = self.cut.draws_for(batch, key)
        watched = self._watched is not None and (self._watched.step, self._watched.microbatch) == (step, microbatch)
        before = dict(self.cut.values)
        outside = outside_state()
        with Recorder() if watched else nullcontext() as recorder:
            eager = self.eager.run(batch, key, draws)
        if recorder is not None:
            self.place = first_unknown(graph, before, batch, key, recorder.seen)
        outside_changed = step > 0 and outside_state() != outside
        cut, sites = self.cut.run(batch, key)
        self.losses.append(eager.loss)
        found = self._compared(eager, cut, graph, start)
        if found is None and draws.left:
            found = ("draws", f"the graph draws {len(draws.left)} times more than the plain loop")
        if found is None and outside_changed:
            found = ("outside", "the forward draws from Python's or numpy's random generator, which no graph holds")
        if found is None:
            return None, sites
        part, text = found
        return Difference(step=step, microbatch=microbatch, part=part, text=text), sites  # type: ignore[arg-type]

    def _compared(
        self, eager: Ran, cut: Ran, graph: TracedGraph, start: Mapping[str, Tensor]
    ) -> tuple[str, str] | None:
        wrong = loss_difference(eager, cut)
        if wrong is not None:
            return "loss", wrong
        wrong = gradient_difference(eager, cut, self.cut, graph)
        if wrong is not None:
            return "gradient", wrong
        wrong = tensor_difference(self._eager_tensors(), self.cut.tensors(), start, graph)
        return None if wrong is None else ("tensor", f"after the forward {wrong}")

    def _update(self, step: int, parts: Sequence[Sites], start: Mapping[str, Tensor]) -> Difference | None:
        total = self.cut.total(parts)
        self.eager.update({name: total[self.cut.name_of[name]] for name in self._eager_names(total)})
        self.cut.update(total)
        wrong = tensor_difference(self._eager_tensors(), self.cut.tensors(), start, self.cut.traced)
        if wrong is None:
            return None
        last = self._job.microbatches - 1
        return Difference(step=step, microbatch=last, part="tensor", text=f"after the update {wrong}")

    def _eager_tensors(self) -> dict[str, Tensor]:
        """Eager's tensors but for caches that the graph has not."""
        known, caches = self.cut.tensors(), self.eager.caches()
        found = self.eager.tensors().items()
        return {name: value for name, value in found if name in known or name not in caches}

    def _eager_names(self, total: Mapping[str, Tensor]) -> list[str]:
        return [name for name in self.eager.parameter_names if self.cut.name_of.get(name) in total]
