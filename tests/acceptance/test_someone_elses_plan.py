"""A plan from someone else: what it would run is listed first, and nothing runs that it may not name."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.toyplan import toy_plan, toy_workload

from hydraplan.plans.file.text import dumps
from hydraplan.plans.language.plan import Fingerprint, Plan
from hydraplan.plans.language.workload import Arguments, Target
from hydraplan.tools.cli import main
from hydraplan.tools.planfile import read_plan

LAB = """
import functools, os, subprocess, types
from os import system
from pathlib import Path as Elsewhere
from torch import nn
from torch.hub import load as fetched
import torch
import lab_help

lab_help.ran("imported")
partly = functools.partial(system)
bound = Elsewhere("x").write_text
kept = functools.lru_cache(os.listdir)

class Model(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        lab_help.ran("called")
        self.one, self.two = nn.Linear(4, width), nn.Linear(width, 1)

    def forward(self, x):
        return types.SimpleNamespace(loss=self.two(self.one(x)).square().mean())

def data(items=8):
    lab_help.ran("called")
    return [{"x": torch.arange(4.0) + number} for number in range(items)]
"""
HELP = """
from pathlib import Path

def ran(what):
    Path(f"{what}.txt").write_text("")
"""
WORKLOAD = """
[cluster]
profile = "server-cpu"
host = { memory = "1GiB" }

[[cluster.devices]]
name = "cpu"
budget = "1MiB"
bandwidth = "1GB/s"

[[jobs]]
name = "a"
model = "lab:Model"
data = { call = "lab:data", items = 8 }
optimizer = { name = "SGD", lr = 0.01 }
steps = 2
batch_size = 4
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a user's modules in it."""
    (tmp_path / "lab.py").write_text(LAB)
    (tmp_path / "lab_help.py").write_text(HELP)
    (tmp_path / "w.toml").write_text(WORKLOAD)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("lab", "lab_help", "apart", "pack")]:
        del sys.modules[name]


@pytest.fixture
def planned(here: Path) -> Path:
    """A plan of the user's own workload; nothing has been imported or called, as far as can be seen."""
    path = here / "plan.json"
    assert main(["plan", "w.toml", "-o", str(path), "--quiet"]) == 0
    forget()
    for trace in here.glob("*.txt"):
        trace.unlink()
    return path


def naming(target: str, arguments: Arguments = (), *, of: str = "data", more: tuple[Fingerprint, ...] = ()) -> Plan:
    plan = toy_plan(toy_workload(1))
    (job,) = plan.workload.jobs
    changed = replace(job, **{of: Target(path=target, arguments=arguments)})  # type: ignore[arg-type]
    if of != "model":
        changed = replace(changed, model=Target(path="torch.nn:Identity"))
    if of != "data":
        changed = replace(changed, data=Target(path="torch.utils.data:TensorDataset"))
    return replace(
        plan,
        workload=replace(plan.workload, jobs=(changed,)),
        fingerprints=(
            Fingerprint(name="torch", value="2"),
            Fingerprint(name="data of a", value="0"),
            *more,
        ),
    )


PYTHON = ["os:system", "posix:system", "subprocess:run", "builtins:exec", "shutil:rmtree", "runpy:run_path"]
PYTHON += ["importlib:import_module", "code:interact", "pip:main", "setuptools:setup", "ctypes.util:find_library"]


@pytest.mark.parametrize(
    ("target", "of"), [(target, "data") for target in PYTHON] + [(PYTHON[0], "model"), (PYTHON[2], "loss")]
)
def test_what_comes_with_python_is_refused(
    target: str, of: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "p.json").write_text(dumps(naming(target, (("command", "touch ran.txt"),), of=of)))
    assert main(["execute", "p.json", "-o", "run"]) == 4
    shown = capsys.readouterr().err.splitlines()
    assert f"  {of} of a: {target}(command='touch ran.txt')   [comes with Python]" in shown
    assert re.match(
        rf"error: line \d+, /workload/jobs/0/{of}/path: {of} of a: {target} comes with Python .*; "
        rf"where you trust it with these arguments, add --allow {target}$",
        shown[-1],
    )
    assert not (here / "ran.txt").exists() and not (here / "run").exists()


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("numpy:load", "comes from numpy [0-9.]+, which the plan does not name"),
        ("yaml:load", "comes from PyYAML [0-9.]+, which the plan does not name"),
        ("torch:load", "is no module and no data set of torch"),
        ("torch.hub:load", "is no module and no data set of torch"),
        ("torch.utils.cpp_extension:load", "is no module and no data set of torch"),
        ("hydraplan.tools.cli:main", "is part of hydraplan itself"),
        ("hydraplan.planner.frontend.users.imports:load", "is part of hydraplan itself"),
        ("hydraplan.tools.demo.__main__:hydraplan", "is part of hydraplan itself"),
        ("hydraplan.tools.fuzz.__main__:fuzz", "is part of hydraplan itself"),
        ("hydraplan.tools.families.exportable:write", "is part of hydraplan itself"),
        ("hydraplan.tools.bench.checkpoint:plan", "is part of hydraplan itself"),
        ("hydraplan.tools.bench.soak:main", "is part of hydraplan itself"),
        ("hydraplan.tools.demo.data:Path", "is pathlib.Path, which comes with Python"),
    ],
)
def test_what_is_installed_is_refused_where_it_is_not_named_or_no_model(
    target: str, cause: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "p.json").write_text(dumps(naming(target)))
    assert main(["execute", "p.json", "-o", "run", "--quiet"]) == 4
    assert re.search(f"data of a: {target} {cause}", capsys.readouterr().err)


@pytest.mark.parametrize("target", ["transformers:pipeline", "transformers:AutoTokenizer", "transformers:GPT2Config"])
def test_of_transformers_model_classes_alone(target: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    named = (Fingerprint(name="transformers", value=version("transformers")),)
    (here / "p.json").write_text(dumps(naming(target, of="model", more=named)))
    assert main(["execute", "p.json", "-o", "run", "--quiet"]) == 4
    assert f"{target} is no model class of transformers" in capsys.readouterr().err


def test_a_kernel_of_the_hub_is_code_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (("attn_implementation", "someone/kernels"),)
    (here / "p.json").write_text(dumps(naming("transformers:GPT2LMHeadModel", arguments, of="model")))
    assert main(["execute", "p.json", "-o", "run", "--quiet"]) == 4
    assert "attn_implementation 'someone/kernels' would fetch code and run it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "made"),
    [
        ("lab:system", "posix.system"),
        ("lab:os.system", "posix.system"),
        ("lab:subprocess.run", "subprocess.run"),
        ("lab:partly", "posix"),
        ("lab:bound", "pathlib"),
        ("lab:kept", "posix"),
        ("lab:Elsewhere", "pathlib.Path"),
        ("lab:lab_help.Path", "pathlib.Path"),
        ("lab:data.__call__", "builtins"),
        ("lab:fetched", ""),
        ("lab:torch.load", ""),
    ],
)
def test_where_a_callable_was_made_counts(
    target: str, made: str, planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned.write_text(planned.read_text().replace('"path": "lab:data"', f'"path": "{target}"'))
    assert main(["execute", str(planned), "-o", "run", "--quiet"]) == 4
    said = capsys.readouterr().err
    assert f"data of a: {target} is {made}" in said and f"add --allow {target}" in said
    assert not (planned.parent / "called.txt").exists()


def test_a_plan_of_ones_own_runs_and_is_listed(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(planned), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["code"]
    assert [(row["role"], row["call"], row["origin"], row["jobs"]) for row in rows[:2]] == [
        ("model", "lab:Model()", "lab.py", ["a"]),
        ("data", "lab:data(items=8)", "lab.py", ["a"]),
    ]
    assert rows[2]["call"] == "torch.optim:SGD(lr=0.01)" and not list(planned.parent.glob("*.txt"))
    assert main(["execute", str(planned), "-o", "run"]) == 0
    assert "  data of a: lab:data(items=8)   [lab.py]" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("file", ["lab.py", "lab_help.py"])
def test_changed_code_is_told_before_it_is_imported(
    file: str, planned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = planned.parent / file
    source.write_text("# a comment\n\n" + source.read_text())
    assert main(["execute", str(planned), "-o", "first", "--quiet"]) == 0, "comments are no code"
    forget()
    for trace in planned.parent.glob("*.txt"):
        trace.unlink()
    source.write_text(source.read_text() + "\nmore = 1\n")
    assert main(["execute", str(planned), "-o", "run", "--quiet"]) == 5
    assert re.search(
        rf"line \d+, /fingerprints/\d+: code of {source.stem}: planned with \w+, now \w+", capsys.readouterr().err
    )
    assert not list(planned.parent.glob("*.txt")), "nothing of it has been imported"


def test_missing_fingerprints_of_code_are_missed(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = re.sub(r'    \{"name": "code of lab".*\n', "", planned.read_text())
    planned.write_text(re.sub(r",(\s+)\]\s*\}\s*$", r"\1]}", text))
    assert main(["execute", str(planned), "-o", "run", "--quiet"]) == 5
    assert "code of lab: not in the plan, now" in capsys.readouterr().err
    assert not list(planned.parent.glob("*.txt"))


def test_new_lists_for_a_plan_are_refused_alike(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned.write_text(planned.read_text().replace('"path": "lab:data"', '"path": "lab:system"'))
    assert main(["plan", "--from", str(planned), "-o", "new.json", "--quiet"]) == 4
    assert "lab:system is posix.system, which comes with Python" in capsys.readouterr().err
    assert not (planned.parent / "called.txt").exists()


def test_what_lies_elsewhere_runs_where_it_is_allowed(
    here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "apart.py").write_text("def data(items):\n    import lab\n    return lab.data(items)\n")
    sys.path.append(str(folder))
    (here / "w.toml").write_text(WORKLOAD.replace("lab:data", "apart:data"))
    assert main(["plan", "w.toml", "-o", "p.json", "--quiet"]) == 0, "one's own workload is trusted"
    assert capsys.readouterr().out.splitlines()[-1] == "Next: hydraplan execute p.json -o p.run --allow apart:data"
    assert main(["execute", "p.json", "-o", "run", "--quiet"]) == 4
    assert f"apart:data lies in {folder}/apart.py, outside of the working directory" in capsys.readouterr().err
    assert main(["execute", "p.json", "-o", "run", "--quiet", "--allow", "apart:datum"]) == 4
    assert main(["execute", "p.json", "-o", "run", "--quiet", "--allow", "lab:Model", "--allow", "apart:data"]) == 0
    (folder / "apart.py").write_text("def data(items):\n    raise SystemExit\n")
    assert main(["execute", "p.json", "-o", "other", "--quiet", "--allow", "apart:data"]) == 5


def test_a_distribution_is_bound_by_its_version(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "lab.py").write_text(LAB + "from accelerate import init_empty_weights\n")
    named = Fingerprint(name="accelerate", value="0.1")
    (here / "p.json").write_text(dumps(naming("accelerate:init_empty_weights", more=(named,))))
    assert main(["execute", "p.json", "-o", "run", "--quiet"]) == 5
    assert "accelerate: planned with 0.1, now " in capsys.readouterr().err


def test_code_of_packages_is_all_that_they_import_here(here: Path) -> None:
    package = here / "pack"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("from ..shared import half\n")
    (package / "inner" / "data.py").write_text("from . import rows\nimport lab, json, torch\nmade = lab.data\n")
    (package / "inner" / "rows.py").write_text("")
    (package / "shared.py").write_text("half = 0.5\n")
    (package / "unused.py").write_text("")
    (here / "w.toml").write_text(WORKLOAD.replace("lab:data", "pack.inner.data:made"))
    assert main(["plan", "w.toml", "-o", "p.json", "--quiet"]) == 0
    names = [each.name for each in read_plan(here / "p.json").plan.fingerprints if each.name.startswith("code")]
    modules = ["lab", "lab_help", "pack", "pack.inner", "pack.inner.data", "pack.inner.rows", "pack.shared"]
    assert names == [f"code of {each}" for each in modules]
    forget()
    os.unlink(package / "shared.py")
    assert main(["execute", "p.json", "-o", "run", "--quiet"]) == 5


def test_a_listed_call_cannot_move_the_cursor(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "p.json").write_text(dumps(naming("os:system", (("command", "\x1b[2Kfine"),))))
    assert main(["execute", "p.json", "-o", "run"]) == 4
    assert "\x1b" not in capsys.readouterr().err
