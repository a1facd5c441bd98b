"""Importing what a workload names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydraplan.planner.frontend.users.imports import load
from hydraplan.plans.language.errors import WorkloadError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_loads_from_the_working_directory_and_searches_it_last(folder: Path) -> None:
    (folder / "my_models.py").write_text("def small(width=3):\n    return width\nclass Nest:\n    make = small\n")
    assert load("my_models:small")(width=5) == 5
    assert load("my_models:Nest.make")() == 3
    assert sys.path[-1] == str(folder)


def test_folders_named_as_ours_are_the_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {str(path) for path in Path(__file__).parents}  # pytest puts tests/ on the path, whose folders mirror ours
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each and each not in ours])
    for name in ("plans", "tools", "runtime", "planner"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"def mine():\n    return {name!r}\n")
        assert load(f"{name}:mine")() == name


def test_a_folder_of_the_user_hides_nothing(folder: Path) -> None:
    for name in ("json", "hydraplan"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('shadowed')")
    assert load("json:dumps")([1]) == "[1]"
    with pytest.raises(WorkloadError, match="this project's own package: give your folder or module another name"):
        load("hydraplan.tools.no_such_model:build")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os.path", "write package.module:callable"),
        ("os path:join", "write package.module:callable"),
        ("os:path:join", "write package.module:callable"),
        (":join", "write package.module:callable"),
        ("no_such_package.sub:f", "no module 'no_such_package'"),
        ("os.path:joyn", "did you mean 'join'"),
        ("os:name", "is a str, not something to call"),
        ("broken:f", "importing broken failed: ValueError: on purpose"),
        ("exits:f", r"importing exits failed: it called sys.exit\(3\): let it raise an error"),
        ("needs_other:f", "imports 'no_such_dependency', which is not installed"),
    ],
)
def test_says_what_is_wrong(folder: Path, path: str, message: str) -> None:
    (folder / "broken.py").write_text("raise ValueError('on purpose')")
    (folder / "exits.py").write_text("import sys\nsys.exit(3)")
    (folder / "needs_other.py").write_text("import no_such_dependency")
    with pytest.raises(WorkloadError, match=message):
        load(path)
    assert os.getcwd() == str(folder)
