"""`hydraplan execute`: replay a plan file, and nothing but that file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hydraplan.plans.language.quantities import format_count
from hydraplan.tools.commands.arguments import Commands, add_json, add_plan, add_quiet, command
from hydraplan.tools.commands.report import report_document, run_summary, show
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import lines_of, read_sound_plan
from hydraplan.tools.run_report import read_report

TEXT = """Train exactly as a plan says and write a run directory.

The directory gets the final weights (safetensors), the loss of every step, and the time of every step of the lists.
A job that fails takes no other down; the exit code is then 1."""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(commands, "execute", run, TEXT)
    add_plan(parser)
    parser.add_argument("-o", "--output", metavar="RUN", type=Path, required=True, help="the run directory to write")
    add_json(parser)
    add_quiet(parser)


def run(arguments: argparse.Namespace) -> int:
    output = Output(as_json=arguments.json, quiet=arguments.quiet)
    document = read_sound_plan(arguments.plan, output)  # before torch is imported, so that a mistake is told at once
    from hydraplan.runtime import execute
    from hydraplan.runtime.progress import NoProgress, progress_for

    output.progress(f"build {format_count(len(document.plan.workload.jobs), 'model')} and compare with the plan")
    with lines_of(document), output.working():
        result = execute(
            document.plan, arguments.output, progress=NoProgress() if arguments.quiet else progress_for(sys.stderr)
        )
    report = read_report(arguments.output)
    output.json(report_document(report))
    show(report, output)
    output.end(run_summary(report), f"hydraplan report {arguments.output} --timeline {arguments.output}/timeline.json")
    return 1 if result.failed else 0
