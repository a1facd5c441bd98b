"""`hydraplan profile`: measure this machine once, into a file that workloads name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.quantities import format_bytes, format_count, format_rate
from hydraplan.tools.commands.arguments import AsJson, converter, from_one
from hydraplan.tools.output import Output, figures, text

if TYPE_CHECKING:
    from hydraplan.runtime.devices.nvml import Gpu


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
    """Measure this machine's CPU once, into a profile file, and say which GPUs it has.

    Takes a few seconds; keep the machine quiet meanwhile. A workload names that file as cluster.profile. The same file
    gives the same plan, on any machine.

        $ hydraplan profile -o profile.json
    """
    from hydraplan.planner.costs.calibrate import calibrate, write_profile
    from hydraplan.planner.costs.catalogue import name_of_card
    from hydraplan.runtime.devices.nvml import gpus

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
    found = gpus()
    _show_gpus(said, found)
    said.json(asdict(made) | {"gpus": [asdict(gpu) | {"profile": name_of_card(gpu.name)} for gpu in found]})
    said.end(f"Profile: {made.name} in {output}", "hydraplan plan WORKLOAD -o PLAN")
    return 0


def _show_gpus(said: Output, found: Sequence[Gpu]) -> None:
    """Each GPU, with the catalogue's entry to write as a device's `profile`."""
    from hydraplan.planner.costs.catalogue import name_of_card

    if not found:
        return
    unknown = "-"
    rows = [
        (
            gpu.name,
            unknown if gpu.total_bytes is None else format_bytes(gpu.total_bytes),
            unknown if gpu.free_bytes is None else format_bytes(gpu.free_bytes),
            f"PCIe {gpu.link_generation or unknown} x{gpu.link_width or unknown}",
            name_of_card(gpu.name) or "none",
        )
        for gpu in found
    ]
    columns = [text("GPU"), figures("memory"), figures("free"), text("link"), text("profile")]
    said.table("GPUs", columns, rows)
    for card in sorted({gpu.name for gpu in found if name_of_card(gpu.name) is None}):
        said.line(f"the catalogue has no {card}: write the profile of a card like it, or a file with its figures")


def _shown(key: str, value: int) -> str:
    if key.endswith("bytes_per_s"):
        return format_rate(value)
    return f"{value / 1e6:.1f} M/s" if key.endswith("_per_s") else f"{value} ns"
