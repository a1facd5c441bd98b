"""`hydraplan profile`: measure this machine once, into a file that workloads name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.quantities import format_count, format_rate
from hydraplan.tools.commands.arguments import AsJson, converter, from_one
from hydraplan.tools.output import Output, figures, text


def profile(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="the profile file to write")],
    name: Annotated[
        str | None, Parameter(help="the profile's name in plans; without it: the file's, without its ending")
    ] = None,
    threads: Annotated[
        int,
        Parameter(converter=converter(from_one), show_default=True, help="threads of one cell, as the jobs give it"),
    ] = 1,
    as_json: AsJson = False,
) -> int:
    """Measure this machine once, into a profile file.

    Takes a few seconds; keep the machine quiet meanwhile. A workload names that file as cluster.profile. The same file
    gives the same plan, on any machine.

        $ hydraplan profile -o profile.json
    """
    from hydraplan.planner.costs.calibrate import calibrate, write_profile

    if not output.parent.is_dir():
        raise WorkloadError(f"cannot write {output}: there is no folder {output.parent}")
    said = Output(as_json=as_json)
    said.progress(f"measure this machine with {format_count(threads, 'thread')} a cell")
    made = calibrate(name or output.stem, threads=threads)
    write_profile(made, output)
    rows = []
    for key, value in asdict(made).items():
        if isinstance(value, int):
            rows.append((key, f"{value / 1e9:.2f} Gflop/s" if key == "flops_per_s" else _shown(key, value)))
    said.table(f"Profile {made.name}", [text("figure"), figures("value")], rows)
    said.json(asdict(made))
    said.end(f"Profile: {made.name} in {output}", "hydraplan plan WORKLOAD -o PLAN")
    return 0


def _shown(key: str, value: int) -> str:
    if key.endswith("bytes_per_s"):
        return format_rate(value)
    return f"{value / 1e6:.1f} M/s" if key.endswith("_per_s") else f"{value} ns"
