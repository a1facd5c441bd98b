"""Configurations with durations -> phase decisions: which job, where, how many whole steps.

The duration of a configuration is cut into a few equal parts. In each the jobs of a class that have most left
take its fastest places (the level algorithm for preemptive jobs), at their old places where speeds are equal:

    place 0   |aaaaaaaaaaaa|bbbbbb|        cut where a place changes hands: three phases,
    place 1   |bbbbbb|cccccccccccc|        b moves, at a step's border, from one device to another
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hydraplan.planner.scheduling.configurations import Timed
from hydraplan.planner.scheduling.options import Option
from hydraplan.planner.scheduling.patterns import Instance
from hydraplan.plans.language.plan import PhaseDecision

GRIDS = (1, 2, 3, 4, 6, 12, 24)
"""Parts of a configuration's duration to which changes of hands are rounded: few are few phases."""
RATE_COST = 0.05
"""What a training step more in the cycle counts, in parts of a job's steps moved to another phase."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Room for one job on a device in a configuration."""

    device: str
    option: Option
    steps: float
    """That it has time for."""
    number: int
    """Tells places apart on one device."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A job at a place for a part of the configuration's duration, in parts of the grid."""

    job: str
    place: _Place
    first: int
    last: int
    steps: float


def realize(instance: Instance, phases: Sequence[Timed], grid: int) -> tuple[PhaseDecision, ...] | None:
    """Phase decisions that give every job exactly its steps; None where the grid is too coarse for some job."""
    places = [_places(instance, phase) for phase in phases]
    pieces: list[list[_Piece]] = []
    left = {job: float(each.steps) for each in instance.classes for job in each.jobs}
    for number, by_class in enumerate(places):
        mine: list[_Piece] = []
        for j, job_class in enumerate(instance.classes):
            rooms = by_class[j]
            if not rooms:
                continue
            here = sum(room.steps for room in rooms)
            later = sum(room.steps for others in places[number + 1 :] for room in others[j])
            share = here / (here + later)
            wanted = {job: left[job] * share for job in job_class.jobs if left[job] > 1e-6}
            for piece in _level(wanted, rooms, grid):
                mine.append(piece)
                left[piece.job] -= piece.steps
        pieces.append(mine)
    present = {piece.job for mine in pieces for piece in mine}
    return _whole(instance, pieces) if present == set(left) else None


def _places(instance: Instance, phase: Timed) -> dict[int, list[_Place]]:
    free = {k: list(kind.devices) for k, kind in enumerate(instance.kinds)}
    places: dict[int, list[_Place]] = defaultdict(list)
    for copies in phase.configuration.copies:
        for _ in range(copies.count):
            device = free[copies.pattern.kind].pop(0)
            for slot in copies.pattern.slots:
                option = instance.option(copies.pattern.kind, slot)
                steps = slot.rate / slot.jobs * copies.speed * phase.seconds
                places[slot.job_class] += [_Place(device, option, steps, number) for number in range(slot.jobs)]
    return places


def _level(wanted: dict[str, float], rooms: Sequence[_Place], grid: int) -> list[_Piece]:
    """Places for the jobs of a class in each part of a configuration's duration."""
    total, space = sum(wanted.values()), sum(room.steps for room in rooms)
    left = dict(wanted)
    ordered = sorted(rooms, key=lambda room: -room.steps)
    held: list[str | None] = [None] * len(ordered)
    pieces: list[_Piece] = []
    for part in range(grid):
        ranked = sorted((job for job in left if left[job] > 1e-9), key=lambda job: (-left[job], job))
        held = _seat(ranked[: len(ordered)], ordered, held)
        for room, job in zip(ordered, held, strict=True):
            if job is not None:
                steps = min(left[job], room.steps * total / space / grid)
                left[job] -= steps
                pieces.append(_Piece(job, room, part, part + 1, steps))
    return _joined(pieces)


def _seat(ranked: Sequence[str], rooms: Sequence[_Place], before: Sequence[str | None]) -> list[str | None]:
    """Jobs in order to rooms in order; among rooms of one speed each job stays where it was."""
    seats: list[str | None] = [*ranked, *([None] * (len(rooms) - len(ranked)))]
    first = 0
    while first < len(rooms):
        last = first
        while last < len(rooms) and rooms[last].steps >= rooms[first].steps * (1 - 1e-9):
            last += 1
        mine = [job for job in seats[first:last] if job is not None]
        stay = {number: before[number] for number in range(first, last) if before[number] in mine}
        moved = iter([job for job in mine if job not in stay.values()])
        for number in range(first, last):
            seats[number] = stay[number] if number in stay else next(moved, None)
        first = last
    return seats


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Pieces of one job at one place that follow each other become one."""
    joined: list[_Piece] = []
    for piece in sorted(pieces, key=lambda each: (each.job, each.first)):
        last = joined[-1] if joined else None
        if last and (last.job, last.place, last.last) == (piece.job, piece.place, piece.first):
            joined[-1] = replace(last, last=piece.last, steps=last.steps + piece.steps)
        else:
            joined.append(piece)
    return joined


def _whole(instance: Instance, pieces: Sequence[Sequence[_Piece]]) -> tuple[PhaseDecision, ...]:
    """Cut where a place changes hands, and round: a job's cumulative steps to the nearest whole."""
    parts: list[list[tuple[_Piece, float]]] = []
    for mine in pieces:
        borders = sorted({border for piece in mine for border in (piece.first, piece.last)})
        for begin, end in pairwise(borders):
            at_once = [
                (piece, piece.steps * (end - begin) / (piece.last - piece.first))
                for piece in mine
                if piece.first <= begin and end <= piece.last
            ]
            parts.append(at_once)
    planned: dict[str, float] = defaultdict(float)
    last: dict[str, int] = {}
    for number, part in enumerate(parts):
        for piece, steps in part:
            planned[piece.job] += steps
            last[piece.job] = number
    goal = {job: each.steps for each in instance.classes for job in each.jobs}
    due: dict[str, float] = defaultdict(float)
    done: dict[str, int] = defaultdict(int)
    decisions = []
    for number, part in enumerate(parts):
        running: dict[str, _Place] = {}
        for piece, steps in part:
            running.setdefault(piece.job, piece.place)
            due[piece.job] += steps / planned[piece.job] * goal[piece.job]
        counts = {
            job: goal[job] - done[job] if last[job] == number else max(0, round(due[job]) - done[job])
            for job in running
        }
        if all(last[job] != number for job in running):
            counts = _simple(counts, goal)
        for job, count in counts.items():
            done[job] += count
        decisions.append(
            tuple(
                running[job].option.placement(job, running[job].device, counts[job]) for job in goal if counts.get(job)
            )
        )
    return tuple(PhaseDecision(placements=each) for each in decisions if each)


def _simple(counts: dict[str, int], goal: dict[str, int]) -> dict[str, int]:
    """Round steps to multiples of one number of cycles, where that moves few of them to the next phase."""
    best = (float("inf"), counts)
    for cycles in sorted({count // rate for count in counts.values() for rate in range(1, 5) if count // rate}):
        rates = {job: round(count / cycles) for job, count in counts.items()}
        moved = sum(abs(count - cycles * rates[job]) / goal[job] for job, count in counts.items())
        best = min(
            best,
            (moved + RATE_COST * sum(rates.values()) / len(rates), {j: cycles * r for j, r in rates.items()}),
            key=lambda each: each[0],
        )
    return best[1]
