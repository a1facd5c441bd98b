"""Where to cut a graph: dynamic programming over the allowed positions.

    f(b) = min over a < b of  f(a) + time(a, b)        such that the shard [a, b) fits

`time` is what a training step spends on the shard, streamed, breadth first (all microbatches while it is loaded),
recomputed, with loads and spills hidden behind compute where they fit:

    forward    max(microbatches * forward,              load of parameters and inputs, spill of outputs)
    backward   max(microbatches * (forward + backward), load of parameters and inputs, spill of gradients)

and a fixed cost for each cell and copy. A shard in which nothing needs a gradient has no backward. The first shard's
transfers hide behind nothing. Shards are not made as large as fits: a streamed shard needs room beside its
neighbours, and several jobs share a device, so that time counts more the further a shard exceeds `SHARE` of the
smallest budget.

Cuts are looked for where the bytes that cross have a local minimum, and everywhere else only if that is not enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from hydraplan.planner.cutting.segments import Bytes, GraphSums, Seconds, Segments
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.quantities import format_bytes
from hydraplan.plans.language.workload import Cluster, Device
from hydraplan.plans.prediction.durations import load_rate, profile_of, spill_rate, update_bytes

SHARE = 8
"""A shard at work should take at most 1 / SHARE of the smallest budget."""
OVERSIZE_PENALTY = 0.5
"""What each further such share adds to a shard's time, as a fraction of it."""
CELL_NODES = 60
"""Fixed cost of a cell or a copy, in nodes of the profile: threads, events and views."""
MARGIN = 0.9
"""Part of the budget that estimates may fill."""
TIGHT = (1.0, 1.05, 1.1, 1.2, 1.35)
"""Multiples of the least budget that cuts are made for where memory is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How generously memory is reckoned."""

    slabs: int
    """Shards' parameters present at once: in use, prefetched, being dropped."""
    all_microbatches: bool
    """Boundary values of all microbatches of the step, or of two while the others are at the host."""


ROOMS = (
    Room(slabs=3, all_microbatches=True),
    Room(slabs=2, all_microbatches=False),
    Room(slabs=1, all_microbatches=False),
)
"""From what runs well to what barely runs; the first with a solution is taken."""


def partition(traced: TracedGraph, cluster: Cluster, *, microbatches: int, state_copies: int) -> tuple[int, ...]:
    """Cuts that suit the smallest of the cluster's devices that can hold any.

    Raises InfeasibleError, with the module and tensor at fault, if no allowed cuts fit the largest.
    """
    smallest = {device.budget_bytes: device for device in sorted(cluster.devices, key=lambda each: each.name)[::-1]}
    for budget in sorted(smallest):
        problem = Problem(traced, cluster, smallest[budget], microbatches, state_copies)
        for room in ROOMS:
            for boundaries in (problem.quiet_boundaries(), problem.boundaries):
                cuts = problem.solve(boundaries, room)
                if cuts is not None:
                    return cuts
    raise problem.infeasible()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tight:
    """Cuts that need little memory, the same whatever the budgets are."""

    cuts: tuple[tuple[int, ...], ...]
    largest: str
    """What of the model needs the most, in words."""


def tight(traced: TracedGraph, cluster: Cluster, *, microbatches: int, state_copies: int) -> Tight:
    """The cuts whose largest shard is the smallest, and those for budgets from what that takes on."""
    device = max(cluster.devices, key=lambda each: each.budget_bytes)
    problem = Problem(traced, cluster, device, microbatches, state_copies)
    need, begin, end, finest = problem.smallest_budget()
    found = [finest]
    for reach in TIGHT:
        problem.device = replace(device, budget_bytes=math.ceil(need * reach))
        for room in ROOMS:
            cuts = problem.solve(problem.boundaries, room)
            if cuts is not None:
                found.append(cuts)
    return Tight(cuts=tuple(dict.fromkeys(found)), largest=problem.smallest_shard(begin, end))


class Problem:
    def __init__(
        self, traced: TracedGraph, cluster: Cluster, device: Device, microbatches: int, state_copies: int
    ) -> None:
        self.device = device
        self.microbatches = microbatches
        self.profile = profile_of(cluster, device.profile)
        self.update_s_per_byte = (
            update_bytes(1, state_copies) / profile_of(cluster, cluster.host_profile).update_bytes_per_s
        )
        self.load_rate = load_rate(cluster, device)
        self.spill_rate = spill_rate(cluster, device)
        self.sums = GraphSums(traced, self.profile)
        self.boundaries = (0, *traced.cut_positions, len(traced.nodes))
        self.modules = [node.meta["source"].module for node in traced.nodes]
        self.accumulators = max(1, (microbatches - 1).bit_length())
        """Open nodes of the gradient tree while microbatches run in order."""

    def quiet_boundaries(self) -> tuple[int, ...]:
        """Boundaries where no more bytes cross than at either neighbour; the first of equal ones in a row."""
        inner = self.boundaries[1:-1]
        crossing = [int(self.sums.crossing[position]) for position in inner]
        quiet = [
            position
            for index, position in enumerate(inner)
            if (index == 0 or crossing[index] < crossing[index - 1])
            and crossing[index] <= next((each for each in crossing[index:] if each != crossing[index]), crossing[index])
        ]
        return (0, *quiet, self.boundaries[-1])

    def solve(self, boundaries: tuple[int, ...], room: Room) -> tuple[int, ...] | None:
        """The cheapest chain of fitting shards from the first boundary to the last; None: there is none."""

        def cost(before: float, begin: int, segments: Segments) -> Seconds:
            fits = self.size(begin, segments, room) <= MARGIN * self.device.budget_bytes
            return np.where(fits, before + self.time(begin, segments) * self.penalty(segments), np.inf)

        total, chain = self._best_chain(boundaries, cost)
        return chain[1:-1] if np.isfinite(total) else None

    def smallest_budget(self) -> tuple[int, int, int, tuple[int, ...]]:
        """The least budget that some cuts would do with, the shard that asks for it, and the cuts: (bytes, begin, end,
        cuts)."""
        room = ROOMS[-1]

        def cost(before: float, begin: int, segments: Segments) -> Seconds:
            return np.maximum(before, self.size(begin, segments, room))

        total, chain = self._best_chain(self.boundaries, cost)
        sizes = [
            (int(self.size(begin, self.sums.from_node(begin), room)[end - begin - 1]), begin, end)
            for begin, end in pairwise(chain)
        ]
        size, begin, end = max(sizes, key=lambda each: (each[0], -each[1]))
        assert size == total
        return math.ceil(size / MARGIN), begin, end, chain[1:-1]

    def _best_chain(
        self, boundaries: tuple[int, ...], cost: Callable[[float, int, Segments], Seconds]
    ) -> tuple[float, tuple[int, ...]]:
        """Least cost of a chain over the boundaries, and the chain. `cost`: of all segments from one boundary on,
        given the cost up to it; the first of equals wins."""
        best = np.full(len(boundaries), np.inf)
        best[0] = 0.0
        before = np.zeros(len(boundaries), dtype=np.int64)
        ends = np.array(boundaries)
        for index, begin in enumerate(boundaries[:-1]):
            if not np.isfinite(best[index]):
                continue
            costs = cost(float(best[index]), begin, self.sums.from_node(begin))[ends[index + 1 :] - begin - 1]
            better = costs < best[index + 1 :]
            best[index + 1 :][better] = costs[better]
            before[index + 1 :][better] = index
        index, chain = len(boundaries) - 1, [boundaries[-1]]
        while index > 0:
            index = int(before[index])
            chain.append(boundaries[index])
        return float(best[-1]), tuple(reversed(chain))

    def size(self, begin: int, segments: Segments, room: Room) -> Bytes:
        """Bytes of device memory that a shard needs around it."""
        values = 2 * (self.sums.crossing[begin] + segments.out_bytes)
        microbatches = self.microbatches if room.all_microbatches else min(2, self.microbatches)
        total: Bytes = (
            room.slabs * segments.parameter_bytes
            + self.accumulators * segments.gradient_bytes
            + segments.workspace_bytes
            + microbatches * values
        )
        return total

    def penalty(self, segments: Segments) -> Seconds:
        """Factor on the time of shards that take too large a part of the device."""
        one = segments.parameter_bytes + segments.workspace_bytes
        excess = one / (self.device.budget_bytes / SHARE) - 1
        factor: Seconds = 1 + OVERSIZE_PENALTY * np.maximum(excess, 0.0)
        return factor

    def time(self, begin: int, segments: Segments) -> Seconds:
        """Seconds of a training step that a shard takes."""
        count = self.microbatches
        inputs = count * int(self.sums.crossing[begin])
        load = (segments.parameter_bytes + inputs) / self.load_rate
        forward = np.maximum(count * segments.forward_s, load)
        forward = np.maximum(forward, count * segments.out_bytes / self.spill_rate)
        spill = (segments.gradient_bytes + inputs) / self.spill_rate
        backward = np.maximum(count * (segments.forward_s + segments.backward_s), np.maximum(load, spill))
        backward = np.where(segments.has_backward, backward, 0.0)
        fixed = (1 + segments.has_backward) * (count + 2) * CELL_NODES * self.profile.node_ns / 1e9
        total = forward + backward + fixed
        if begin == 0:  # the step begins and ends with it: nothing else is there to hide its transfers
            update = self.update_s_per_byte * segments.gradient_bytes
            total = total + load + spill + update
        return total

    def infeasible(self) -> InfeasibleError:
        """What stands in the way, and what would do."""
        need, begin, end, _ = self.smallest_budget()
        missing = need - self.device.budget_bytes
        largest = f"{self.smallest_shard(begin, end)}, needs about {format_bytes(need)}"
        return InfeasibleError(
            f"{largest}; {self.device.name} has {format_bytes(self.device.budget_bytes)}: raise its budget, "
            "or use more microbatches",
            device=self.device.name,
            missing_bytes=missing,
            largest=largest,
        )

    def smallest_shard(self, begin: int, end: int) -> str:
        """The shard that needs the most of the finest ones, in words."""
        tensor, tensor_bytes = self.sums.largest_tensor(begin, end)
        module = next((name for name in self.modules[begin:end] if name), "")
        return (
            f"the smallest shard that holds {module!r}, whose largest tensor is {tensor} ({format_bytes(tensor_bytes)})"
        )
