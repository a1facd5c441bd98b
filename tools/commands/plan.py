"""`hydraplan plan`: a workload, or a plan with edited decisions, becomes a plan file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydraplan.planner.processes.collector import collector_paused
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.plan import Plan
from hydraplan.tools.commands.arguments import Commands, add_json, add_quiet, add_solver, command, solver_options
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import check_output, lines_of, read_plan, write_plan
from hydraplan.tools.summary import plan_summary

TEXT = """Plan a workload and write the plan file.

Traces the models, cuts them into shards, costs these, and solves one schedule over all jobs and devices.

Changes nothing else. With --from, takes the decisions of an edited plan as they are, and makes new lists and
predictions for them."""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(commands, "plan", run, TEXT)
    parser.add_argument("workload", metavar="WORKLOAD", type=Path, nargs="?", help="a workload file (TOML)")
    parser.add_argument("--from", dest="source", metavar="PLAN", type=Path, help="a plan whose decisions were edited")
    parser.add_argument("-o", "--output", metavar="PLAN", type=Path, required=True, help="the plan file to write")
    parser.add_argument(
        "--discard-edited-lists",
        action="store_true",
        help="with --from: make new lists even where the plan's were edited",
    )
    add_solver(parser)
    add_json(parser)
    add_quiet(parser)


def run(arguments: argparse.Namespace) -> int:
    output = Output(as_json=arguments.json, quiet=arguments.quiet)
    if (arguments.workload is None) == (arguments.source is None):
        raise WorkloadError("name either a WORKLOAD or --from PLAN")
    if arguments.discard_edited_lists and arguments.source is None:
        raise WorkloadError("--discard-edited-lists belongs to --from PLAN")
    check_output(arguments.output, arguments.workload)
    with output.working(), collector_paused():
        made, notices = _replan(arguments, output) if arguments.source is not None else _plan(arguments, output)
    output.json(_document(arguments.output, made, notices))
    output.end(
        f"Plan: {plan_summary(made)}", f"hydraplan execute {arguments.output} -o {arguments.output.with_suffix('.run')}"
    )
    return 0


def _plan(arguments: argparse.Namespace, output: Output) -> tuple[Plan, Sequence[str]]:
    """The plan, and what the user should know of the data."""
    from hydraplan.planner.workloads.file import load

    workload = load(arguments.workload)  # before torch is imported, so that a mistake is told at once
    from hydraplan.planner.pipeline import plan
    from hydraplan.planner.study import study

    studied = study(workload.jobs, report=output.progress)
    for notice in studied.notices:
        output.progress(notice)
    made = plan(workload, solver=solver_options(arguments), studied=studied, report=output.progress)
    write_plan(made, arguments.output)
    return made, studied.notices


def _replan(arguments: argparse.Namespace, output: Output) -> tuple[Plan, Sequence[str]]:
    document = read_plan(arguments.source)
    from hydraplan.planner.pipeline import replan

    with lines_of(document):
        made = replan(document.plan, discard_edited_lists=arguments.discard_edited_lists, report=output.progress)
    # Notes sit on what people edit; those on steps would point into lists that are no more.
    notes = {pointer: note for pointer, note in document.notes.items() if not pointer.startswith("/phases")}
    write_plan(made, arguments.output, notes)
    return made, ()


def _document(path: Path, made: Plan, notices: Sequence[str]) -> dict[str, object]:
    return {
        "plan": str(path),
        "notices": list(notices),
        "jobs": [job.name for job in made.workload.jobs],
        "devices": [device.name for device in made.workload.cluster.devices],
        "phases": len(made.phases),
        "predictions": asdict(made.predictions),
        "solver": asdict(made.solver),
    }
