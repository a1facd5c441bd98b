"""What a plan was made from, beyond the graphs themselves, and what of it has changed since.

A graph's digest (in the plan's facts) covers the model's code and arguments; here are the versions of the
libraries that decide the bits, the source of what the jobs name, the data, and local checkpoints.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from hydraplan.planner.frontend.models.checkpoint import digests
from hydraplan.planner.frontend.users.admission import homes
from hydraplan.planner.frontend.users.data import JobData
from hydraplan.planner.frontend.users.sources import code_fingerprints, present
from hydraplan.plans.language.calls import imported
from hydraplan.plans.language.errors import Finding
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.plan import Fingerprint
from hydraplan.plans.language.workload import Job

OF_DATA, OF_CHECKPOINT = "data of ", "checkpoint "
REMEDY = "restore what it was, or plan the workload anew"


def fingerprints(jobs: Sequence[Job], data: Mapping[str, JobData]) -> tuple[Fingerprint, ...]:
    """The libraries, each distinct data set (`data`: job -> its data), each file of each distinct checkpoint, and the
    code of the jobs' targets."""
    found = [*libraries(jobs)]
    known: dict[int, str] = {}
    for job in jobs:
        dataset = data[job.name].dataset
        if id(dataset) not in known:
            known[id(dataset)] = data[job.name].fingerprint()
        found.append(Fingerprint(name=f"{OF_DATA}{job.name}", value=known[id(dataset)]))
    for folder in dict.fromkeys(job.checkpoint.folder for job in jobs if job.checkpoint is not None):
        found += [Fingerprint(name=f"{OF_CHECKPOINT}{folder}, {file}", value=value) for file, value in digests(folder)]
    found += code_fingerprints(homes(jobs))
    return tuple({each.name: each for each in found}.values())


def libraries(jobs: Sequence[Job]) -> tuple[Fingerprint, ...]:
    """Python, torch, transformers where a job uses it."""
    found = [
        Fingerprint(name="python", value=".".join(platform.python_version_tuple()[:2])),
        Fingerprint(name="torch", value=version("torch")),
    ]
    if any(job.model.path.startswith("transformers:") or job.checkpoint is not None for job in jobs):
        found.append(Fingerprint(name="transformers", value=version("transformers")))
    return tuple(found)


def code_drift(jobs: Sequence[Job], planned: Sequence[Fingerprint]) -> tuple[Finding, ...]:
    """What has changed of the code that the jobs name, old and new; asked before any of it is imported.

    Where nothing has, libraries that differ are left to be told with all that only the code itself can tell.
    """
    known = {each.name: each for each in libraries(jobs)}
    now = dict(known)
    now |= {each.name: each for each in code_fingerprints(call.module for call in imported(jobs))}
    for each in planned:
        if each.name.startswith((OF_DATA, OF_CHECKPOINT)):
            now[each.name] = each
        elif each.name not in now:
            now[each.name] = Fingerprint(name=each.name, value=present(each.name))
    code_as_planned = {each for each in planned if each.name not in known} == {*now.values()} - {*known.values()}
    return () if code_as_planned else drift(planned, list(now.values()))


def drift(planned: Sequence[Fingerprint], now: Sequence[Fingerprint]) -> tuple[Finding, ...]:
    """What differs between a plan's fingerprints and the present ones, old and new."""
    current = {each.name: each.value for each in now}
    named = {each.name for each in planned}
    missing = tuple(
        stale("/fingerprints", f"{each.name}: not in the plan, now {each.value}")
        for each in now
        if each.name not in named
    )
    return missing + tuple(
        stale(
            f"/fingerprints/{number}",
            f"{each.name}: planned with {each.value}, now {current.get(each.name, 'absent')}",
        )
        for number, each in enumerate(planned)
        if current.get(each.name) != each.value
    )


def graph_drift(facts: Facts, job: str, now: str) -> tuple[Finding, ...]:
    """Whether a job's graph has another digest than in the plan."""
    name = next(each.graph for each in facts.jobs if each.job == job)
    number, planned = next((number, each.digest) for number, each in enumerate(facts.graphs) if each.name == name)
    if planned == now:
        return ()
    return (stale(f"/facts/graphs/{number}/digest", f"graph of {job}: planned with {planned}, now {now}"),)


def stale(pointer: str, cause: str) -> Finding:
    """Something that a plan was made from and that is different now."""
    return Finding(pointer=pointer, line=None, cause=cause, remedy=REMEDY)
