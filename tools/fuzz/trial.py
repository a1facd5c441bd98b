"""One mutant: what has to hold of it, whatever it says.

reading, check, inspect, diff    an answer or findings with line, pointer, cause and remedy; nothing unexpected
where `check` accepts            `inspect` shows it, and it is written and read back as it was
where it trains the same jobs    it is trained, or refused before: the same losses and weights to the bit, every file
                                 there, and no device over its budget
"""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from random import Random

from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.digests import decisions_digest, facts_digest, lists_digest
from hydraplan.plans.language.errors import HydraplanError, InvalidPlanError
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.prediction.simulate import predict
from hydraplan.tools.cli import main
from hydraplan.tools.fuzz.mutations import GENTLE, MUTATIONS, fact_changed

LONGEST_SECONDS = 60
"""Of one mutant; far more than any takes that ends."""
LONGEST_MESSAGE = 2_000
LONGEST_RUN_US = 5_000_000
"""Predicted; a plan over a link of a byte a second is right, and too slow to train here."""
MOST_WORKERS = 64
FINE, INVALID = 0, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    number: int
    how: str
    """Its mutations, in words."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    mutant: Mutant
    holds: bool
    trained: bool = False
    defects: tuple[str, ...] = ()


class Hang(BaseException):
    """A mutant that does not end."""


def mutant_of(text: str, seed: int, number: int, *, facts: bool = False) -> Mutant:
    """One of a seed's mutants: one to three mutations, and in a third of them digests that fit again. `facts`: one fact
    is changed instead, and sealed."""
    random = Random(f"{seed}/{number}")
    if facts:
        return Mutant(number=number, how="fact_changed + resealed", text=resealed(fact_changed(text, random))[0])
    choices = GENTLE if random.random() < 0.35 else MUTATIONS
    how = []
    for _ in range(random.choice([1, 1, 2, 3])):
        mutation = random.choice(choices)
        try:
            text = mutation(text, random)
        except (IndexError, ValueError):  # nothing of the kind is left in the text
            continue
        how.append(mutation.__name__)
    if random.random() < 1 / 3:
        text, sealed = resealed(text)
        how += ["resealed"] if sealed else []
    return Mutant(number=number, how=" + ".join(how), text=text)


def resealed(text: str) -> tuple[str, bool]:
    """The text with the digests of what it says, as someone who knows how would write it."""
    try:
        read = loads(text)
    except InvalidPlanError:
        return text, False
    plan = read.plan
    sealed = replace(
        plan,
        facts_digest=facts_digest(plan.facts),
        lists_from=decisions_digest(plan.decisions),
        lists_digest=lists_digest(plan.phases),
    )
    return dumps(sealed, read.notes), True


def try_read(mutant: Mutant, original: Path, folder: Path) -> Trial:
    """Everything that needs no torch."""
    path = folder / "mutant.json"
    path.write_bytes(mutant.text.encode("utf-8", "surrogatepass"))
    defects: list[str] = []
    holds = False
    with _ending(defects):
        code, said = _command("check", str(path), "--json")
        holds = code == FINE
        defects += _odd_answer("check", code, said, (FINE, INVALID))
        if code == INVALID:
            defects += _odd_findings(said, mutant.text)
        wanted = FINE if holds else INVALID
        code, said = _command("inspect", str(path), "--timeline", str(folder / "trace.json"))
        defects += _odd_answer("inspect", code, said, (wanted,))
        code, said = _command("diff", str(original), str(path))
        defects += _odd_answer("diff", code, said, (FINE,) if holds else (FINE, INVALID))
        if holds:
            document = loads(mutant.text)
            if loads(dumps(document.plan, document.notes)).plan != document.plan:
                defects.append("it is not read as it was written")
    return Trial(mutant=mutant, holds=holds, defects=tuple(defects))


def may_train(mutant: Mutant, original: Plan) -> bool:
    """Whether a mutant that holds trains the same jobs, on what there is here, in a moment."""
    plan = loads(mutant.text).plan
    cluster = plan.workload.cluster
    return (
        plan.workload.jobs == original.workload.jobs
        and all(device.backing == "cpu" for device in cluster.devices)
        and cluster.update_workers <= MOST_WORKERS
        and predict(plan).makespan_us <= LONGEST_RUN_US
    )


def try_training(trial: Trial, expected: dict[str, str], folder: Path) -> Trial:
    """Train a mutant that holds; `expected`: what the original's run left (`results_of`)."""
    from hydraplan.runtime import execute

    plan = loads(trial.mutant.text).plan
    defects = list(trial.defects)
    trained = False
    with _ending(defects):
        try:
            result = execute(plan, folder / "run")
        except HydraplanError as error:
            defects += [] if error.exit_code else ["a refusal without an exit code"]
        else:
            trained = True
            found = results_of(folder / "run")
            names = sorted({*expected, *found})
            defects += [f"other bits or no file: {name}" for name in names if expected.get(name) != found.get(name)]
            defects += [f"{job.job} failed: {job.error}" for job in result.failed]
            defects += [
                f"{device.device} held {device.peak_bytes} of {device.budget_bytes} bytes"
                for device in result.devices
                if device.peak_bytes > device.budget_bytes
            ]
    return replace(trial, trained=trained, defects=tuple(defects))


def results_of(run: Path) -> dict[str, str]:
    """File of weights or losses -> digest."""
    files = [*run.glob("weights/**/*"), *run.glob("losses/*")]
    return {str(file.relative_to(run)): _digest(file) for file in files if file.is_file()}


def _digest(file: Path) -> str:
    """Of what a file says: safetensors writes the entries of a header in any order."""
    content = file.read_bytes()
    if file.suffix == ".safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        content = json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]
    return sha256(content).hexdigest()


@contextmanager
def _ending(defects: list[str]) -> Iterator[None]:
    """Whatever is raised within, or does not end, is a defect."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_SECONDS)
    try:
        yield
    except Hang:
        defects.append(f"it has not ended after {LONGEST_SECONDS} s")
    except Exception as error:
        defects.append(f"{type(error).__name__}: {str(error)[:200]}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _command(*line: str) -> tuple[int, str]:
    """Exit code of a command line, and all that it printed."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(line)
    return code, said.getvalue()


def _odd_answer(command: str, code: int, said: str, wanted: tuple[int, ...]) -> list[str]:
    defects = [] if code in wanted else [f"{command} ended with {code}: {said.strip()[-200:]}"]
    if "Traceback" in said or "unexpected " in said.partition("error: ")[2][:12]:
        defects.append(f"{command} did not expect it: {said.strip()[-200:]}")
    longest = max(map(len, said.splitlines()), default=0)
    if code == INVALID and longest > 2 * LONGEST_MESSAGE:
        defects.append(f"{command} says a line of {longest} characters")
    return defects


def _odd_findings(said: str, text: str) -> list[str]:
    document = json.loads(said[: said.rindex("}") + 1].split("\nerror: ")[0])
    lines = text.count("\n") + 2
    defects = []
    if document["valid"] or not document["findings"]:
        defects.append("refused without a finding")
    for finding in document["findings"]:
        placed = isinstance(finding["line"], int) and 1 <= finding["line"] <= lines
        if not placed or not finding["cause"] or not finding["remedy"]:
            defects.append(f"a finding without line, cause or remedy: {finding}")
        if finding["pointer"] and not finding["pointer"].startswith("/"):
            defects.append(f"no pointer: {finding}")
        if len(finding["cause"]) + len(finding["remedy"]) > LONGEST_MESSAGE:
            defects.append(f"a finding of {len(finding['cause'])} characters: {finding['cause'][:80]}")
    return defects
