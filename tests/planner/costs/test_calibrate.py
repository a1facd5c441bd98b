"""Calibration, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hydraplan.planner.costs import calibrate
from hydraplan.planner.costs.calibrate import read_profile, write_profile
from hydraplan.planner.costs.catalogue import profiles
from hydraplan.plans.language.errors import WorkloadError


def test_measures_every_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "SECONDS_EACH", 0.0)
    before = torch.get_num_threads()
    profile = calibrate.calibrate("here", threads=1)
    assert torch.get_num_threads() == before
    assert profile.name == "here"
    assert profile.functions_per_s is not None
    assert profile.bf16_flops_per_s is not None
    assert profile.bf16_flops_per_s > 10**7
    for rate in (profile.flops_per_s, profile.bytes_per_s, profile.copy_bytes_per_s, profile.update_bytes_per_s):
        assert rate > 10**7
    assert 100 < profile.node_ns < 10**7


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    for profile in (profiles()["server-cpu"], replace(profiles()["t4"], name="mine")):
        write_profile(profile, path)
        assert read_profile(path) == profile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has no .format."),
        ({"flops_per_s": 1.5}, "flops_per_s is 1.5; write a whole number"),
        ({"flops_per_s": True}, "flops_per_s is True"),
        ({"node_ns": 0}, "node_ns is 0"),
        ({"name": ""}, "name is ''; write a name"),
        ({"flops": 3}, 'unknown flops, did you mean "flops_per_s"'),
        ({"flops_per_s": 2**63}, "flops_per_s is 9223372036854775808; write a whole number above 0"),
        ({"node_ns": -5}, "node_ns is -5; write a whole number above 0"),
    ],
)
def test_reads_strictly(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "cpu.json"
    write_profile(profiles()["server-cpu"], path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WorkloadError, match=message):
        read_profile(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON"), ('{"a": NaN}', "NaN is no number"), ('{"a": 1, "a": 1}', "occurs twice"), ("[]", "has no")],
)
def test_refuses_what_is_no_profile(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=message):
        read_profile(path)


def test_a_file_from_before_bf16_was_measured_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    write_profile(profiles()["a10"], path)
    content = json.loads(path.read_text())
    del content["bf16_flops_per_s"]
    path.write_text(json.dumps(content))
    assert read_profile(path) == replace(profiles()["a10"], bf16_flops_per_s=None)


def test_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    write_profile(profiles()["t4"], path)
    path.write_text(path.read_text().replace('  "node_ns": 5000,\n', ""))
    with pytest.raises(WorkloadError, match="missing node_ns"):
        read_profile(path)
    with pytest.raises(WorkloadError, match="No such file"):
        read_profile(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"flops_per_s": ' + b"9" * 5000 + b"}",
        b"",
        b'{"a": 1, "a": 2}',
    ],
)
def test_a_file_that_is_no_profile_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cpu.json").write_bytes(content)
    with pytest.raises(WorkloadError, match=r"cpu\.json is no JSON: "):
        read_profile(tmp_path / "cpu.json")
