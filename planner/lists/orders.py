"""The order of one device's compute engine: whole groups of cells, of one job after another or merged.

A job's training step is a chain of *groups*: all microbatches of the step through one shard (breadth
first), forwards up, backwards down (of those shards that have one), so that one load serves them all:

    F0 F0 F1 F1 F2 F2 B2 B2 u2 B1 B1 u1 B0 B0 u0        two microbatches; u: update on the device
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hydraplan.planner.lists.views import JobView
from hydraplan.plans.prediction.durations import ceil_us

AHEAD = 2
"""Groups whose loads are taken to fit ahead of their use."""


class Group(NamedTuple):
    """One shard's cells of one training step and direction."""

    job: int
    step: int
    shard: int
    backward: bool


@dataclass(frozen=True, slots=True)
class Weight:
    """What a group asks of the engines, in microseconds."""

    compute_us: int
    load_us: int


def weight_of(view: JobView, shard: int, backward: bool) -> Weight:
    """Estimate: streamed slabs are loaded for every group but the one that turns round, and what an update on the
    host changed of residents is loaded again."""
    last = len(view.layout.shards) - 1
    moved = 0
    for slab in view.layout.shards[shard].slabs:
        turning = backward and shard == last
        if slab not in view.resident:
            moved += 0 if turning else view.bytes_of(slab, "parameters")
            if view.state_on_device(slab) and view.last_group[slab] == (shard, backward):
                moved += view.bytes_of(slab, "optimizer")
        elif not backward and slab not in view.on_device and view.slabs[slab].readers[0] == shard:
            moved += view.changed_bytes(slab, "parameters")
    compute = (view.backward_us(shard) if backward else view.forward_us(shard)) * view.microbatches
    compute += sum(
        view.update_us(slab, host=False)
        for slab in view.layout.shards[shard].slabs
        if slab in view.on_device and view.last_group[slab] == (shard, backward)
    )
    return Weight(compute, ceil_us(moved, view.load_rate))


def chain(view: JobView, number: int, steps: int) -> list[Group]:
    shards = range(len(view.layout.shards))
    back = [shard for shard in reversed(shards) if view.has_backward(shard)]
    return [
        Group(number, step, shard, backward)
        for step in range(steps)
        for backward in (False, True)
        for shard in (back if backward else shards)
    ]


def in_turn(views: Sequence[JobView], steps: Sequence[int]) -> list[Group]:
    """Whole training steps of the jobs, one after the other, at even rates."""
    order = sorted((((step + 1) / count, number, step) for number, count in enumerate(steps) for step in range(count)))
    chains = [chain(view, number, count) for number, (view, count) in enumerate(zip(views, steps, strict=True))]
    return [group for _, number, step in order for group in chains[number] if group.step == step]


def balanced(views: Sequence[JobView], steps: Sequence[int]) -> list[Group]:
    """Merge the jobs' chains so that at any time loads asked for and compute given are in the cycle's ratio.

    Where jobs do equally well, the one furthest into its cycle goes first (so backwards before forwards):
    the jobs spread out, one's backwards over another's forwards, and each one's updates have time.

        a   F F F F B . B . B . B
        b           . F . F . F . F B B B B        forwards ask for loads, backwards give compute

    Time that compute has waited for loads is lost and owed to nobody; what loads are ahead is limited by memory,
    taken here as a few groups.
    """
    chains = [chain(view, number, count) for number, (view, count) in enumerate(zip(views, steps, strict=True))]
    weights = [
        {
            (shard, back): weight_of(view, shard, back)
            for shard in range(len(view.layout.shards))
            for back in (False, True)
        }
        for view in views
    ]
    asked = [weights[group.job][group.shard, group.backward] for each in chains for group in each]
    compute_total = max(1, sum(weight.compute_us for weight in asked))
    load_total = sum(weight.load_us for weight in asked)
    most_ahead = AHEAD * max((weight.load_us for weight in asked), default=0) * compute_total
    at = [0] * len(chains)
    balance = 0
    result: list[Group] = []
    while len(result) < len(asked):
        choices = []
        for number, groups in enumerate(chains):
            if at[number] < len(groups):
                group = groups[at[number]]
                weight = weights[number][group.shard, group.backward]
                then = balance + weight.load_us * compute_total - weight.compute_us * load_total
                waiting = max(then, -most_ahead - then, 0)  # of compute for loads, or of loads for memory
                choices.append((waiting, abs(then), -at[number] / len(groups), number, then))
        *_, number, then = min(choices)
        balance = max(min(then, 0), -most_ahead)
        result.append(chains[number][at[number]])
        at[number] += 1
    return result
