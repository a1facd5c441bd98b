"""`hydraplan plan`: a workload, or a plan with edited decisions, becomes a plan file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hydraplan.planner.processes.collector import collector_paused
from hydraplan.plans.language.errors import InfeasibleError, WorkloadError
from hydraplan.plans.language.plan import Plan
from hydraplan.tools.commands.arguments import Allow, AsJson, Audits, Effort, Quiet, Solver, TimeLimit, solver_options
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import check_output, lines_of, read_plan, write_plan
from hydraplan.tools.summary import plan_summary

if TYPE_CHECKING:
    from hydraplan.planner.audits import When
    from hydraplan.planner.scheduling.solver import SolverOptions


def plan(
    workload: Annotated[Path | None, Parameter(help="a workload file (TOML)")] = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="the plan file to write")],
    source: Annotated[Path | None, Parameter(name="--from", help="a plan whose decisions were edited")] = None,
    discard_edited_lists: Annotated[
        bool, Parameter(help="with --from: make new lists even where the plan's were edited")
    ] = False,
    audit: Audits = "auto",
    skip_infeasible: Annotated[
        bool, Parameter(help="leave out jobs that fit no device, say which and why, and plan the rest")
    ] = False,
    allow: Allow = (),
    solver: Solver = "highs",
    time_limit: TimeLimit = None,
    effort: Effort = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Plan a workload and write the plan file.

    Traces the models, cuts them into shards, costs these, solves one schedule over all jobs and devices, and trains two
    steps of each graph that is small enough beside its model, to compare all bits. Changes nothing else. With --from,
    takes the decisions of an edited plan as they are, and makes new lists and predictions for them.

        $ hydraplan plan sweep.toml -o plan.json
    """
    said = Output(as_json=as_json, quiet=quiet)
    check_output(output, workload)
    with said.working(), collector_paused():
        if workload is not None and source is None:
            if discard_edited_lists:
                raise WorkloadError("--discard-edited-lists belongs to --from PLAN")
            if allow:
                raise WorkloadError("--allow belongs to --from PLAN: a workload is taken to be your own")
            options = partial(solver_options, solver, time_limit, effort)
            made, notices = _plan(workload, output, options, audit, skip_infeasible, said)
        elif source is not None and workload is None:
            if skip_infeasible:
                raise WorkloadError("--skip-infeasible belongs to a WORKLOAD: a plan's decisions name its jobs")
            made, notices = _replan(source, output, discard_edited_lists, allow, audit, said)
        else:
            raise WorkloadError("name either a WORKLOAD or --from PLAN")
    said.json(_document(output, made, notices))
    allowed = "".join(f" --allow {path}" for path in _asked_for(made))
    said.end(f"Plan: {plan_summary(made)}", f"hydraplan execute {output} -o {output.with_suffix('.run')}{allowed}")
    return 0


def _plan(
    workload_file: Path,
    path: Path,
    options: Callable[[], SolverOptions],
    audit: When,
    skip_infeasible: bool,
    output: Output,
) -> tuple[Plan, Sequence[str]]:
    """The plan, and what the user should know of the data."""
    from hydraplan.planner.workloads.file import load

    workload = load(workload_file)  # before torch is imported, so that a mistake is told at once
    from hydraplan.planner import pipeline
    from hydraplan.planner.study import study

    studied = study(workload.jobs, report=output.progress)
    for notice in studied.notices:
        output.progress(notice)
    skipped: list[str] = []

    def left_out(refusal: InfeasibleError) -> None:
        skipped.append(f"left out: {refusal}")
        output.progress(skipped[-1])

    made = pipeline.plan(
        workload,
        solver=options(),
        studied=studied,
        audit=audit,
        left_out=left_out if skip_infeasible else None,
        report=output.progress,
    )
    write_plan(made, path)
    return made, (*studied.notices, *skipped)


def _replan(
    source: Path, path: Path, discard_edited_lists: bool, allow: Collection[str], audit: When, output: Output
) -> tuple[Plan, Sequence[str]]:
    document = read_plan(source)
    from hydraplan.planner import pipeline

    with lines_of(document):
        made = pipeline.replan(
            document.plan,
            discard_edited_lists=discard_edited_lists,
            allow=allow,
            audit=audit,
            report=output.progress,
        )
    # Notes sit on what people edit; those on steps would point into lists that are no more.
    notes = {pointer: note for pointer, note in document.notes.items() if not pointer.startswith("/phases")}
    write_plan(made, path, notes)
    return made, ()


def _asked_for(made: Plan) -> tuple[str, ...]:
    """What execution calls only where it is allowed by name."""
    from hydraplan.planner.frontend.users.admission import to_allow

    return to_allow(made.workload.jobs, made.fingerprints)


def _document(path: Path, made: Plan, notices: Sequence[str]) -> dict[str, object]:
    return {
        "plan": str(path),
        "notices": list(notices),
        "jobs": [job.name for job in made.workload.jobs],
        "devices": [device.name for device in made.workload.cluster.devices],
        "phases": len(made.phases),
        "predictions": asdict(made.predictions),
        "solver": asdict(made.solver),
        "audits": [asdict(each) for each in made.audits],
    }
