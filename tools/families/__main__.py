"""`make families`: every family on the list, to the bit; writes TABLE.md and table.json.

Resumable: what table.json holds already is not tried again; a name tries that family again, `--again` all of them.
Exit code 1 where fewer than 95 % of the list pass.
Processes come from one that has torch, transformers and hydraplan imported, a family each, so that a crash or a
hang costs that family alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from hydraplan.tools.families.exportable import HERE, LIST, WARM, in_process
from hydraplan.tools.families.table import markdown
from hydraplan.tools.families.tiny import Entry, entries, entry
from hydraplan.tools.families.trial import Outcome, trial

RESULTS = HERE / "table.json"
TABLE = HERE / "TABLE.md"
SECONDS = 600
"""Most time of one family."""
ENOUGH_PERCENT = 95
"""Of the families that torch.export can trace."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hydraplan.tools.families", description="Every family, to the bit.")
    parser.add_argument("entries", nargs="*", help="names such as causal-lm/gpt2; default: those not tried yet")
    parser.add_argument("--again", action="store_true", help="start anew")
    parser.add_argument("--failed", action="store_true", help="try those again that did not pass")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    multiprocessing.set_forkserver_preload(
        [*WARM, "hydraplan.tools.families.trial", "hydraplan.planner.pipeline", "hydraplan.runtime.execution"]
    )
    rows = json.loads(LIST.read_text())
    known = {} if arguments.again else {each.entry: each for each in read(RESULTS)}
    exports = [row["entry"] for row in rows if row["status"] == "exports"]
    todo = [name for name in exports if name not in known or (arguments.failed and not known[name].passes)]
    with ThreadPoolExecutor(arguments.workers) as pool:
        trials = [pool.submit(in_own_process, entry(name)) for name in arguments.entries or todo]
        for done in as_completed(trials):
            outcome = done.result()
            known[outcome.entry] = outcome
            write(RESULTS, known.values())
            TABLE.write_text(markdown(rows, known))
            print(outcome.entry, "passes" if outcome.passes else outcome.reason, file=sys.stderr, flush=True)
    TABLE.write_text(markdown(rows, known))
    passed = sum(known[name].passes for name in exports if name in known)
    print(f"Families: {passed} of the {len(exports)} that torch.export can trace pass the bit test")
    return exit_code(passed, len(exports))


def exit_code(passed: int, exports: int) -> int:
    """0 where enough families pass; those not tried yet do not."""
    return int(100 * passed < ENOUGH_PERCENT * exports)


def in_own_process(which: Entry) -> Outcome:
    """The trial of a family; where its process dies or hangs, that is its reason."""
    try:
        outcome: Outcome = in_process(trial, which.name, seconds=SECONDS)
    except RuntimeError as error:
        outcome = Outcome(entry=which.name, class_name=which.class_name, reason=str(error))
    return outcome


def read(path: Path) -> list[Outcome]:
    """The outcomes of earlier runs."""
    if not path.exists():
        return []
    return [Outcome(**{**row, "shards": tuple(row["shards"])}) for row in json.loads(path.read_text())]


def write(path: Path, outcomes: Iterable[Outcome]) -> None:
    """An outcome a line, in the order of the tables."""
    order = {each.name: number for number, each in enumerate(entries())}
    lines = ",\n".join(json.dumps(asdict(each)) for each in sorted(outcomes, key=lambda each: order[each.entry]))
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    sys.exit(main())
