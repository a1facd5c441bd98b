"""Static memory: every instance gets its address in its place's arena ahead, from the list alone.

An instance that is held over a cycle border keeps one address through prologue, all cycles and epilogue,
so a cycle is a ring: what is held at its end lies where the next cycle expects it.

    list line      0 ........ prologue | cycle ........ | epilogue
    held slab          [---------------|--)        [----|---)        one address
    streamed slab                      |     [---)      |            an address for each load

Addresses are first fit, the largest first: sizes that differ little count as one, so that slabs and their gradients,
nearly alike, take each other's places and leave no gaps. Where much stays unused all the same, another order is tried.
Lifetimes are in list order; that engines overlap in time is safe because a step that takes a region waits for the
earlier users of it (`plans.analysis.hazards`).

Such waits are the price of little memory. On devices memory is what is short; on the host it would be a poor
bargain, where one job's spilled gradients would wait for another job's update. So there every job has a part
of the arena of its own, and what it puts there lingers until some more has come after it:

    spilled gradients of a job      [=====|----------)
    (= needed, - lingering)               [=====|----------)
                                                [=====|----------)      so spills run ahead of updates
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hydraplan.plans.analysis.flow import Flow, Instance, Section
from hydraplan.plans.analysis.objects import COPIES
from hydraplan.plans.language.plan import Phase, Plan
from hydraplan.plans.language.workload import HOST

ALIGNMENT = 256
ALIKE = 16
"""Sizes that differ by at most this part count as one."""
UNUSED = 32
"""Part of an arena that may stay unused at its fullest before another order is tried."""

Shape: TypeAlias = tuple[int, tuple[tuple[int, int], ...]]
"""(bytes, intervals) of a block."""
Order: TypeAlias = Callable[[Shape], tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arenas:
    addresses: tuple[int, ...]
    """Instance id -> first byte in its place's arena (0 for what is not in an arena)."""
    sizes: dict[str, int]
    """Place -> bytes of its arena, over all phases."""
    phase_sizes: dict[tuple[str, int], int]
    """(device, phase) -> bytes of its arena in that phase: at a phase's border nothing is held, and it is resized."""


def align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def allocate(plan: Plan, flow: Flow, *, host: bool = True) -> Arenas:
    """Addresses of all instances that live in an arena; not `host`: in a device's."""
    addresses = [0] * len(flow.instances)
    sizes: dict[str, int] = defaultdict(int)
    families: dict[tuple[str, int, str], dict[object, list[Instance]]] = defaultdict(lambda: defaultdict(list))
    for instance in flow.instances:
        if instance.in_arena and (host or instance.place != HOST):
            phase = flow.sites[instance.begin].phase
            part = instance.key.job if instance.place == HOST else ""
            families[instance.place, phase, part][_family(flow, instance)].append(instance)
    tops: dict[tuple[str, str], int] = defaultdict(int)
    phase_sizes: dict[tuple[str, int], int] = {}
    for (place, phase, part), members in families.items():
        blocks = [_Block.of(flow, plan.phases[phase], group) for group in members.values()]
        if place == HOST:
            _linger(blocks, plan.phases[phase], 1 + plan.workload.cluster.update_workers)
        top = _fit(blocks)
        tops[place, part] = max(tops[place, part], top)
        if place != HOST:
            phase_sizes[place, phase] = top
        for block in blocks:
            for instance in block.instances:
                addresses[instance.id] = block.address
    # A job's part lies at one place in all phases: devices run ahead into the next, and must not meet others there.
    bottoms: dict[tuple[str, str], int] = {}
    for (place, part), top in tops.items():
        bottoms[place, part] = sizes[place]
        sizes[place] += top
    for (place, _, part), members in families.items():
        for group in members.values():
            for instance in group:
                addresses[instance.id] += bottoms[place, part]
    return Arenas(addresses=tuple(addresses), sizes=dict(sizes), phase_sizes=phase_sizes)


def _family(flow: Flow, instance: Instance) -> object:
    """Instances of one family share an address: copies of a cycle's line, and what is held over borders."""
    begin, end = flow.sites[instance.begin], flow.sites[instance.end]
    if begin[:3] != end[:3]:
        return ("held", instance.key)
    return (begin.section, begin.line, instance.key)


@dataclass(slots=True)
class _Block:
    instances: list[Instance]
    size: int
    intervals: list[tuple[int, int]]
    """Inclusive, on the line that runs through prologue, one cycle and epilogue."""
    address: int = 0

    @staticmethod
    def of(flow: Flow, phase: Phase, instances: list[Instance]) -> _Block:
        cycle = len(phase.prologue)
        epilogue = cycle + len(phase.cycle)
        first_line: dict[Section, int] = {"prologue": 0, "cycle": cycle, "epilogue": epilogue}
        intervals: set[tuple[int, int]] = set()
        for instance in instances:
            begin, end = flow.sites[instance.begin], flow.sites[instance.end]
            first, last = first_line[begin.section] + begin.line, first_line[end.section] + end.line
            if begin[:3] == end[:3]:
                intervals.add((first, last))
                continue
            # Held over borders: to the end of its list, through those between, from the start of its last.
            intervals.add((first, cycle - 1 if begin.section == "prologue" else epilogue - 1))
            intervals.add((first_line[end.section], last))
            if begin.section == "prologue":
                between = end.section == "epilogue" or end.copy > 0
            else:
                copies = min(phase.repeat, COPIES)
                between = begin.copy + 1 < (copies if end.section == "epilogue" else end.copy)
            if between and phase.cycle:
                intervals.add((cycle, epilogue - 1))
        return _Block(instances, align(max(instance.bytes for instance in instances)), sorted(intervals))


def _linger(blocks: list[_Block], phase: Phase, more: int) -> None:
    """Let each block live on until `more` blocks of its list have begun after it; cycles follow themselves."""
    first = 0
    for section in (phase.prologue, phase.cycle, phase.epilogue):
        end = first + len(section)
        ring = sorted(
            (block for block in blocks if first <= block.intervals[0][0] < end), key=lambda block: block.intervals[0]
        )
        begins = [block.intervals[0][0] for block in ring]
        for number, block in enumerate(ring):
            low, high = block.intervals[0]
            successor = number + more
            if successor < len(ring):
                block.intervals[0] = (low, max(high, begins[successor] - 1))
                continue
            block.intervals[0] = (low, end - 1)
            around = begins[min(successor - len(ring), number)]
            if section is phase.cycle and phase.repeat > 1 and around > first:
                block.intervals.append((first, around - 1))
        first = end


def _fit(blocks: list[_Block]) -> int:
    """Give each block an address; returns the arena's size."""
    # Numbered anew, places with equal lists look alike, and each is laid out once.
    lines = sorted({line for block in blocks for interval in block.intervals for line in interval})
    number = {line: index for index, line in enumerate(lines)}
    shapes = tuple(
        (block.size, tuple((number[low], number[high]) for low, high in block.intervals)) for block in blocks
    )
    top, addresses = _fitted(shapes)
    for block, address in zip(blocks, addresses, strict=True):
        block.address = address
    return top


@lru_cache(maxsize=256)
def _fitted(shapes: tuple[Shape, ...]) -> tuple[int, tuple[int, ...]]:
    best = _first_fit(_in_classes(shapes), _by_size)
    if best[0] - _live_bytes(shapes) > best[0] // UNUSED:
        best = min(best, _first_fit(shapes, _by_area), key=lambda found: found[0])
    return best


def _in_classes(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Sizes rounded up to the largest that is about the same."""
    largest = 0
    class_of: dict[int, int] = {}
    for size in sorted({size for size, _ in shapes}, reverse=True):
        if largest - size > largest // ALIKE:
            largest = size
        class_of[size] = largest = max(largest, size)
    return tuple((class_of[size], intervals) for size, intervals in shapes)


def _live_bytes(shapes: tuple[Shape, ...]) -> int:
    """The most that lives at once: no arena is smaller."""
    change: dict[int, int] = defaultdict(int)
    for size, intervals in shapes:
        for low, high in intervals:
            change[low] += size
            change[high + 1] -= size
    return max(accumulate(change[line] for line in sorted(change)), default=0)


def _by_size(shape: Shape) -> tuple[int, ...]:
    size, intervals = shape
    return (-size, *intervals[0])


def _by_area(shape: Shape) -> tuple[int, ...]:
    """What is held over borders, then by size and the square root of the lifetime: the long-lived lie low."""
    size, intervals = shape
    lines = sum(high - low + 1 for low, high in intervals)
    return (len(intervals) == 1, -size * size * lines, *intervals[0])


def _first_fit(shapes: tuple[Shape, ...], order: Order) -> tuple[int, tuple[int, ...]]:
    """Each gets, in an order, the lowest address that is free over its intervals: (arena's size, addresses)."""
    ordered = sorted(range(len(shapes)), key=lambda number: order(shapes[number]))
    spans = [interval for number in ordered for interval in shapes[number][1]]
    lows, highs = np.array(spans, dtype=np.int64).reshape(-1, 2).T.copy()
    bottoms = np.zeros(len(spans), dtype=np.int64)
    tops = np.zeros(len(spans), dtype=np.int64)
    addresses = [0] * len(shapes)
    placed = 0
    highest = 0
    for number in ordered:
        size, intervals = shapes[number]
        low, high = intervals[0]
        busy = (lows[:placed] <= high) & (highs[:placed] >= low)
        for low, high in intervals[1:]:
            busy |= (lows[:placed] <= high) & (highs[:placed] >= low)
        address = addresses[number] = _lowest_gap(bottoms[:placed][busy], tops[:placed][busy], size)
        highest = max(highest, address + size)
        after = placed + len(intervals)
        bottoms[placed:after] = address
        tops[placed:after] = address + size
        placed = after
    return highest, tuple(addresses)


def _lowest_gap(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], size: int) -> int:
    if not len(starts):
        return 0
    ascending = starts.argsort(kind="stable")
    starts, ends = starts[ascending], ends[ascending]
    if starts[0] >= size:
        return 0
    # Between what ends so far and the next start, or above all.
    reached = np.maximum.accumulate(ends)
    gaps = starts[1:] - reached[:-1] >= size
    first = int(gaps.argmax()) if len(gaps) else 0
    return int(reached[first]) if len(gaps) and gaps[first] else int(reached[-1])
