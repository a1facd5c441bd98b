"""The fuzz of plans: three hundred mutants, each refused in words or as good as its original; some of them trained.

`make test-long` has more (`python -m hydraplan.tools.fuzz --mutants N --seed S`).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from support.drawnplan import drawn_plan
from support.toyplan import toy_cluster, toy_layout, toy_plan, toy_workload

from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.plan import Placement, Plan
from hydraplan.runtime import execute
from hydraplan.tools.fuzz import trial as fuzz
from hydraplan.tools.fuzz.mutations import MUTATIONS, fact_changed, noted
from hydraplan.tools.fuzz.seeds import seed_plans
from hydraplan.tools.fuzz.trial import Mutant, may_train, mutant_of, results_of, try_read, try_training

SEED = 2026
MOST_TRAINED = 12


def toys() -> dict[str, Plan]:
    """Plans that no torch is needed for: a resident slab, shared links, several devices and phases."""
    resident = toy_plan(
        toy_workload(2, cluster=toy_cluster(2, budget_bytes=10 << 20, shared_link=True)),
        toy_layout(3, tied=True),
        [
            Placement(job="a", device="cpu0", steps=4, resident=("0", "0+2"), device_updates=("0",), keep=(1,)),
            Placement(job="b", device="cpu1", steps=4),
        ],
    )
    return {"resident": resident, "streamed": toy_plan(), "drawn": drawn_plan(3), "drawn again": drawn_plan(8)}


@pytest.fixture(scope="module")
def planned() -> dict[str, Plan]:
    return seed_plans()


@pytest.fixture(scope="module")
def expected(planned: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What the original plans train."""
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for name, plan in planned.items():
        execute(plan, folder / name)
        found[name] = results_of(folder / name)
        assert len(found[name]) >= 2 * len(plan.workload.jobs)
    return found


def test_200_mutants_of_toys(tmp_path: Path) -> None:
    plans = toys()
    counts: Counter[bool] = Counter()
    for name, plan in plans.items():
        (tmp_path / f"{name}.json").write_text(dumps(plan))
    for number in range(200):
        name = list(plans)[number % len(plans)]
        trial = try_read(mutant_of(dumps(plans[name]), SEED, number), tmp_path / f"{name}.json", tmp_path)
        assert not trial.defects, (trial.mutant.how, trial.defects)
        counts[trial.holds] += 1
    assert counts[True] > 30 and counts[False] > 80, "both kinds are met"


def test_100_mutants_of_real_plans_and_what_they_train(
    planned: dict[str, Plan], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    trained = 0
    for name, plan in planned.items():
        (tmp_path / f"{name}.json").write_text(dumps(plan))
    for number in range(100):
        name = list(planned)[number % len(planned)]
        trial = try_read(mutant_of(dumps(planned[name]), SEED, number), tmp_path / f"{name}.json", tmp_path)
        if trained < MOST_TRAINED and trial.holds and may_train(trial.mutant, planned[name]):
            trial = try_training(trial, expected[name], tmp_path)
            trained += trial.trained
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert not trial.defects, (trial.mutant.how, trial.defects)
    assert trained == MOST_TRAINED


def test_facts_that_were_changed_and_sealed_are_read_like_any(tmp_path: Path) -> None:
    text = dumps(toys()["resident"])
    (tmp_path / "original.json").write_text(text)
    for number in range(30):
        trial = try_read(mutant_of(text, SEED, number, facts=True), tmp_path / "original.json", tmp_path)
        assert not trial.defects, trial.defects


@pytest.mark.parametrize("mutation", [*MUTATIONS, fact_changed], ids=lambda mutation: mutation.__name__)
def test_a_mutation_is_the_same_for_the_same_seed_and_changes_the_text(mutation: Callable[..., str]) -> None:
    text = dumps(toy_plan())
    mutants = [mutation(text, Random(seed)) for seed in range(20)]
    assert mutants == [mutation(text, Random(seed)) for seed in range(20)]
    assert sum(mutant != text for mutant in mutants) >= 10 and len(set(mutants)) > 3


# -- the fuzz can fail ------------------------------------------------------------------------------


@pytest.fixture
def unchanged(tmp_path: Path) -> tuple[Mutant, Path]:
    text = dumps(toy_plan())
    (tmp_path / "original.json").write_text(text)
    return Mutant(number=0, how="", text=text), tmp_path / "original.json"


def test_a_crash_a_hang_and_a_finding_without_a_line_are_defects(
    unchanged: tuple[Mutant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant, original = unchanged
    assert try_read(mutant, original, tmp_path).holds

    def crash(*_: object) -> None:
        raise KeyError("surprise")

    with monkeypatch.context() as patch:
        patch.setattr("hydraplan.tools.planfile.verify", crash)
        (first, *_) = try_read(mutant, original, tmp_path).defects
        assert first.startswith("check ended with 1: error: unexpected KeyError")

    def endless(*_: object) -> None:
        while True:
            pass

    with monkeypatch.context() as patch:
        patch.setattr("hydraplan.tools.planfile.verify", endless)
        patch.setattr(fuzz, "LONGEST_SECONDS", 1)
        assert try_read(mutant, original, tmp_path).defects == ("it has not ended after 1 s",)

    with monkeypatch.context() as patch:
        patch.setattr("hydraplan.plans.checking.check.nearest_line", lambda *_: None)
        broken = replace(mutant, text=mutant.text.replace('"lr": 0.001', '"lr": -1', 1))
        (first, *_) = try_read(broken, original, tmp_path).defects
        assert first.startswith("a finding without line, cause or remedy")


def test_other_bits_and_lost_weights_are_defects(
    planned: dict[str, Plan], expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    mutant = Mutant(number=0, how="", text=dumps(planned["one"]))
    trial = fuzz.Trial(mutant=mutant, holds=True)
    assert try_training(trial, expected["one"], tmp_path).defects == ()
    shutil.rmtree(tmp_path / "run")
    first, second, *_ = expected["one"]
    other = {**expected["one"], first: "0" * 64, "weights/tied/more.safetensors": expected["one"][second]}
    assert try_training(trial, other, tmp_path).defects == (
        f"other bits or no file: {first}",
        "other bits or no file: weights/tied/more.safetensors",
    )


# -- what it has found --------------------------------------------------------------------------------


def test_a_step_with_a_long_note_is_read_as_it_was_written() -> None:
    text = next(each for each in (noted(dumps(toy_plan()), Random(seed)) for seed in range(99)) if "x" * 3_000 in each)
    document = loads(text)
    assert dumps(document.plan, document.notes) == text
