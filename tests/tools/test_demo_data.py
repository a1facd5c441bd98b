"""The demo's data: the same blocks each time, whatever order the folder lists its files in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hydraplan.planner.workloads.file import parse
from hydraplan.plans.language.workload import Profile
from hydraplan.tools.demo.data import ByteBlocks, python_source, read_source

DEMO = Path(__file__).parents[2] / "tools" / "demo" / "demo.toml"


def test_blocks() -> None:
    blocks = ByteBlocks(b"abcdefgh", 3)
    assert len(blocks) == 2
    assert blocks[1]["input_ids"].tolist() == list(b"def") == blocks[1]["labels"].tolist()
    assert blocks[0]["input_ids"].dtype == torch.int64
    with pytest.raises(IndexError):
        blocks[2]


def test_source_is_read_in_the_order_of_paths(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("bb")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("ax")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text("no")
    (tmp_path / "c.txt").write_text("no")
    assert read_source(tmp_path, 100) == b"axbb"
    assert read_source(tmp_path, 3) == b"axb"


def test_python_source() -> None:
    data, again = python_source(block=64, most_bytes=10_000), python_source(block=64, most_bytes=10_000)
    assert len(data) == 10_000 // 64
    assert all(torch.equal(data[i]["input_ids"], again[i]["input_ids"]) for i in range(len(data)))
    with pytest.raises(ValueError, match="at least"):
        python_source(block=1)


def test_the_demo_is_what_its_issue_asks_for() -> None:
    profile = Profile(name="p", flops_per_s=1, bytes_per_s=1, node_ns=1, copy_bytes_per_s=1, update_bytes_per_s=1)
    workload = parse(DEMO.read_text(), name="demo", folder=DEMO.parent, read_profile=lambda name, folder: profile)
    assert len(workload.jobs) >= 6 and len(workload.cluster.devices) == 2
    sizes = set()
    for job in workload.jobs:
        arguments = dict(job.model.arguments)
        layers, width = arguments["n_layer"], arguments["n_embd"]
        assert isinstance(layers, int) and isinstance(width, int) and arguments["resid_pdrop"] == 0.1
        assert "tie_word_embeddings" not in arguments, "tied, as GPT-2 is"
        sizes.add(12 * layers * width * width * 4)
    assert len(sizes) == 2
    assert all(device.budget_bytes < max(sizes) for device in workload.cluster.devices)
