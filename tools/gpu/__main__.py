"""`python tools/gpu`, from a checkout: find the libraries, run each part in a process of its own, show the results."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NEEDED = ("torch", "numpy", "pulp", "highspy", "networkx", "pydantic", "rich", "safetensors")
LIMITS_S = {"contract": 60, "bits": 120, "memory": 120, "resident": 150}
"""Part -> seconds that it may take: 7.5 minutes in all."""
ANSWER = "ANSWER "


def main(arguments: list[str]) -> int:
    """Exit code 0 where every part is well, 1 where one is not, 2 where a library is missing."""
    parser = argparse.ArgumentParser(prog="python tools/gpu", description="What only a machine with a GPU can tell.")
    parser.add_argument("--backing", default="cuda:0", help='"cuda:N", or "cpu" to try the script itself')
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of libraries that are not installed")
    parser.add_argument("--small", action="store_true", help="tiny models: whether it works, not how well")
    parser.add_argument("--parts", nargs="+", choices=LIMITS_S, default=list(LIMITS_S))
    parser.add_argument("--part", choices=LIMITS_S, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.part is not None:
        return one_part(asked.part, asked.backing, asked.small)
    with tempfile.TemporaryDirectory() as folder:
        path = import_path(Path(folder), asked.wheels)
        sys.path[:0] = path
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            print(f"missing: {', '.join(missing)}; install them, or give their wheels with --wheels FOLDER")
            return 2
        rows = {part: in_process(part, asked, path) for part in asked.parts}
        show(rows)
        print(json.dumps({"machine": machine(asked.backing), "parts": rows}))
    return 0 if all(row["status"] == "well" for row in rows.values()) else 1


def import_path(folder: Path, wheels: Path | None) -> list[str]:
    """Where to import from: this checkout as the package that it is, and what wheels hold."""
    (folder / "package").mkdir()
    (folder / "package" / "hydraplan").symlink_to(CHECKOUT)
    path = [str(folder / "package")]
    if wheels is not None:
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "wheels")
        path.append(str(folder / "wheels"))
    return path


def in_process(part: str, asked: argparse.Namespace, path: list[str]) -> dict[str, object]:
    """What came of a part: its status, seconds and figures, or its last words."""
    command = [sys.executable, str(Path(__file__).parent), "--part", part, "--backing", asked.backing]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])])}
    started = time.monotonic()
    print(f"{part}: at most {LIMITS_S[part]} s", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            [*command, *(["--small"] if asked.small else [])],
            env=environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=LIMITS_S[part],
        )
    except subprocess.TimeoutExpired:
        return {"status": "out of time", "seconds": LIMITS_S[part]}
    row: dict[str, object] = {"seconds": round(time.monotonic() - started, 1)}
    answer = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if not answer:
        return {"status": "crashed", **row, "exit": done.returncode, "said": (done.stdout + done.stderr)[-1500:]}
    found = json.loads(answer[-1].removeprefix(ANSWER))
    return {"status": "failed" if "failed" in found else "well", **row, **found}


def one_part(part: str, backing: str, small: bool) -> int:
    try:
        from hydraplan.tools.gpu.parts import PARTS

        found = PARTS[part](backing, small)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}"[:1500]
        found = {"failed": said, "at": f"{Path(where.filename).name}:{where.lineno}"}
    print(ANSWER + json.dumps(found))
    return 0


def machine(backing: str) -> dict[str, object]:
    """What the figures are of."""
    import torch

    there = backing != "cpu" and torch.cuda.is_available()
    return {
        "backing": backing,
        "gpu": torch.cuda.get_device_name(backing) if there else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
    }


def show(rows: dict[str, dict[str, object]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("part", "status", "seconds", "figures")
    for part, row in rows.items():
        rest = {name: value for name, value in row.items() if name not in ("status", "seconds")}
        figures = escape("\n".join(f"{name} {shown(value)}" for name, value in rest.items()))
        table.add_row(part, str(row["status"]), str(row["seconds"]), figures)
    Console().print(table)


def shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
