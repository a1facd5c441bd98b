"""Where modules lie, found without running any of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydraplan.planner.frontend.users.origins import origin_of
from hydraplan.planner.frontend.users.sources import code_fingerprints, present


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose modules would tell if they were run."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    assert not [name for name in set(sys.modules) - before if name.startswith("lab")]


def write(path: Path, text: str = "raise SystemExit('it ran')\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("os", "python"),
        ("os.path", "python"),
        ("posix", "python"),
        ("builtins", "python"),
        ("xml.etree.ElementTree", "python"),
        ("pip", "python"),
        ("setuptools.command", "python"),
        ("numpy.random", "distribution"),
        ("numpy.random.mtrand", "distribution"),
        ("torch.nn", "distribution"),
        ("torch.no_such_module", "absent"),
        ("no_such_module.inner", "absent"),
        ("hydraplan.tools.cli", "own"),
    ],
)
def test_what_is_installed(module: str, kind: str) -> None:
    assert origin_of(module).kind == kind


def test_the_working_directory_with_packages_of_any_make(here: Path) -> None:
    write(here / "lab_one.py")
    write(here / "lab" / "__init__.py")
    write(here / "lab" / "inner" / "deep" / "models.py")
    write(here / "lab_spread" / "inner" / "models.py")
    (here / "lab_linked").symlink_to(here / "lab_spread")
    modules = ["lab_one", "lab", "lab.inner.deep.models", "lab_spread.inner.models", "lab_linked.inner.models"]
    for module in modules:
        origin = origin_of(module)
        assert origin.kind == "directory" and origin.file is not None and origin.has_own_source, module
    assert str(origin_of("lab.inner.deep.models")) == "lab/inner/deep/models.py"
    assert origin_of("lab_spread.inner").kind == "directory" and origin_of("lab_spread.inner").file is None
    assert origin_of("lab_spread.other").kind == origin_of("lab_one.inner").kind == "absent"


def test_a_folder_of_the_path_lies_elsewhere(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write(other / "lab_other" / "models.py")
    sys.path.append(str(other))
    assert origin_of("lab_other.models").kind == "elsewhere"
    assert str(origin_of("lab_other.models")) == str(other / "lab_other" / "models.py")


def test_code_is_followed_by_its_text_and_told_by_what_it_says(here: Path) -> None:
    write(here / "lab_spread" / "models.py", "from lab_spread import data\nfrom .more import half\nraise SystemExit\n")
    write(here / "lab_spread" / "data.py", "import json, torch, lab_one\nraise SystemExit\n")
    write(here / "lab_spread" / "more.py", "half = 0.5  # of it\nraise SystemExit\n")
    write(here / "lab_one.py")
    found = code_fingerprints(["lab_spread.models", "torch.nn"])
    names = [each.name for each in found]
    assert names == [
        "torch",
        *(f"code of {each}" for each in ("lab_one", "lab_spread.data", "lab_spread.models", "lab_spread.more")),
    ]
    assert all(present(each.name) == each.value for each in found)
    write(here / "lab_spread" / "more.py", "\n\nhalf = 0.5\nraise SystemExit\n")
    assert present("code of lab_spread.more") == found[-1].value, "comments and layout do not count"
    write(here / "lab_spread" / "more.py", "half = 0.25\nraise SystemExit\n")
    assert present("code of lab_spread.more") != found[-1].value
    write(here / "lab_one.py", "this is no Python\n")
    assert present("code of lab_one") != found[1].value
    assert present("code of lab_gone") == present("no-such-distribution") == "absent"
