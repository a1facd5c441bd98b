"""`hydraplan diff`: what differs between two plans."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hydraplan.plans.diff import diff as compared
from hydraplan.plans.language.quantities import format_count
from hydraplan.tools.commands.arguments import AsJson
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import read_plan

OnePlan = Annotated[Path, Parameter(help="a plan file")]


def diff(a: OnePlan, b: OnePlan, /, *, as_json: AsJson = False) -> int:
    """Tell what differs between two plans.

    That is workload, facts, decisions, lists, predictions, solver and fingerprints.
    Exits with 0 whether they differ or not.

        $ hydraplan diff plan.json edited.json
    """
    output = Output(as_json=as_json)
    one, other = read_plan(a), read_plan(b)
    differences = compared(one.plan, other.plan)
    output.json({"differences": [asdict(each) for each in differences]})
    for each in differences:
        output.line(str(each))
    if differences:
        output.end(f"Diff: {format_count(len(differences), 'difference')}", f"hydraplan check {b}")
    else:
        output.end("Diff: the plans are equal")
    return 0
