"""Names of files, and what is told of a directory that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraplan.plans.language.errors import RunError
from hydraplan.runtime.files import Disk
from hydraplan.runtime.results.directory import RunDirectory, file_name, refuse_existing

ODD = [".", "..", ".hidden", "a/b", "../../etc", "lr=0.1", "a b", "ä" * 100, "名" * 100, "x" * 100, "x\0y", "~", "-rf"]


@pytest.mark.parametrize("name", ODD)
def test_a_name_is_one_file_in_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{file_name(name)}.csv").write_text("")
    (tmp_path / file_name(name)).mkdir()
    assert len(list(tmp_path.iterdir())) == 2


@given(st.text(min_size=1, max_size=100), st.text(min_size=1, max_size=100))
def test_two_names_are_two_files(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)
    assert len(file_name(one)) <= 200


def left(folder: Path, status: str) -> Path:
    """What a run has left: one job finished, its record not yet told; one under way."""
    (folder / "weights" / "a").mkdir(parents=True)
    rows = [
        {"job": "a", "status": "training", "trained": 4, "steps": 4},
        {"job": "b", "status": "training", "trained": 3, "steps": 9},
    ]
    (folder / "record.json").write_text(json.dumps({"status": status, "jobs": rows}))
    return folder


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("training", "is the left-over of a run that was killed"),
        ("preparing", "is the left-over of a run that was killed"),
        ("interrupted", "holds a run that was interrupted or failed"),
        ("finished", "holds a run that has finished"),
    ],
)
def test_a_left_over_is_told_with_what_is_usable(status: str, says: str, tmp_path: Path) -> None:
    run = left(tmp_path / "run", status)
    with pytest.raises(RunError) as caught:
        refuse_existing(run)
    told = str(caught.value)
    assert f"{run} {says} (a: finished, usable in {run}/weights/a, b: training, 3 of 9 steps; " in told
    assert f"hydraplan report {run} shows it" in told and "name a new run directory" in told


def test_a_run_that_goes_on_is_told(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run", Disk())
    left(tmp_path / "run", "training")
    with pytest.raises(RunError, match="holds a run that is going on"):
        RunDirectory(tmp_path / "run", Disk())
    run.close()
    with pytest.raises(RunError, match="is the left-over of a run that was killed"):
        RunDirectory(tmp_path / "run", Disk())


def test_anything_else_exists(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(RunError, match=f"{name} exists; name a new run directory"):
            refuse_existing(tmp_path / name)


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        RunDirectory(tmp_path / "file" / "run", Disk())
