"""Schedules without preemption: each device runs stages one after another, each some jobs together.

    gpu0   | a + b          | e    |           a phase of the plan holds one stage of each device; a device
    gpu1   | c     | d + f         |           that is through with its part runs ahead into the next

Small changes of such a schedule are tried as long as the estimate falls, the best of each round first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from hydraplan.planner.scheduling.configurations import HOST_SHARE
from hydraplan.planner.scheduling.evaluate import Evaluator
from hydraplan.planner.scheduling.patterns import Instance
from hydraplan.plans.language.plan import PhaseDecision


class Task(NamedTuple):
    job_class: int
    job: str
    option: int


Stage = tuple[Task, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    stages: tuple[tuple[Stage, ...], ...]
    """Device (in the instance's order) -> its stages."""


def devices_of(instance: Instance) -> list[tuple[int, str]]:
    return [(k, device) for k, kind in enumerate(instance.kinds) for device in kind.devices]


def decisions(instance: Instance, schedule: Schedule) -> tuple[PhaseDecision, ...]:
    """Phase i holds the i-th stage of every device."""
    devices = devices_of(instance)
    order = {job: number for number, job in enumerate(job for each in instance.classes for job in each.jobs)}
    phases = []
    for together in zip_longest(*schedule.stages):
        placements = [
            instance.classes[task.job_class]
            .options[k][task.option]
            .placement(task.job, device, instance.classes[task.job_class].steps)
            for (k, device), stage in zip(devices, together, strict=True)
            for task in stage or ()
        ]
        phases.append(PhaseDecision(placements=tuple(sorted(placements, key=lambda one: order[one.job]))))
    return tuple(phases)


def estimate_us(evaluator: Evaluator, schedule: Schedule) -> tuple[int, int, int] | None:
    """(makespan, sum of the squares of the devices' times, host's time) by estimate; None: does not fit.

    The host's updates are a bound on the makespan.
    """
    instance = evaluator.instance
    loads = []
    host = 0
    for (k, _), stages in zip(devices_of(instance), schedule.stages, strict=True):
        load = 0
        for stage in stages:
            time = evaluator.stage_us(k, [(j, o, instance.classes[j].steps) for j, _, o in stage])
            if time is None:
                return None
            load += time
            host += sum(instance.classes[j].options[k][o].host_us * instance.classes[j].steps for j, _, o in stage)
        loads.append(load)
    host = round(host / instance.workers / HOST_SHARE)
    return max(*loads, host), sum(load * load for load in loads), host


def neighbours(instance: Instance, schedule: Schedule, *, joined: bool) -> Iterator[Schedule]:
    """Every schedule in which one job has another option or place, or two jobs have changed places.

    `joined`: also those in which it runs together with others. Jobs of a class are interchangeable, and so
    are devices of a kind: what differs in names only comes once.
    """
    seen = {_nameless(instance, schedule)}
    for changed in (*_moves(instance, schedule, joined), *_swaps(instance, schedule)):
        nameless = _nameless(instance, changed)
        if nameless not in seen:
            seen.add(nameless)
            yield changed


def _nameless(instance: Instance, schedule: Schedule) -> object:
    return tuple(
        sorted(
            (k, tuple(tuple(sorted((task.job_class, task.option) for task in stage)) for stage in stages))
            for (k, _), stages in zip(devices_of(instance), schedule.stages, strict=True)
        )
    )


def _moves(instance: Instance, schedule: Schedule, joined: bool) -> Iterator[Schedule]:
    kinds = [k for k, _ in devices_of(instance)]
    for task in _tasks(schedule):
        without = _without(schedule, task)
        options = instance.classes[task.job_class].options
        for device, k in enumerate(kinds):
            stages = without.stages[device]
            for option in range(len(options[k])):
                moved = task._replace(option=option)
                yield _with_stages(without, device, (*stages, (moved,)))
                for at in range(len(stages) if joined else 0):
                    together = tuple(sorted((*stages[at], moved)))
                    yield _with_stages(without, device, (*stages[:at], together, *stages[at + 1 :]))


def _swaps(instance: Instance, schedule: Schedule) -> Iterator[Schedule]:
    """Jobs of other classes, on devices of one kind, with their options."""
    kinds = [k for k, _ in devices_of(instance)]
    where = {task: kinds[device] for device, stages in enumerate(schedule.stages) for stage in stages for task in stage}
    for one in where:
        for two in where:
            if one < two and one.job_class != two.job_class and where[one] == where[two]:
                places = {one: two, two: one}
                yield Schedule(
                    stages=tuple(
                        tuple(tuple(sorted(places.get(task, task) for task in stage)) for stage in stages)
                        for stages in schedule.stages
                    )
                )


def _tasks(schedule: Schedule) -> list[Task]:
    return [task for stages in schedule.stages for stage in stages for task in stage]


def _without(schedule: Schedule, task: Task) -> Schedule:
    return Schedule(
        stages=tuple(
            tuple(rest for stage in stages if (rest := tuple(other for other in stage if other != task)))
            for stages in schedule.stages
        )
    )


def _with_stages(schedule: Schedule, device: int, stages: tuple[Stage, ...]) -> Schedule:
    return Schedule(stages=(*schedule.stages[:device], stages, *schedule.stages[device + 1 :]))


def climb(
    schedule: Schedule,
    instance: Instance,
    value: Callable[[Schedule], tuple[int, ...] | None],
    exhausted: Callable[[], bool],
    *,
    joined: bool = True,
) -> list[tuple[tuple[int, ...], Schedule]]:
    """Descent of `value` from a schedule, each time to the first that is better, until nothing near is or the
    effort is spent. Returns all schedules that were the best in their time, the last one first."""
    worth = value(schedule)
    path = [] if worth is None else [(worth, schedule)]
    found = True
    while found:
        found = False
        for near in neighbours(instance, schedule, joined=joined):
            if exhausted():
                break
            each = value(near)
            if each is not None and (worth is None or each < worth):
                schedule, worth, found = near, each, True
                path.insert(0, (each, near))
                break
    return path
