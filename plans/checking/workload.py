"""Whether a workload is one: names that lead somewhere and may be those of files, values that jobs can be trained with.

The same for a plan's workload, and for one that is made in Python (`workload_findings`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydraplan.plans.checking.findings import Findings
from hydraplan.plans.file.models import AT_MOST, BACKING, LARGEST
from hydraplan.plans.language.calls import imported
from hydraplan.plans.language.errors import Finding
from hydraplan.plans.language.names import CALLABLE, NAME, NAME_IN_WORDS, did_you_mean
from hydraplan.plans.language.optimizer import ARGUMENTS, wrong_arguments
from hydraplan.plans.language.workload import HOST, Cluster, Job, Workload


def workload_findings(workload: Workload) -> list[Finding]:
    """All that is wrong with a workload, each with its pointer in a plan."""
    found = Findings()
    check_workload(workload, found)
    return found.findings


def check_workload(workload: Workload, found: Findings) -> None:
    _check_cluster(workload.cluster, found)
    jobs = workload.jobs
    found.once("/workload/jobs", "job", [job.name for job in jobs])
    if not jobs:
        found.add("/workload/jobs", "the workload has no job", "add one")
    for number, job in enumerate(jobs):
        _check_job(job, f"/workload/jobs/{number}", found)
    for call in imported(jobs):
        if not re.fullmatch(CALLABLE, call.target.path):
            cause = f"{call.role} of {call.job}: {_quoted(call.target.path)} names nothing to import"
            found.add(f"{call.pointer}/path", cause, "write package.module:callable")


def _check_cluster(cluster: Cluster, found: Findings) -> None:
    at = "/workload/cluster"
    profiles = [profile.name for profile in cluster.profiles]
    links = [link.name for link in cluster.links]
    found.once(f"{at}/devices", "device", [device.name for device in cluster.devices])
    found.once(f"{at}/links", "link", links)
    found.once(f"{at}/profiles", "profile", profiles)
    if not cluster.devices:
        found.add(f"{at}/devices", "the cluster has no device", "add one")
    for number, device in enumerate(cluster.devices):
        here = f"{at}/devices/{number}"
        _check_name(f"{here}/name", device.name, found)
        if device.name == HOST:
            found.add(f"{here}/name", f'no device can be called "{HOST}"', "rename it")
        if not re.fullmatch(BACKING, device.backing):
            cause = f"there is no backing {_quoted(device.backing)}"
            found.add(f"{here}/backing", cause, f"{did_you_mean(device.backing, ['cpu', 'cuda:0'])}")
        found.known(f"{here}/link", "link", device.link, links)
        found.known(f"{here}/profile", "profile", device.profile, profiles)
    found.known(f"{at}/host_profile", "profile", cluster.host_profile, profiles)
    _check_range(f"{at}/update_workers", "update_workers", cluster.update_workers, 1, AT_MOST["update_workers"], found)


def _check_job(job: Job, at: str, found: Findings) -> None:
    _check_name(f"{at}/name", job.name, found)
    _check_range(f"{at}/threads", "threads", job.threads, 1, AT_MOST["threads"], found)
    _check_range(f"{at}/seed", "seed", job.seed, 0, LARGEST, found)
    for field in ("steps", "batch_size", "microbatches"):
        _check_range(f"{at}/{field}", field, getattr(job, field), 1, LARGEST, found)
    if job.microbatches > 0 and job.batch_size % job.microbatches:
        found.add(
            f"{at}/microbatches",
            f"{job.microbatches} microbatches do not divide a batch of {job.batch_size}",
            "change batch_size or microbatches, in the workload, and plan again",
        )
    _check_lengths(job, f"{at}/lengths", found)
    if job.optimizer.path in ARGUMENTS:
        for name, cause, remedy in wrong_arguments(job.optimizer):
            found.add(f"{at}/optimizer/arguments/{name}", f"optimizer of {job.name}: {cause}", remedy)


def _check_name(at: str, name: str, found: Findings) -> None:
    if not re.fullmatch(NAME, name):
        found.add(at, f"{_quoted(name)} is no name", f"write {NAME_IN_WORDS}")


def _check_range(at: str, what: str, value: int, least: int, most: int, found: Findings) -> None:
    if not least <= value <= most:
        found.add(at, f"{what} of {_quoted(value)}", f"write a whole number from {least} to {most}")


def _check_lengths(job: Job, at: str, found: Findings) -> None:
    if job.lengths is None:
        return
    buckets = job.lengths.buckets
    if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
        found.add(f"{at}/buckets", f"buckets {_list(buckets)} do not ascend from 1", "put them in order, each once")
    if not job.lengths.pad:
        found.add(f"{at}/pad", "no key is padded", "name each key whose items differ in length, and what fills it up")


def _list(numbers: Sequence[int]) -> str:
    return f"[{', '.join(str(number) for number in numbers[:8])}{', ...' if len(numbers) > 8 else ''}]"


def _quoted(value: str | int) -> str:
    if isinstance(value, int):
        return str(value) if abs(value) <= LARGEST else f"a number of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
