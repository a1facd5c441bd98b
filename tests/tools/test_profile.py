"""`hydraplan profile`: which GPUs there are, and which entry of the catalogue each is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fakenvml import GIB, FakeNvml, plant
from support.whole import PROFILE

from hydraplan.planner.costs import calibrate
from hydraplan.planner.costs.calibrate import read_profile
from hydraplan.planner.costs.catalogue import name_of_card, profiles
from hydraplan.tools.cli import main


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is not what is tested here."""
    monkeypatch.setattr(calibrate, "calibrate", lambda name, threads: PROFILE)


def test_gpus_are_shown_with_their_entry_and_unknown_ones_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, FakeNvml())
    assert main(["profile", "-o", str(tmp_path / "p.json")]) == 0
    shown = capsys.readouterr().out
    assert "NVIDIA L4" in shown and " l4" in shown and "PCIe 4 x8" in shown
    assert "the catalogue has no NVIDIA Unheard Of 9000: write the profile of a card like it" in shown
    assert read_profile(tmp_path / "p.json") == PROFILE
    assert main(["profile", "-o", str(tmp_path / "p.json"), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["gpus"]
    assert (first["profile"], second["profile"]) == ("l4", None)
    assert (first["total_bytes"], first["free_bytes"]) == (23 * GIB, 9 * GIB)


def test_without_a_driver_nothing_is_said_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = plant(monkeypatch, FakeNvml())
    fake.refuses["nvmlInit"] = 12  # NVML_ERROR_LIBRARY_NOT_FOUND
    assert main(["profile", "-o", str(tmp_path / "p.json")]) == 0
    assert "GPU" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("NVIDIA GeForce RTX 2080 Ti", "rtx-2080-ti"),
        ("GeForce RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "h200"),
    ],
)
def test_cards_by_the_names_that_drivers_give_them(card: str, name: str | None) -> None:
    assert name_of_card(card) == name


def test_every_entry_of_a_gpu_has_a_card() -> None:
    cards = ["GeForce RTX 2080 Ti", "GeForce RTX 3090", "GeForce RTX 4090", "RTX A6000", "T4", "L4", "V100-SXM2-16GB"]
    cards += ["A10", "A100-SXM4-40GB", "A100-SXM4-80GB", "H100 80GB HBM3", "H200"]
    assert {name_of_card(card) for card in cards} | {"server-cpu"} == set(profiles())
