"""Compile a plan to what each engine does in order, and what each step waits for. No torch.

    plan -> flow -> addresses -> dependencies -> lanes

A *lane* runs its steps one after another: an engine of a device, or the updates of one slab on the host.
Every lane has a timeline that moves by one for each step, so an event is (lane, count), and a wait is a
count that grows by a fixed stride with the cycle's iteration:

    segments of a lane    prologue | cycle, first time | cycle, all other times | epilogue | prologue of phase 1 ..
    count at the start    0          5                   5 + 8                   5 + 8 * repeat

The second copy of a cycle in the flow stands for all later ones: what it waits for in the first copy, a later
iteration waits for in the one before it (that no line of a cycle differs in state is checked by
the flow). Nothing else waits at the border of a cycle or phase.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hydraplan.plans.analysis.arena import Arenas, allocate
from hydraplan.plans.analysis.flow import Flow, Section, trace
from hydraplan.plans.analysis.hazards import dependencies
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Step, Update, engine
from hydraplan.plans.language.workload import HOST


class Lane(NamedTuple):
    """An engine of a device (`engine` compute, load or spill), or the updates of a slab on the host."""

    place: str
    engine: str
    job: str = ""
    slab: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Wait until `lane` has finished `count + repetition * stride` steps."""

    lane: Lane
    count: int
    stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    site: int
    step: Step
    waits: tuple[Wait, ...]
    training_step: int
    """The job's training step, counted from 0 over the whole run, in the segment's first repetition."""
    training_stride: int
    """How many training steps of the job a repetition holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A lane's part of one list, and how often it runs."""

    phase: int
    section: Section
    first_iteration: int
    repeat: int
    order: int
    """Segments of all lanes in the order of their lists; the same for all lanes."""
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    flow: Flow
    arenas: Arenas
    lanes: dict[Lane, tuple[Segment, ...]]
    steps: dict[str, int]
    """Training steps of each job."""

    def host_lanes(self) -> dict[Lane, tuple[Segment, ...]]:
        return {lane: segments for lane, segments in self.lanes.items() if lane.place == HOST}


class _List(NamedTuple):
    """One run of lines of the flow's unrolled sites, and how often the runtime repeats it."""

    phase: int
    section: Section
    copy: int
    repeat: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a site comes in its lane."""

    lane: Lane
    order: int
    count: int
    """Steps of the lane up to and with this one, in the first repetition."""
    stride: int


def compile_plan(plan: Plan) -> Program:
    """The program of a plan whose lists have been checked."""
    flow = trace(plan)
    arenas = allocate(plan, flow)
    waits = dependencies(flow, arenas)
    lists = list(_lists(plan))
    numbers = {each[:3]: order for order, each in enumerate(lists)}
    places = _places(flow, lists, numbers)
    training = _TrainingSteps(flow, lists)
    instructions: dict[Lane, dict[int, list[Instruction]]] = defaultdict(lambda: defaultdict(list))
    for number, site in enumerate(flow.sites):
        place = places[number]
        if place is None:
            continue
        instructions[place.lane][place.order].append(
            Instruction(
                site=number,
                step=site.step,
                waits=_waits(place, waits[number], places, lists),
                training_step=training.first(place.order, site.step),
                training_stride=training.stride(place.order, site.step),
            )
        )
    return Program(
        flow=flow,
        arenas=arenas,
        lanes={lane: tuple(_segments(lists, parts)) for lane, parts in instructions.items()},
        steps=training.totals(),
    )


def _lists(plan: Plan) -> Iterator[_List]:
    for number, phase in enumerate(plan.phases):
        yield _List(number, "prologue", 0, 1)
        if phase.repeat >= 1:
            yield _List(number, "cycle", 0, 1)
        if phase.repeat >= 2:
            yield _List(number, "cycle", 1, phase.repeat - 1)
        yield _List(number, "epilogue", 0, 1)


def _segments(lists: list[_List], parts: dict[int, list[Instruction]]) -> Iterator[Segment]:
    for order in sorted(parts):
        phase, section, copy, repeat = lists[order]
        yield Segment(
            phase=phase,
            section=section,
            first_iteration=copy,
            repeat=repeat,
            order=order,
            instructions=tuple(parts[order]),
        )


def lane_of(step: Step) -> Lane | None:
    """The lane that runs a step; None: a drop, which is no work."""
    if isinstance(step, Update) and step.device == HOST:
        return Lane(HOST, "update", step.job, step.slab)
    name = engine(step)
    return None if name is None else Lane(step.device, name)


def _places(flow: Flow, lists: list[_List], numbers: dict[tuple[int, Section, int], int]) -> list[_Place | None]:
    lanes: list[Lane | None] = []
    orders: list[int] = []
    lengths: dict[tuple[Lane, int], int] = defaultdict(int)
    ordinals: list[int] = []
    for site in flow.sites:
        lane = lane_of(site.step)
        order = numbers[site.phase, site.section, site.copy]
        lanes.append(lane)
        orders.append(order)
        ordinals.append(0)
        if lane is not None:
            lengths[lane, order] += 1
            ordinals[-1] = lengths[lane, order]
    bases: dict[tuple[Lane, int], int] = {}
    totals: dict[Lane, int] = defaultdict(int)
    for lane, order in sorted(lengths, key=lambda key: key[1]):
        bases[lane, order] = totals[lane]
        totals[lane] += lengths[lane, order] * lists[order].repeat
    return [
        None if lane is None else _Place(lane, order, bases[lane, order] + ordinal, lengths[lane, order])
        for lane, order, ordinal in zip(lanes, orders, ordinals, strict=True)
    ]


def _waits(place: _Place, sites: tuple[int, ...], places: list[_Place | None], lists: list[_List]) -> tuple[Wait, ...]:
    """For each other lane the latest event to wait for; the own lane runs in order anyway."""
    last: dict[Lane, int] = {}
    for site in sites:  # ascending, so the last of a lane is its latest
        there = places[site]
        assert there is not None, "a drop is nothing to wait for"
        if there.lane != place.lane:
            last[there.lane] = site
    return tuple(_wait(place, places[site], lists) for site in last.values())


def _wait(place: _Place, there: _Place | None, lists: list[_List]) -> Wait:
    assert there is not None
    here, other = lists[place.order], lists[there.order]
    if there.order == place.order:
        return Wait(lane=there.lane, count=there.count, stride=there.stride)
    if other.section != "cycle":
        return Wait(lane=there.lane, count=there.count, stride=0)
    if here.phase == other.phase and here.section == "cycle":
        # the first copy, seen from the others: always the iteration before
        return Wait(lane=there.lane, count=there.count, stride=there.stride)
    # seen from below the cycle: copy 1 stands for the last iteration, copy 0 for the one before it, or the only one
    repeats = next((each.repeat for each in lists if each[:3] == (other.phase, "cycle", 1)), 0)
    later = max(repeats - 1, 0)
    return Wait(lane=there.lane, count=there.count + later * there.stride, stride=0)


class _TrainingSteps:
    """Which training step of its job a step belongs to, over the whole run."""

    def __init__(self, flow: Flow, lists: list[_List]) -> None:
        self._counts = flow.steps
        self._lists = lists
        self._bases: list[dict[str, int]] = []
        done: dict[str, int] = defaultdict(int)
        for phase, section, _, repeat in lists:
            self._bases.append(dict(done))
            for (number, name, job), count in flow.steps.items():
                if (number, name) == (phase, section):
                    done[job] += count * repeat
        self._done = dict(done)

    def first(self, order: int, step: Step) -> int:
        return self._bases[order].get(step.job, 0) + getattr(step, "step", 0)

    def stride(self, order: int, step: Step) -> int:
        phase, section, _, _ = self._lists[order]
        return self._counts.get((phase, section, step.job), 0)

    def totals(self) -> dict[str, int]:
        return self._done
