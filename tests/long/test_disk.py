"""A full disk at every write of a run, and a disk that really is small."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults import Faults, How, two_jobs
from support.staggered import strict_json

from hydraplan.runtime import execute

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("how", ["once", "this file", "all"])
def test_every_write(faults: Faults, how: How) -> None:
    for at in range(faults.operations):
        faults.check(at, how)


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("small", [16, 24, 28, 32, 40, 48, 64, 96], indirect=True)
def test_a_small_disk_keeps_what_it_has_room_for(small: Path, faults: Faults) -> None:
    result = execute(two_jobs(), small / "run")
    for job in result.jobs:
        assert (job.weights is None) == ("could not be written" in str(job.error))
        faults.check_weights(job)
    assert strict_json(small / "run" / "record.json")["format"] == "hydraplan-run/2", "as old as there was room for"
