"""`hydraplan capacity`: would the workload fit on so many devices of so much memory, and how long would it take?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from cyclopts import Parameter

from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.quantities import format_bytes, format_count, format_duration, format_percent, parse_bytes
from hydraplan.plans.language.workload import Cluster
from hydraplan.tools.commands.arguments import (
    AsJson,
    Effort,
    Quiet,
    Solver,
    TimeLimit,
    WorkloadFile,
    converter,
    solver_options,
)
from hydraplan.tools.output import Output, figures, text


def device_counts(written: str) -> tuple[int, ...]:
    """`1-8`, `1,2,4` or a mix, ascending and without repeats."""
    found: set[int] = set()
    for part in written.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low = high = 0
        if not 1 <= low <= high <= 4096:
            raise ValueError(f"{part.strip()[:40]!r} is no number of devices: write 1-8, or 1,2,4")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def memory_sizes(written: str) -> tuple[int, ...]:
    """Sizes with their units, ascending and without repeats, in bytes. Raises ValueError."""
    return tuple(sorted({parse_bytes(part) for part in written.split(",")}))


Devices = Annotated[
    tuple[int, ...],
    Parameter(converter=converter(device_counts), n_tokens=1, help="numbers of devices, such as 1-8 or 1,2,4"),
]
Memory = Annotated[
    tuple[int, ...], Parameter(converter=converter(memory_sizes), n_tokens=1, help="budgets, such as 8GiB,11GiB,24GiB")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    devices: int
    budget_bytes: int
    plan: Plan | None
    refusal: str
    """Which limit binds, where no plan fits."""
    missing_bytes: int


def capacity(
    workload_file: WorkloadFile,
    /,
    *,
    devices: Devices,
    memory: Memory,
    solver: Solver = "highs",
    time_limit: TimeLimit = None,
    effort: Effort = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Tell what would fit on other devices, and how fast.

    Plans the workload offline for each number of devices with each memory. The candidates' devices are copies of the
    workload's first device. Models are traced once.

        $ hydraplan capacity sweep.toml --devices 1-4 --memory 8GiB,11GiB
    """
    from hydraplan.planner.workloads.file import load

    output = Output(as_json=as_json, quiet=quiet)
    with output.working():
        workload = load(workload_file)
        from hydraplan.planner.pipeline import plan
        from hydraplan.planner.study import study

        studied = study(workload.jobs, report=output.progress)
    for notice in studied.notices:
        output.progress(notice)
    options = solver_options(solver, time_limit, effort)
    found: list[Candidate] = []
    for budget_bytes in memory:
        for count in devices:
            output.progress(f"plan for {format_count(count, 'device')} of {format_bytes(budget_bytes)}")
            candidate = replace(workload, cluster=scaled(workload.cluster, count, budget_bytes))
            made, refusal, missing = None, "", 0
            try:
                made = plan(candidate, solver=options, studied=studied)
            except InfeasibleError as error:
                refusal, missing = str(error), error.missing_bytes
            found.append(
                Candidate(devices=count, budget_bytes=budget_bytes, plan=made, refusal=refusal, missing_bytes=missing)
            )
    output.json({"notices": list(studied.notices), "candidates": [_document(each) for each in found]})
    _show(found, output)
    fitting = [each for each in found if each.plan is not None]
    output.end(
        f"Capacity: {len(fitting)} of {format_count(len(found), 'candidate')} fit" + _advice(fitting),
        f"hydraplan plan {workload_file} -o {workload_file.with_suffix('.plan.json')}" if fitting else None,
    )
    return 0 if fitting else InfeasibleError.exit_code


def scaled(cluster: Cluster, devices: int, budget_bytes: int) -> Cluster:
    """A cluster of copies of its first device; a link that devices shared is shared again, any other copied too."""
    first = cluster.devices[0]
    link = next(link for link in cluster.links if link.name == first.link)
    shared = sum(device.link == first.link for device in cluster.devices) > 1
    names = [f"device{number}" for number in range(devices)]
    links = [link] if shared else [replace(link, name=f"{name}-link") for name in names]
    used = {first.profile, cluster.host_profile}
    return replace(
        cluster,
        devices=tuple(
            replace(
                first,
                name=name,
                backing=first.backing if first.backing == "cpu" else f"cuda:{number}",
                budget_bytes=budget_bytes,
                link=links[0 if shared else number].name,
            )
            for number, name in enumerate(names)
        ),
        links=tuple(sorted(links, key=lambda each: each.name)),
        profiles=tuple(profile for profile in cluster.profiles if profile.name in used),
    )


def _show(found: Sequence[Candidate], output: Output) -> None:
    rows = []
    for each in found:
        size = (f"{each.devices}", format_bytes(each.budget_bytes))
        if each.plan is None:
            missing = f"no: {format_bytes(each.missing_bytes)} short" if each.missing_bytes else "no"
            rows.append((*size, missing, "", "", "", "", each.refusal.splitlines()[0]))
            continue
        said = each.plan.predictions
        rows.append(
            (
                *size,
                "yes",
                format_duration(said.makespan_us),
                format_percent(said.gap),
                format_bytes(_peak(each.plan)),
                format_bytes(said.host_peak_bytes),
                "",
            )
        )
    columns = [
        *(figures(title) for title in ("devices", "memory")),
        text("fits"),
        *(figures(title) for title in ("makespan", "gap", "peak", "host memory")),
        text("what binds"),
    ]
    output.table("Capacity", columns, rows)


def _peak(plan: Plan) -> int:
    return max((device.peak_bytes for device in plan.predictions.devices), default=0)


def _advice(fitting: Sequence[Candidate]) -> str:
    timed = [(each.plan.predictions.makespan_us, each) for each in fitting if each.plan is not None]
    if not timed:
        return ""
    makespan_us, best = min(timed, key=lambda each: (each[0], each[1].devices, each[1].budget_bytes))
    least = min(fitting, key=lambda each: (each.budget_bytes * each.devices, each.devices))
    return (
        f"; fastest: {best.devices} x {format_bytes(best.budget_bytes)} in {format_duration(makespan_us)}"
        f"; least memory: {least.devices} x {format_bytes(least.budget_bytes)}"
    )


def _document(each: Candidate) -> dict[str, object]:
    said = each.plan.predictions if each.plan is not None else None
    return {
        "devices": each.devices,
        "budget_bytes": each.budget_bytes,
        "fits": each.plan is not None,
        "missing_bytes": each.missing_bytes,
        "refusal": each.refusal,
        "makespan_us": said.makespan_us if said is not None else None,
        "lower_bound_us": said.lower_bound_us if said is not None else None,
        "gap": said.gap if said is not None else None,
        "peak_bytes": _peak(each.plan) if each.plan is not None else None,
        "host_peak_bytes": said.host_peak_bytes if said is not None else None,
    }
