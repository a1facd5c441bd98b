"""The audit over all families of transformers and models of other libraries: `make bench NAME=audit`.

    equal      two steps of the real model and two of its cut graph give the same bits
    refused    planning says no, with a reason: the front end, or the audit that found a difference
    defect     anything else: a crash, a hang, an untold error

A family is audited with every dropout that it has; a model of a library as its constructor leaves it (extra `audit`;
those that are not installed are skipped, and told). Each is cut into four shards, in a process of its own. Resumable:
what audit.json holds is not tried again; names try those again, `--again` all. Writes AUDIT.md.

The last line is a JSON object: how many are equal, refused, skipped, and `defects`; the command ends with 1 where there
is a defect, or fewer are equal than the aims say.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from hydraplan.planner.frontend.auditing.audit import audit, batches_of
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.errors import HydraplanError
from hydraplan.plans.language.workload import Job, Target, Value
from hydraplan.tools.families.exportable import LIST, WARM, in_process, quiet, reason
from hydraplan.tools.families.table import cell
from hydraplan.tools.families.trial import LIBRARIES, ROWS, SEED, even_cuts
from hydraplan.tools.libraries.catalogue import entries
from hydraplan.tools.libraries.entry import declare_vision_operators, is_installed

HERE = Path(__file__).parent
RESULTS = HERE / "audit.json"
TABLE = HERE / "AUDIT.md"
SECONDS = 300
"""Most time of one model."""
SHARDS = 4
STEPS = 2
EQUAL_FAMILIES, EQUAL_PERCENT = 261, 75
"""The aims: families that are equal, and the part of the libraries' models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one model."""

    name: str
    verdict: str
    """`equal`, `refused`, `defect` or `skipped`."""
    reason: str = ""
    shards: int = 0
    seconds: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hydraplan.tools.bench.audit", description="Every model, audited.")
    parser.add_argument("names", nargs="*", help="families and models of libraries; default: those not tried yet")
    parser.add_argument("--again", action="store_true", help="start anew")
    parser.add_argument("--failed", action="store_true", help="try those again that are not equal")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    warm = WARM if find_spec("torchvision") is None else ["torch"]  # torchvision may need operators of ours first
    multiprocessing.set_forkserver_preload([*warm, "hydraplan.planner.frontend.auditing.audit"])
    known = {} if arguments.again else {each.name: each for each in read(RESULTS)}
    everything = [*families(), *(each.name for each in entries())]
    todo = [name for name in everything if name not in known or known[name].verdict == "skipped"]
    todo += [name for name in everything if arguments.failed and name in known and known[name].verdict != "equal"]
    with ThreadPoolExecutor(arguments.workers) as pool:
        tried = [pool.submit(outcome_of, name) for name in arguments.names or dict.fromkeys(todo)]
        for done in as_completed(tried):
            outcome = done.result()
            known[outcome.name] = outcome
            write(RESULTS, known.values(), everything)
            TABLE.write_text(markdown(known))
            print(outcome.name, outcome.verdict, outcome.reason, outcome.seconds, file=sys.stderr, flush=True)
    write(RESULTS, known.values(), everything)
    TABLE.write_text(markdown(known))
    found = figures(known)
    print(json.dumps(found))
    return int(not found["within_aims"])


def families() -> list[str]:
    """Those that torch.export can trace."""
    return [row["entry"] for row in json.loads(LIST.read_text()) if row["status"] == "exports"]


def outcome_of(name: str) -> Outcome:
    """The audit of a model; where its process dies or hangs, that is its reason."""
    absent = next((each.package for each in entries() if each.name == name and not is_installed(each)), None)
    if absent is not None:
        return Outcome(name=name, verdict="skipped", reason=f"{absent} is not installed")
    try:
        outcome: Outcome = in_process(tried, name, seconds=SECONDS)
    except RuntimeError as error:
        outcome = Outcome(name=name, verdict="defect", reason=str(error))
    return outcome


def tried(name: str) -> Outcome:
    """Audit a model; whatever it raises is its reason."""
    declare_vision_operators()
    quiet()
    start = perf_counter()
    outcome = Outcome(name=name, verdict="equal")
    for job in jobs_of(name):
        outcome = _tried(job, outcome)
        if outcome.verdict != "equal":
            break
    return replace(outcome, seconds=round(perf_counter() - start, 1))


def _tried(job: Job, outcome: Outcome) -> Outcome:
    try:
        batches = batches_of(open_data(job))
        graph = trace(job, batches[0][0])
        cuts = even_cuts(graph, SHARDS)
        found = audit(job, batches, graph, cuts)
    except HydraplanError as error:
        return replace(outcome, verdict="refused", reason=" ".join(str(error).replace(LIBRARIES, "").split()))
    except Exception as error:  # a defect of ours, as far as anyone knows
        return replace(outcome, verdict="defect", reason=f"unexpected {reason(error)}")
    verdict = "equal" if found.verdict == "equal" else "refused"
    text = "" if verdict == "equal" else f"job {job.name}: {found.text}".replace(LIBRARIES, "")
    return replace(outcome, verdict=verdict, reason=text, shards=len(cuts) + 1)


def jobs_of(name: str) -> list[Job]:
    """What is audited of a model."""
    if any(each.name == name for each in entries()):
        target = partial(Target, arguments=(("name", name),))
        module = "hydraplan.tools.libraries.models"
        rows = Target(path=f"{module}:rows", arguments=(("count", STEPS * ROWS), ("name", name)))
        return [_job("as-made", target(path=f"{module}:make"), rows, Target(path=f"{module}:loss"))]
    module = "hydraplan.tools.families.models"
    rows = Target(path=f"{module}:rows", arguments=(("count", STEPS * ROWS), ("name", name)))
    given: tuple[tuple[str, Value], ...] = (("dropout", True), ("name", name))
    return [_job("with-dropout", Target(path=f"{module}:make", arguments=given), rows)]


def _job(name: str, model: Target, data: Target, loss: Target | None = None) -> Job:
    return Job(
        name=name,
        model=model,
        data=data,
        loss=loss,
        optimizer=Target(path="AdamW", arguments=(("lr", 0.001), ("weight_decay", 0.1))),
        steps=STEPS,
        batch_size=ROWS,
        microbatches=1,
        seed=SEED,
        threads=1,
        precision="fp32",
    )


# -- what is written ----------------------------------------------------------------------------------


def figures(known: Mapping[str, Outcome]) -> dict[str, object]:
    """The numbers of the last line."""
    own, others = families(), [each.name for each in entries()]
    counted = {
        what: Counter(known[name].verdict for name in names if name in known)
        for what, names in (("families", own), ("libraries", others))
    }
    there = [name for name in others if name in known and known[name].verdict != "skipped"]
    defects = sum(each["defect"] for each in counted.values())
    enough = counted["families"]["equal"] >= EQUAL_FAMILIES and (
        100 * counted["libraries"]["equal"] >= EQUAL_PERCENT * len(there) if there else True
    )
    return {
        **{what: dict(sorted(count.items())) for what, count in counted.items()},
        "not_tried": sum(name not in known for name in (*own, *others)),
        "distinct_libraries": len({name.partition("/")[0] for name in there}),
        "defects": defects,
        "within_aims": not defects and enough,
    }


def markdown(known: Mapping[str, Outcome]) -> str:
    """AUDIT.md."""
    found = figures(known)
    parts = [
        "# The audit, by model",
        "",
        f"transformers {version('transformers')}, torch {version('torch')}. Written by `make bench NAME=audit`.",
        "",
        "Each model is tiny, cut into at most four shards and audited: two training steps of the real model beside two",
        "of its cut graph, losses, gradients, buffers and weights to the bit. Families of transformers have all their",
        "dropouts; models of other libraries are as their constructors leave them.",
        "",
        "| | equal | refused | defect | skipped |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for what in ("families", "libraries"):
        count = found[what]
        assert isinstance(count, dict)
        numbers = " | ".join(str(count.get(each, 0)) for each in ("equal", "refused", "defect", "skipped"))
        parts.append(f"| {what} | {numbers} |")
    for title, verdict in (("Defects", "defect"), ("Refused", "refused"), ("Skipped", "skipped")):
        own = [each for _, each in sorted(known.items()) if each.verdict == verdict]
        if own:
            parts += ["", f"## {title}", "", "| model | reason |", "| --- | --- |"]
            parts += [f"| {each.name} | {cell(each.reason)} |" for each in own]
    equal = [name for name, each in sorted(known.items()) if each.verdict == "equal"]
    return "\n".join([*parts, "", "## Equal", "", ", ".join(equal)]) + "\n"


def read(path: Path) -> list[Outcome]:
    """The outcomes of earlier runs."""
    return [Outcome(**row) for row in json.loads(path.read_text())] if path.exists() else []


def write(path: Path, outcomes: Iterable[Outcome], order: list[str]) -> None:
    """An outcome a line."""
    place = {name: number for number, name in enumerate(order)}
    known = sorted((each for each in outcomes if each.name in place), key=lambda each: place[each.name])
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(each)) for each in known) + "\n]\n")


if __name__ == "__main__":
    sys.exit(main())
