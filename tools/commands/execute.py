"""`hydraplan execute`: replay a plan file, and nothing but that file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hydraplan.plans.language.quantities import format_count
from hydraplan.tools.code import code_lines
from hydraplan.tools.commands.arguments import Allow, AsJson, PlanFile, Quiet
from hydraplan.tools.commands.report import report_document, run_summary, show
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import lines_of, read_sound_plan
from hydraplan.tools.run_report import read_report

RunDirectory = Annotated[Path, Parameter(name=["--output", "-o"], help="the run directory to write")]


def execute(
    plan: PlanFile, /, *, output: RunDirectory, allow: Allow = (), as_json: AsJson = False, quiet: Quiet = False
) -> int:
    """Train exactly as a plan says and write a run directory.

    The directory gets the final weights (safetensors), the loss of every step, and the time of every step of the lists.
    What the plan imports and calls is listed first, and held to the working directory and to installed packages that
    the plan names. A job that fails takes no other down; the exit code is then 1.

        $ hydraplan execute plan.json -o run
    """
    said = Output(as_json=as_json, quiet=quiet)
    document = read_sound_plan(plan, said)  # before torch is imported, so that a mistake is told at once
    jobs = document.plan.workload.jobs
    said.progress("this plan imports and calls:")
    for line in code_lines(jobs):
        said.progress(line)
    from hydraplan import runtime
    from hydraplan.runtime.progress import NoProgress, progress_for

    said.progress(f"build {format_count(len(jobs), 'model')} and compare with the plan")
    with lines_of(document), said.working():
        result = runtime.execute(
            document.plan, output, allow=allow, progress=NoProgress() if quiet else progress_for(sys.stderr)
        )
    report = read_report(output)
    said.json(report_document(report))
    show(report, said)
    said.end(run_summary(report), f"hydraplan report {output} --timeline {output}/timeline.json")
    return 1 if result.failed else 0
