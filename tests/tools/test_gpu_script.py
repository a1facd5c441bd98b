"""The script for whoever has a GPU works: its parts run here on the CPU backing, with the libraries that it names."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hydraplan
from hydraplan.tools.gpu import __main__ as script
from hydraplan.tools.gpu.parts import PARTS

HERE = Path(hydraplan.__file__).resolve().parent
ABSENT = ("cyclopts", "huggingface_hub", "hypothesis", "peft", "psutil", "pynvml", "pytest", "transformers")


def test_it_runs_from_a_checkout_with_no_other_libraries(tmp_path: Path) -> None:
    """In another folder, without installation: what it does not name cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n")
    command = [sys.executable, str(HERE / "tools" / "gpu"), "--backing", "cpu", "--small", "--parts", "bits", "memory"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["machine"]["backing"] == "cpu"
    bits, memory = found["parts"]["bits"], found["parts"]["memory"]
    assert bits["status"] == memory["status"] == "well"
    assert bits["plans"] == 2
    assert 0 < memory["counted_mib"] <= memory["planned_mib"] <= memory["budget_mib"] == 1.0
    assert "budget_mib 1.000" in done.stdout


def test_the_resident_part_gives_a_ratio() -> None:
    found = PARTS["resident"]("cpu", True)
    assert isinstance(found["ratio"], float) and found["ratio"] > 0


def test_parts_have_their_limits_and_stay_below_eight_minutes() -> None:
    assert script.LIMITS_S.keys() == PARTS.keys()
    assert sum(script.LIMITS_S.values()) < 480


def asked(**more: object) -> argparse.Namespace:
    return argparse.Namespace(**{"backing": "cpu", "small": True} | more)


def test_a_part_that_takes_too_long_or_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(script.LIMITS_S, "contract", 0.05)
        assert script.in_process("contract", asked(), [])["status"] == "out of time"
    row = script.in_process("contract", asked(backing="tpu"), [str(HERE.parent)])
    assert row["status"] == "failed"
    assert "unknown backing 'tpu'" in str(row["failed"])


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script, "find_spec", lambda name: None if name in ("pulp", "rich") else object())
    assert script.main(["--backing", "cpu"]) == 2
    assert "missing: pulp, rich; install them, or give their wheels" in capsys.readouterr().out


def test_wheels_in_a_folder_are_imported_from(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "some-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_library/__init__.py", "value = 3\n")
    (tmp_path / "made").mkdir()
    package, wheels = script.import_path(tmp_path / "made", tmp_path / "wheels")
    assert (Path(package) / "hydraplan" / "tools" / "gpu" / "__main__.py").is_file()
    assert (Path(wheels) / "some_library" / "__init__.py").read_text() == "value = 3\n"
