"""`python -m hydraplan.tools.fuzz`: mutants of tiny plans, each held to its properties; 1 where one has a defect.

The last line is a JSON object. Defects are told on stderr as they are found, and their mutants are kept with --keep.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hydraplan.plans.file.text import dumps
from hydraplan.runtime import execute
from hydraplan.tools.fuzz.seeds import seed_plans
from hydraplan.tools.fuzz.trial import Trial, may_train, mutant_of, results_of, try_read, try_training

app = App(name="python -m hydraplan.tools.fuzz", default_parameter=Parameter(negative=()))


@app.default
def fuzz(
    *,
    mutants: Annotated[int, Parameter(help="how many")] = 300,
    seed: Annotated[int, Parameter(help="of their mutations")] = 0,
    train: Annotated[int, Parameter(help="one of so many that hold and may be trained is")] = 3,
    facts: Annotated[
        bool, Parameter(help="change facts, and seal them again: what the models themselves contradict")
    ] = False,
    keep: Annotated[Path | None, Parameter(help="folder for the text of mutants with defects")] = None,
) -> int:
    """Mutate plans and hold each mutant to what has to hold of any plan."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plans = seed_plans()
        expected = {}
        for name, plan in plans.items():
            (folder / f"{name}.json").write_text(dumps(plan))
            execute(plan, folder / f"{name}.run")
            expected[name] = results_of(folder / f"{name}.run")
        for number in range(mutants):
            name = list(plans)[number % len(plans)]
            mutant = mutant_of(dumps(plans[name]), seed, number, facts=facts)
            trial = try_read(mutant, folder / f"{name}.json", folder)
            counts["mutants"] += 1
            counts["hold"] += trial.holds
            if trial.holds and not trial.defects and may_train(mutant, plans[name]):
                counts["could train"] += 1
                if counts["could train"] % train == 0:
                    trial = try_training(trial, expected[name], folder)
                    shutil.rmtree(folder / "run", ignore_errors=True)
                    counts["trained"] += trial.trained
            counts["defects"] += bool(trial.defects)
            _tell(trial, name, seed, keep)
    print(json.dumps({"seed": seed, **{name: counts[name] for name in ("mutants", "hold", "trained", "defects")}}))
    return 1 if counts["defects"] else 0


def _tell(trial: Trial, name: str, seed: int, keep: Path | None) -> None:
    for defect in trial.defects:
        print(f"mutant {trial.mutant.number} of {name}, seed {seed} ({trial.mutant.how}): {defect}", file=sys.stderr)
    if trial.defects and keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        text = trial.mutant.text.encode("utf-8", "surrogatepass")
        (keep / f"{name}-{seed}-{trial.mutant.number}.json").write_bytes(text)


if __name__ == "__main__":
    sys.exit(app())
