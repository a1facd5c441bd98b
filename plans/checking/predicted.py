"""Whether what a plan says of itself is complete: a prediction for each device and each job, none for others, and
fingerprints of what the plan names, and audits of its graphs, each once. A run is compared with them.

What a fingerprint's value should be, only the user's own code can tell, when it is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydraplan.plans.checking.findings import Findings
from hydraplan.plans.language.plan import Plan

ANEW = "restore it, or have the predictions made anew: hydraplan plan --from on this file"
AUDITED = "restore it, or have it audited anew: hydraplan plan --from on this file"
OF_DATA, OF_CHECKPOINT = "data of ", "checkpoint "


def check_predicted(plan: Plan, found: Findings) -> None:
    said, at = plan.predictions, "/predictions"
    devices = [device.name for device in plan.workload.cluster.devices]
    jobs = [job.name for job in plan.workload.jobs]
    _each_once(f"{at}/devices", "device", [each.device for each in said.devices], devices, found)
    _each_once(f"{at}/jobs", "job", [each.job for each in said.jobs], jobs, found)
    _check_fingerprints(plan, jobs, found)
    _check_audits(plan, found)


def _each_once(at: str, what: str, names: Sequence[str], expected: Sequence[str], found: Findings) -> None:
    found.once(at, f"prediction of {what}", names, what)
    for number, name in enumerate(names):
        found.known(f"{at}/{number}/{what}", what, name, expected)
    for name in expected:
        if name not in names:
            found.add(at, f'there is no prediction of {what} "{name}"', ANEW)


def _check_fingerprints(plan: Plan, jobs: Sequence[str], found: Findings) -> None:
    names = [each.name for each in plan.fingerprints]
    folders = [job.checkpoint.folder for job in plan.workload.jobs if job.checkpoint is not None]
    found.once("/fingerprints", "fingerprint", names)
    for number, name in enumerate(names):
        at = f"/fingerprints/{number}/name"
        if name.startswith(OF_DATA):
            found.known(at, "job", name.removeprefix(OF_DATA), jobs)
        elif name.startswith(OF_CHECKPOINT) and not any(
            name.startswith(f"{OF_CHECKPOINT}{folder}, ") for folder in folders
        ):
            found.add(at, f'no job starts from the checkpoint of fingerprint "{name}"', "delete it, or plan again")


def _check_audits(plan: Plan, found: Findings) -> None:
    graph_of = {facts.job: facts.graph for facts in plan.facts.jobs}
    found.once("/audits", "audit of graph", [each.graph for each in plan.audits], "graph")
    for number, audit in enumerate(plan.audits):
        at = f"/audits/{number}"
        found.known(f"{at}/graph", "graph", audit.graph, [graph.name for graph in plan.facts.graphs])
        for place, job in enumerate(audit.jobs):
            if graph_of.get(job) != audit.graph:
                found.add(f"{at}/jobs/{place}", f'no job "{job}" has graph "{audit.graph}"', AUDITED)
        if bool(audit.jobs) != (audit.verdict != "not audited"):
            found.add(f"{at}/jobs", f'"{audit.verdict}" with {len(audit.jobs)} jobs', AUDITED)
