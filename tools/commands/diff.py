"""`hydraplan diff`: what differs between two plans."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from hydraplan.plans.diff import diff
from hydraplan.plans.language.quantities import format_count
from hydraplan.tools.commands.arguments import Commands, add_json, add_plan, command
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import read_plan

TEXT = """Tell what differs between two plans.

That is workload, facts, decisions, lists, predictions, solver and fingerprints.

Exits with 0 whether they differ or not."""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(commands, "diff", run, TEXT)
    add_plan(parser, "a")
    add_plan(parser, "b")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    output = Output(as_json=arguments.json)
    one, other = read_plan(arguments.a), read_plan(arguments.b)
    differences = diff(one.plan, other.plan)
    output.json({"differences": [asdict(each) for each in differences]})
    for each in differences:
        output.line(str(each))
    if differences:
        output.end(f"Diff: {format_count(len(differences), 'difference')}", f"hydraplan check {arguments.b}")
    else:
        output.end("Diff: the plans are equal")
    return 0
