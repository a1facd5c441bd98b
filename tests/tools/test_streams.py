"""Streams that are closed, full or have no reader: the command goes on, and says by its exit code what was not told."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import ROOT
from support.realplan import lm_job, real_plan
from support.staggered import read_losses, strict_json

from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.workload import Target
from hydraplan.tools.streams import Steady


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_what_cannot_be_written_is_dropped_and_known() -> None:
    steady = Steady(Full())
    print("a", file=steady)
    steady.writelines(["b", "c"])
    steady.flush()
    assert isinstance(steady.broken, OSError)
    assert not steady.isatty()
    fine = io.StringIO()
    print("a", file=Steady(fine))
    assert fine.getvalue() == "a\n"


def test_a_closed_stream_is_as_a_full_one() -> None:
    closed = io.StringIO()
    closed.close()
    steady = Steady(closed)
    print("a", file=steady)
    assert isinstance(steady.broken, ValueError)


def test_characters_that_a_stream_has_not_are_no_fault_of_the_system() -> None:
    steady = Steady(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(UnicodeEncodeError):
        steady.write("\u00e4")
    assert steady.broken is None


@pytest.mark.parametrize(
    ("to", "code"),
    [
        (">/dev/full 2>/dev/full", 1),
        (">&- 2>&-", 0),
        pytest.param("2>&1 | head -n 1", 0, marks=pytest.mark.long),
        pytest.param(">&- 2>&- <&-", 0, marks=pytest.mark.long),
    ],
)
def test_a_run_is_kept_though_nobody_can_be_told(to: str, code: int, tmp_path: Path) -> None:
    """With a data set that prints whenever it is asked."""
    talking = Target(path="support.tinylm:talking")
    (tmp_path / "plan.json").write_text(dumps(real_plan([lm_job(data=talking)], repeat=4)))
    program = "import sys; sys.path.append('tests'); from hydraplan.tools.cli import script; script()"
    line = f'"{sys.executable}" -c "{program}" execute "{tmp_path}/plan.json" -o "{tmp_path}/run" {to}'
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert strict_json(tmp_path / "run" / "record.json")["status"] == "finished"
    assert (tmp_path / "run" / "weights" / "a" / "model.safetensors").is_file()
    assert len(read_losses(tmp_path / "run" / "losses" / "a.csv")) == 4
