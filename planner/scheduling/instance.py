"""The scheduling problem without names: kinds of devices, classes of jobs, their options.

Devices that differ in name only are one kind with a count; jobs with the same graph, cuts, microbatches,
optimizer state and steps (those of a sweep over learning rates) are one class. The solver sees counts, so it
does not try the same schedule under other names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from hydraplan.planner.lists.making import ListMaker
from hydraplan.planner.scheduling.options import Option, Pricer, options_of, smallest_budget
from hydraplan.planner.scheduling.patterns import Instance, JobClass, Kind
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.facts import Facts, Layout
from hydraplan.plans.language.plan import Cuts, Placement
from hydraplan.plans.language.quantities import format_bytes
from hydraplan.plans.language.workload import Cluster, Device, Job, Workload


def build_instance(workload: Workload, facts: Facts, layouts: Mapping[str, Layout]) -> Instance:
    kinds = _kinds(workload.cluster)
    copies = {job.job: job.state_copies for job in facts.jobs}
    groups: dict[object, list[Job]] = defaultdict(list)
    for job in workload.jobs:
        layout = layouts[job.name]
        groups[layout.graph, layout.cuts, job.microbatches, copies[job.name], job.steps].append(job)
    classes = []
    for jobs in groups.values():
        first = jobs[0]
        pricers = [Pricer(workload.cluster, each[0], first, layouts[first.name], copies[first.name]) for each in kinds]
        options = tuple(options_of(pricer) for pricer in pricers)
        classes.append(JobClass(jobs=tuple(job.name for job in jobs), steps=first.steps, options=options))
    return Instance(
        kinds=tuple(
            Kind(devices=tuple(device.name for device in each), budget_bytes=each[0].budget_bytes) for each in kinds
        ),
        classes=tuple(classes),
        workers=workload.cluster.update_workers,
    )


def _kinds(cluster: Cluster) -> list[list[Device]]:
    links = {link.name: link for link in cluster.links}
    groups: dict[object, list[Device]] = defaultdict(list)
    for device in cluster.devices:
        link = links[device.link]
        sharing = sum(other.link == device.link for other in cluster.devices)
        rates = (link.load_bytes_per_s, link.spill_bytes_per_s)
        groups[device.budget_bytes, device.profile, rates, sharing].append(device)
    return list(groups.values())


def does_not_fit(workload: Workload, facts: Facts, layouts: Mapping[str, Layout], job: str) -> InfeasibleError:
    """Names the device that is nearest to holding the job, and a budget with which, under these cuts, it does."""
    definition = next(each for each in workload.jobs if each.name == job)
    copies = next(each.state_copies for each in facts.jobs if each.job == job)
    needs = []
    for device, *_ in _kinds(workload.cluster):
        pricer = Pricer(workload.cluster, device, definition, layouts[job], copies)
        needs.append((smallest_budget(pricer) - device.budget_bytes, device))
    _, nearest = min(needs, key=lambda each: each[0])
    budget = nearest.budget_bytes
    enough = max(budget, smallest_budget(Pricer(workload.cluster, nearest, definition, layouts[job], copies)))
    while not holds(workload, facts, layouts[job], definition, replace(nearest, budget_bytes=enough)):
        enough += enough // 32 + 1
    return InfeasibleError(
        f"{job} fits no device: {nearest.name} has {format_bytes(budget)} ({budget} bytes), "
        f"{format_bytes(enough - budget)} short of the {enough} bytes in which it can be streamed; "
        "raise the budget, or use more microbatches",
        device=nearest.name,
        missing_bytes=enough - budget,
        job=job,
    )


def holds(workload: Workload, facts: Facts, layout: Layout, job: Job, device: Device) -> bool:
    """Whether there are lists of the job alone on a device, with nothing resident."""
    cluster = replace(workload.cluster, devices=(device,))
    alone = replace(workload, cluster=cluster, jobs=(replace(job, steps=2),))
    cuts = (Cuts(job=job.name, cuts=layout.cuts),)
    try:
        ListMaker(alone, facts, cuts).phases_of((Placement(job=job.name, device=device.name, steps=2),))
    except InfeasibleError:
        return False
    return True


def with_options(instance: Instance, options: Mapping[tuple[int, int], tuple[Option, ...]]) -> Instance:
    """The same with other options: (job class, kind) -> options."""
    return replace(
        instance,
        classes=tuple(
            replace(each, options=tuple(options[j, k] for k in range(len(instance.kinds))))
            for j, each in enumerate(instance.classes)
        ),
    )
