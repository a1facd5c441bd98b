"""`hydraplan inspect`: what a plan does, in tables, as JSON, or as a timeline."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hydraplan.planner.lists.rates import split
from hydraplan.planner.processes.collector import collector_paused
from hydraplan.plans.language.digests import lists_edited
from hydraplan.plans.language.facts import Layout
from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.plans.language.quantities import format_bytes, format_count, format_duration, format_percent
from hydraplan.plans.prediction.simulate import Simulation
from hydraplan.tools.code import code_rows, shown_call, shown_jobs
from hydraplan.tools.commands.arguments import AsJson, PlanFile
from hydraplan.tools.output import Output, figures, names, text
from hydraplan.tools.planfile import read_sound_plan, write_text
from hydraplan.tools.summary import plan_summary
from hydraplan.tools.timeline import predicted_timeline

Timeline = Annotated[Path | None, Parameter(help="write the predicted run as a Chrome trace, which Perfetto opens")]


def inspect(plan_file: PlanFile, /, *, timeline: Timeline = None, as_json: AsJson = False) -> int:
    """Show a plan: jobs, code, devices, phases, peaks, makespan, gap.

    The plan has to hold: where it does not, tells what hydraplan check does. A timeline has one process per device,
    one track per engine, arrows from load to use, and memory as a counter.

        $ hydraplan inspect plan.json --timeline plan.trace.json
    """
    output = Output(as_json=as_json)
    with collector_paused():
        sound = read_sound_plan(plan_file, output)
        plan, simulation = sound.plan, sound.simulated()
    if timeline is not None:
        write_text(timeline, predicted_timeline(plan, simulation))
        output.progress(f"timeline in {timeline}: open it with Perfetto")
    output.json(_document(plan, simulation))
    show(plan, simulation, output)
    if lists_edited(plan):
        output.end(f"Plan: {plan_summary(plan)}; its lists were edited", f"hydraplan check {plan_file}")
    else:
        output.end(f"Plan: {plan_summary(plan)}", f"hydraplan execute {plan_file} -o {plan_file.with_suffix('.run')}")
    return 0


def show(plan: Plan, simulation: Simulation, output: Output) -> None:
    """The plan's tables."""
    _show_jobs(plan, output)
    _show_code(plan, output)
    _show_devices(plan, output)
    _show_phases(plan, simulation, output)
    for line in audit_lines(plan):
        output.line(line)
    said, solver = plan.predictions, plan.solver
    output.line(
        f"Host: {format_bytes(said.host_peak_bytes)} of {format_bytes(plan.workload.cluster.host_memory_bytes)}, "
        f"updates {format_duration(said.host_update_us)} "
        f"on {format_count(plan.workload.cluster.update_workers, 'thread')}"
    )
    output.line(
        f"Solver: {solver.name}, {solver.status}; objective {format_duration(solver.objective_us)}, "
        f"bound {format_duration(solver.bound_us)} (gap {format_percent(solver.gap)}); "
        f"the list schedule takes {format_duration(solver.list_schedule_us)}"
    )
    output.line()


def audit_lines(plan: Plan) -> list[str]:
    """What is known of each graph's equality with its model; and which jobs an audit covers."""
    known = {each.graph: each for each in plan.audits}
    lines = []
    for graph in plan.facts.graphs:
        audit = known.get(graph.name)
        if audit is None or audit.verdict == "not audited":
            why = f": {audit.text}" if audit is not None else ""
            lines.append(f"Audit: {graph.name} not audited{why}")
            continue
        jobs = [each.job for each in plan.facts.jobs if each.graph == graph.name and each.job not in audit.jobs]
        seeds = {job.name: job.seed for job in plan.workload.jobs}
        with_seeds = ", ".join(f"{name} (seed {seeds[name]})" for name in audit.jobs)
        shared = f"; {', '.join(jobs)}: the same graph, other values" if jobs else ""
        verdict = "equal" if audit.verdict == "equal" else f"DIFFERS, as its jobs accept: {audit.text}"
        lines.append(f"Audit: {graph.name}, two steps of {with_seeds} beside its model: {verdict}{shared}")
    return lines


def layout_of(plan: Plan, job: str) -> Layout:
    graph = next(facts.graph for facts in plan.facts.jobs if facts.job == job)
    cuts = next(each.cuts for each in plan.decisions.cuts if each.job == job)
    return next(each for each in plan.facts.layouts if (each.graph, each.cuts) == (graph, cuts))


def _show_jobs(plan: Plan, output: Output) -> None:
    finish = {job.job: job.finish_us for job in plan.predictions.jobs}
    rows = []
    for job in plan.workload.jobs:
        layout = layout_of(plan, job.name)
        parameters = sum(slab.parameter_bytes for slab in layout.slabs)
        tied = sum(1 for slab in layout.slabs if len(slab.readers) > 1)
        rows.append(
            (
                job.name,
                layout.graph,
                format_bytes(parameters),
                f"{len(layout.shards)}" + (f" ({tied} tied)" if tied else ""),
                f"{job.steps}",
                f"{job.batch_size} / {job.microbatches}",
                format_duration(finish.get(job.name, 0)),
            )
        )
    columns = [
        names("job"),
        text("graph"),
        figures("parameters"),
        figures("shards"),
        figures("steps"),
        figures("batch / microbatches"),
        figures("finishes at"),
    ]
    output.table("Jobs", columns, rows)


def _show_code(plan: Plan, output: Output) -> None:
    rows = [(row.role, shown_call(row), row.origin, shown_jobs(row)) for row in code_rows(plan.workload.jobs)]
    columns = [text("of"), names("imports and calls"), names("where it lies"), names("jobs")]
    output.table("Code", columns, rows)


def _show_devices(plan: Plan, output: Output) -> None:
    budgets = {device.name: device for device in plan.workload.cluster.devices}
    makespan = max(plan.predictions.makespan_us, 1)
    rows = [
        (
            said.device,
            budgets[said.device].backing,
            format_bytes(budgets[said.device].budget_bytes),
            format_bytes(said.peak_bytes),
            format_bytes(said.arena_bytes),
            format_bytes(said.workspace_bytes),
            format_bytes(said.kept_bytes),
            format_percent(said.compute_us / makespan),
            format_percent(said.load_us / makespan),
            format_percent(said.spill_us / makespan),
        )
        for said in plan.predictions.devices
        if said.device in budgets
    ]
    columns = [
        names("device"),
        text("backing"),
        *(figures(title) for title in ("budget", "peak", "arena", "workspace", "kept", "compute", "load", "spill")),
    ]
    output.table("Devices", columns, rows)


def _show_phases(plan: Plan, simulation: Simulation, output: Output) -> None:
    rows = []
    for number, (phase, placements) in enumerate(zip(plan.phases, placements_of_phases(plan), strict=True)):
        times = simulation.phases[number]
        for position, placement in enumerate(placements):
            first = position == 0
            rows.append(
                (
                    f"{number}" if first else "",
                    f"{phase.repeat}" if first else "",
                    format_duration(times.finish_us - times.start_us) if first else "",
                    placement.device,
                    placement.job,
                    f"{placement.steps}",
                    *_treatment(plan, placement),
                )
            )
    columns = [
        *(figures(title) for title in ("phase", "cycles", "time")),
        names("device"),
        names("job"),
        *(figures(title) for title in ("steps", "resident", "kept", "updated on device")),
    ]
    output.table("Phases", columns, rows)


def placements_of_phases(plan: Plan) -> list[tuple[Placement, ...]]:
    """What runs in each phase of the lists, with the steps of that phase.

    A decision becomes several phases where its jobs' steps have no common number of cycles. Phases that were added or
    taken out by hand belong to no decision: then nothing is said of any.
    """
    found = [
        tuple(replace(each, steps=rate * repeat) for each, rate in zip(decision.placements, rates, strict=True) if rate)
        for decision in plan.decisions.phases
        for repeat, rates in split([each.steps for each in decision.placements])
    ]
    return found if len(found) == len(plan.phases) else [()] * len(plan.phases)


def _treatment(plan: Plan, placement: Placement) -> tuple[str, str, str]:
    layout = layout_of(plan, placement.job)
    slabs, shards = len(layout.slabs), len(layout.shards)
    return (
        f"{len(placement.resident)} of {slabs} slabs",
        f"{len(placement.keep)} of {shards} shards",
        f"{len(placement.device_updates)} of {slabs} slabs",
    )


def _document(plan: Plan, simulation: Simulation) -> dict[str, object]:
    return {
        "jobs": [
            {
                "name": job.name,
                "graph": layout_of(plan, job.name).graph,
                "shards": len(layout_of(plan, job.name).shards),
                "parameter_bytes": sum(slab.parameter_bytes for slab in layout_of(plan, job.name).slabs),
                "steps": job.steps,
                "batch_size": job.batch_size,
                "microbatches": job.microbatches,
            }
            for job in plan.workload.jobs
        ],
        "code": [asdict(row) for row in code_rows(plan.workload.jobs)],
        "devices": [
            {"name": device.name, "backing": device.backing, "budget_bytes": device.budget_bytes}
            for device in plan.workload.cluster.devices
        ],
        "phases": [
            {
                "cycles": phase.repeat,
                **asdict(times),
                "placements": [asdict(placement) for placement in placements],
            }
            for phase, placements, times in zip(plan.phases, placements_of_phases(plan), simulation.phases, strict=True)
        ],
        "predictions": asdict(plan.predictions),
        "solver": asdict(plan.solver),
        "audits": [asdict(each) for each in plan.audits],
        "lists_edited": lists_edited(plan),
    }
