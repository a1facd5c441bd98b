"""The list schedule that the solver starts from: what a careful person would write down.

Jobs by their time, the longest first, each to the device that would be through with it first; all jobs of
a device alternate (Hydra), each with an equal part of the memory for residents. Where they do not fit
together they run one after the other.
"""

from __future__ import annotations

from hydraplan.planner.scheduling.options import Option
from hydraplan.planner.scheduling.patterns import Instance
from hydraplan.planner.scheduling.stages import Schedule, Stage, Task, devices_of


def greedy(instance: Instance) -> Schedule:
    """A schedule in stages. Every job must have an option on some device."""
    devices = devices_of(instance)
    loads = dict.fromkeys(range(len(devices)), 0)
    taken: dict[int, list[tuple[int, str]]] = {number: [] for number in range(len(devices))}
    jobs = [(j, job) for j, job_class in enumerate(instance.classes) for job in job_class.jobs]

    def time(j: int, k: int) -> int | None:
        options = instance.classes[j].options[k]
        return options[0].chain_us * instance.classes[j].steps if options else None

    def longest(item: tuple[int, str]) -> tuple[int, str]:
        j, job = item
        times = [each for k in range(len(instance.kinds)) if (each := time(j, k)) is not None]
        return (-min(times), job)

    for j, job in sorted(jobs, key=longest):
        choices = [
            (loads[number] + duration, number)
            for number, (k, _) in enumerate(devices)
            if (duration := time(j, k)) is not None
        ]
        load, number = min(choices)
        loads[number] = load
        taken[number].append((j, job))
    return Schedule(
        stages=tuple(_stages(instance, devices[number][0], members) for number, members in sorted(taken.items()))
    )


def one_by_one(instance: Instance, *, plain: bool = False) -> Schedule:
    """The jobs one after another, each in the option in which it is fastest alone (`plain`: needs least memory)."""
    devices = devices_of(instance)

    def fastest(j: int, k: int) -> tuple[int, int] | None:
        options = instance.classes[j].options[k]
        if plain:
            return (options[0].chain_us, 0) if options else None
        return min(((option.chain_us, number) for number, option in enumerate(options)), default=None)

    loads = [0] * len(devices)
    stages: list[list[Stage]] = [[] for _ in devices]
    jobs = [(j, job) for j, job_class in enumerate(instance.classes) for job in job_class.jobs]

    def longest(item: tuple[int, str]) -> tuple[int, str]:
        times = [each[0] for k in range(len(instance.kinds)) if (each := fastest(item[0], k)) is not None]
        return (-min(times) * instance.classes[item[0]].steps, item[1])

    for j, job in sorted(jobs, key=longest):
        choices = [
            (loads[number] + each[0] * instance.classes[j].steps, number, each[1])
            for number, (k, _) in enumerate(devices)
            if (each := fastest(j, k)) is not None
        ]
        load, number, option = min(choices)
        loads[number] = load
        stages[number].append((Task(j, job, option),))
    return Schedule(stages=tuple(tuple(each) for each in stages))


def _stages(instance: Instance, k: int, members: list[tuple[int, str]]) -> tuple[Stage, ...]:
    """All together with what memory each may have, as long as they fit."""
    if not members:
        return ()
    budget = instance.kinds[k].budget_bytes
    plain = [instance.classes[j].options[k][0] for j, _ in members]
    window = max(option.window_bytes for option in plain)
    if sum(option.memory_bytes for option in plain) + window > budget:
        return tuple((Task(j, job, _within(instance.classes[j].options[k], budget)),) for j, job in members)
    room = (budget - window - sum(option.memory_bytes for option in plain)) // len(members)
    return (
        tuple(
            Task(j, job, _within(instance.classes[j].options[k], option.memory_bytes + window + room))
            for (j, job), option in zip(members, plain, strict=True)
        ),
    )


def _within(options: tuple[Option, ...], room: int) -> int:
    """The option of most residents, without kept activations and with updates on the host, that fits."""
    simple = [
        number
        for number, option in enumerate(options)
        if not option.keep and not option.device_updates and option.memory_bytes + option.window_bytes <= room
    ]
    return max(simple, key=lambda number: len(options[number].resident), default=0)
