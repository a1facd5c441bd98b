"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydraplan.planner.scheduling.solver import SolverOptions

Commands = argparse._SubParsersAction  # argparse gives this type no public name
Run = Callable[[argparse.Namespace], int]


def command(commands: Commands[argparse.ArgumentParser], name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """A new command; the first line of `text` stands in the list of commands."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text.strip().splitlines()[0].rstrip("."),
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.set_defaults(run=run)
    return made


def add_plan(parser: argparse.ArgumentParser, name: str = "plan") -> None:
    parser.add_argument(name, metavar=name.upper(), type=Path, help="a plan file")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text and tables")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def add_solver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--solver", choices=("highs", "cbc"), default="highs", help="solver of the MILP (default: highs)"
    )
    parser.add_argument(
        "--time-limit", type=from_one, metavar="SECONDS", help="most time for one solve (a plan that met it says so)"
    )
    parser.add_argument(
        "--effort",
        type=from_one,
        metavar="LINES",
        help="lines of lists to simulate in search of a better plan, at most",
    )


def solver_options(arguments: argparse.Namespace) -> SolverOptions:
    from hydraplan.planner.scheduling.solver import SolverOptions

    options = SolverOptions(name=arguments.solver)
    if arguments.time_limit is not None:
        options = replace(options, solve_seconds=arguments.time_limit)
    if arguments.effort is not None:
        options = replace(options, effort=arguments.effort)
    return options


def from_one(text: str) -> int:
    """argparse type: a whole number, at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return value
