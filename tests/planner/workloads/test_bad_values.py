"""Bad values and bad syntax in a workload file: told at their place, at once, and never as a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hydraplan.planner.workloads.file import divisors, load
from hydraplan.plans.file import reading
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.tools.cli import main

TEXT = """[cluster]
profile = "rtx-2080-ti"
host = { memory = "4GiB", update_workers = 1 }

[[cluster.devices]]
name = "gpu"
backing = "cpu"
budget = "1GiB"
bandwidth = "12GB/s"

[[jobs]]
name = "a"
model = { call = "nobody.models:small", width = 8 }
data = "nobody.data:rows"
optimizer = { name = "AdamW", lr = 0.001 }
steps = 5
batch_size = 8
microbatches = 2
seed = 0
threads = 1
"""

BAD = [
    ("lr = 0.001", 'lr = "a/b"', "jobs[0].optimizer.lr", 'lr is "a/b"; write a number from 0'),
    ("lr = 0.001", "lr = [1]", "jobs[0].optimizer.lr", "lr is [1]; write a number from 0"),
    ("lr = 0.001", "lr = -1e-3", "jobs[0].optimizer.lr", "lr is -0.001; write a number from 0"),
    ("lr = 0.001", "lr = true", "jobs[0].optimizer.lr", "lr is true; write a number from 0"),
    ("lr = 0.001", "betas = [0.9, 2]", "jobs[0].optimizer.betas", "two numbers, each from 0, below 1"),
    ("lr = 0.001", "weight_decay = -1", "jobs[0].optimizer.weight_decay", "write a number from 0"),
    ("width = 8", f"width = {'9' * 400}", "jobs[0].model.width", "a number of 1329 bits is too large"),
    ("seed = 0", f"seed = {2**63}", "jobs[0].seed", "a whole number from 0, below 2^63"),
    ("seed = 0", f"seed = {'9' * 4000}", "jobs[0].seed", "a number of 13288 bits is not allowed"),
    ("threads = 1", "threads = 5000", "jobs[0].threads", "a whole number from 1 to 1024"),
    ("update_workers = 1", "update_workers = 99999", "cluster.host.update_workers", "99999 is not allowed"),
    ('backing = "cpu"', 'backing = "cuda:one"', "cluster.devices[0].backing", "cuda:N"),
    ("batch_size = 8", "batch_size = 2000000001", "jobs[0].microbatches", "does not divide the batch size 2000000001"),
    ("batch_size = 8", f"batch_size = {2**61 - 1}", "jobs[0].microbatches", "write one of 1 (or a larger divisor"),
    ("batch_size = 8", f"batch_size = {'9' * 80}", "jobs[0].batch_size", "whole number from 1"),
    ("steps = 5", f"steps = {2**64}", "jobs[0].steps", "whole number from 1"),
    ('memory = "4GiB"', f'memory = "{"9" * 50}GiB"', "cluster.host.memory", "a size such as"),
    ('name = "a"', 'name = ".."', "jobs[0].name", "letters, digits and . _ -, at most 100"),
    ('name = "a"', 'name = "."', "jobs[0].name", "letters, digits and . _ -, at most 100"),
    ('name = "a"', f'name = "{"a" * 101}"', "jobs[0].name", "letters, digits and . _ -, at most 100"),
    ('data = "nobody.data:rows"', 'data = "nobody.data:rows\\n"', "jobs[0].data.call", "package.module:callable"),
]


def told(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "w.toml"
    path.write_bytes(content)
    with pytest.raises(WorkloadError) as caught:
        load(path)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize(("old", "new", "place", "says"), BAD, ids=[f"{each[1][:40]}" for each in BAD])
def test_a_bad_value_is_told_at_its_place(old: str, new: str, place: str, says: str, tmp_path: Path) -> None:
    assert old in TEXT
    said = told(tmp_path, TEXT.replace(old, new, 1).encode())
    assert f"{place}: " in said and says in said


SYNTAX = [
    ("no UTF-8", TEXT.encode().replace(b'"nobody.data', b'"\xff\xfenobody.data'), 14, "not UTF-8 text"),
    ("a byte order mark", b"\xef\xbb\xbf" + TEXT.encode(), 1, "byte order mark"),
    ("cut off", TEXT[: TEXT.index('"nobody.data') + 5].encode(), 14, "TOML"),
    ("nested deep", TEXT.replace("width = 8", "width = " + "[" * 100_000).encode(), 13, "nested too deep"),
    ("very many digits", TEXT.replace("width = 8", "width = " + "9" * 5000).encode(), 13, "digits"),
    ("a missing quote", TEXT.replace('"nobody.data:rows"', '"nobody.data:rows').encode(), 14, "TOML"),
    ("a key twice", TEXT.replace("steps = 5", "steps = 5\nsteps = 6").encode(), 17, "TOML"),
]


@pytest.mark.parametrize(("content", "line", "says"), [each[1:] for each in SYNTAX], ids=[each[0] for each in SYNTAX])
def test_syntax_is_told_at_its_line(content: bytes, line: int, says: str, tmp_path: Path) -> None:
    said = told(tmp_path, content)
    assert says in said and re.search(rf"\bline {line}\b", said), said


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.toml"
    with path.open("wb") as file:
        file.truncate(reading.MOST_WORKLOAD_BYTES + 1)
    assert main(["plan", str(path), "-o", str(tmp_path / "p.json")]) == 2
    assert "line 1: more than 4.0 MiB; no larger file is read" in capsys.readouterr().err


def test_divisors_are_found_at_once() -> None:
    assert divisors(1) == [1] and divisors(97) == [1, 97] and divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(2**62) == [2**power for power in range(14)], "those below ten thousand"
    assert divisors(2_000_000_001)[:2] == [1, 3] and divisors(2**61 - 1) == [1], "a prime"
