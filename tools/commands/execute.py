"""`hydraplan execute`: replay a plan file, and nothing but that file."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hydraplan.plans.language.errors import HydraplanError, RunError
from hydraplan.plans.language.quantities import format_count
from hydraplan.runtime.replaying.crew import Abandoned
from hydraplan.tools.code import code_lines
from hydraplan.tools.commands.arguments import Allow, AsJson, PlanFile, Quiet
from hydraplan.tools.commands.report import report_document, run_summary, show
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import lines_of, read_sound_plan
from hydraplan.tools.run_report import read_report
from hydraplan.tools.signals import stoppable, told

Audit = Annotated[
    bool,
    Parameter(
        name="--audit",
        negative=(),
        help="first train two steps of each graph that the plan has not audited beside its model, and compare all bits",
    ),
]
RunDirectory = Annotated[Path, Parameter(name=["--output", "-o"], help="the run directory to write")]


def execute(
    plan: PlanFile,
    /,
    *,
    output: RunDirectory,
    allow: Allow = (),
    audit: Audit = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Train exactly as a plan says and write a run directory.

    The directory gets the final weights (safetensors), the loss of every step, and the time of every step of the lists.
    What the plan imports and calls is listed first, and held to the working directory and to installed packages that
    the plan names.

    Weights are there as soon as their job has finished. A job that fails takes no other down; the exit code is then 1.
    Ctrl-C, SIGTERM and SIGHUP end a run, and keep what has finished; a second one does not wait for what hangs.

        $ hydraplan execute plan.json -o run
    """
    said = Output(as_json=as_json, quiet=quiet)
    document = read_sound_plan(plan, said).document  # before torch is imported, so that a mistake is told at once
    jobs = document.plan.workload.jobs
    said.progress("this plan imports and calls:")
    for line in code_lines(jobs):
        said.progress(line)
    from hydraplan import runtime
    from hydraplan.runtime.progress import NoProgress, progress_for

    said.progress(f"build {format_count(len(jobs), 'model')} and compare with the plan")
    try:
        with lines_of(document), said.working(), stoppable():
            shown = NoProgress() if quiet else progress_for(sys.stderr)
            result = runtime.execute(document.plan, output, allow=allow, audit=audit, progress=shown)
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt, output)
    if "record.json" in result.unwritten:
        raise RunError(f"{output} has what was trained, but no record of it: {result.unwritten['record.json']}")
    report = read_report(output)
    said.json(report_document(report))
    show(report, said)
    said.end(run_summary(report), f"hydraplan report {output} --timeline {output}/timeline.json")
    return 1 if result.failed or result.unwritten else 0


def _interrupted(interrupt: KeyboardInterrupt, directory: Path) -> int:
    """Say what ended the run and what is kept; where a thread was left at work, end the process here and now."""
    what, code = told(interrupt)
    kept = ""
    with suppress(HydraplanError):  # nothing was trained yet
        kept = f"; {run_summary(read_report(directory))}; hydraplan report {directory}"
    print(what + kept, file=sys.stderr, flush=True)
    if isinstance(interrupt, Abandoned):
        sys.stdout.flush()
        os._exit(code)
    return code
