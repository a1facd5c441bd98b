"""`hydraplan profile`: measure this machine once, into a file that workloads name."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.quantities import format_rate
from hydraplan.tools.commands.arguments import Commands, add_json, command
from hydraplan.tools.output import Output, figures, text

TEXT = """Measure this machine once, into a profile file.

Takes a few seconds; keep the machine quiet meanwhile.

A workload names that file as cluster.profile. The same file gives the same plan, on any machine."""


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(commands, "profile", run, TEXT)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the profile file to write")
    parser.add_argument("--name", help="the profile's name in plans (default: the file's, without its ending)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one cell, as the jobs give it (default: 1)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from hydraplan.planner.costs.calibrate import calibrate, write_profile

    if arguments.threads < 1:
        raise WorkloadError(f"--threads {arguments.threads}: give a whole number from 1")
    if not arguments.output.parent.is_dir():
        raise WorkloadError(f"cannot write {arguments.output}: there is no folder {arguments.output.parent}")
    output = Output(as_json=arguments.json)
    output.progress(f"measure this machine with {arguments.threads} threads a cell")
    made = calibrate(arguments.name or arguments.output.stem, threads=arguments.threads)
    write_profile(made, arguments.output)
    rows = []
    for key, value in asdict(made).items():
        if isinstance(value, int):
            rows.append((key, f"{value / 1e9:.2f} Gflop/s" if key == "flops_per_s" else _shown(key, value)))
    output.table(f"Profile {made.name}", [text("figure"), figures("value")], rows)
    output.json(asdict(made))
    output.end(f"Profile: {made.name} in {arguments.output}", "hydraplan plan WORKLOAD -o PLAN")
    return 0


def _shown(key: str, value: int) -> str:
    if key.endswith("bytes_per_s"):
        return format_rate(value)
    return f"{value / 1e6:.1f} M/s" if key.endswith("_per_s") else f"{value} ns"
