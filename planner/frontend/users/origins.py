"""Where a module lies, found without running any of it.

Python itself looks up `mylab.models` by importing `mylab`. Here only the search is done: the finders are asked for the
first name, folders for the others.

    own            a module of hydraplan
    python         the standard library, and the tools that install packages
    distribution   installed, by name and version
    directory      the working directory, or the session at a prompt
    elsewhere      any other folder, such as one in PYTHONPATH
    absent         there is no such module
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import get_importer
from typing import Literal

OWN_PACKAGE = "hydraplan"
INSTALLERS = frozenset({"_distutils_hack", "pip", "pkg_resources", "setuptools", "uv", "wheel"})
"""They come with Python, run what they are given, and make no models."""
MAIN = "__main__"

Kind = Literal["own", "python", "distribution", "directory", "elsewhere", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where one module lies."""

    module: str
    kind: Kind
    file: Path | None = None
    """Its source, or what else is read to import it; None: built in, or a folder without a module of its own."""
    distributions: tuple[str, ...] = ()
    """Names of the installed distributions that it comes from."""

    @property
    def has_own_source(self) -> bool:
        """Whether no version speaks for its source: it may change without any name changing."""
        return self.file is not None and (
            self.kind in ("directory", "elsewhere")
            or (self.kind == "distribution" and not _within(self.file, _installed_folders()))
        )

    def __str__(self) -> str:
        match self.kind:
            case "own":
                return "hydraplan's own"
            case "python":
                return "comes with Python"
            case "distribution":
                return ", ".join(f"{name} {version(name)}" for name in self.distributions)
            case "directory":
                return "the working directory" if self.file is None else _shown(self.file)
            case "elsewhere":
                return _shown(self.file) if self.file is not None else "another folder"
            case _:
                return "not found"


def search_working_directory() -> None:
    """Let imports find modules of the working directory, after all others."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def origin_of(module: str) -> Origin:
    """Where a module lies. Runs nothing of it, nor of the packages around it."""
    search_working_directory()
    first = module.partition(".")[0]
    if first == OWN_PACKAGE:
        return Origin(module=module, kind="own", file=_file(_spec(module)))
    if first in sys.stdlib_module_names or first in sys.builtin_module_names or first in INSTALLERS:
        return Origin(module=module, kind="python")
    if module == MAIN:
        return _of_main()
    spec = _spec(module)
    if spec is None:
        return Origin(module=module, kind="absent")
    file = _file(spec)
    places = [file] if file is not None else [Path(each) for each in spec.submodule_search_locations or ()]
    return Origin(module=module, kind=_kind(first, places), file=file, distributions=_distributions(first))


def distribution_version(name: str) -> str | None:
    """The version of an installed distribution; None: there is none of this name."""
    try:
        return distribution(name).version
    except (PackageNotFoundError, ValueError):
        return None


def _kind(first: str, places: Sequence[Path]) -> Kind:
    if all(_within(each, _installed_folders()) for each in places):
        return "distribution" if _distributions(first) else "elsewhere"
    if all(_within(each, _standard_library()) for each in places):
        return "python"
    if all(_within(each, (os.getcwd(),)) for each in places):
        return "directory"
    return "distribution" if _distributions(first) else "elsewhere"


def _of_main() -> Origin:
    """The program that runs: a person's script, or a session at a prompt, which has no file."""
    written = getattr(sys.modules.get(MAIN), "__file__", None)
    if written is None:
        return Origin(module=MAIN, kind="directory")
    file = Path(os.path.abspath(written))
    return Origin(module=MAIN, kind="directory" if _within(file, (os.getcwd(),)) else "elsewhere", file=file)


def _spec(module: str) -> ModuleSpec | None:
    first, *rest = module.split(".")
    try:
        spec = find_spec(first)
    except (ImportError, ValueError):  # a module that was made by hand has no spec
        spec = None
    name = first
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = _within_package(name, list(spec.submodule_search_locations))
    return spec


def _within_package(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """A module in the folders of its package. Python's own search would want the package imported where the module is a
    folder without an `__init__`."""
    parts: list[str] = []
    for folder in folders:
        finder = get_importer(folder)
        found = finder.find_spec(name) if finder is not None else None
        if found is not None and found.loader is not None:
            return found
        parts += (found.submodule_search_locations or []) if found is not None else []
    if not parts:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = parts
    return spec


def _file(spec: ModuleSpec | None) -> Path | None:
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin is not None else None


def _within(path: Path, folders: Sequence[str]) -> bool:
    """Whether a path lies in one of the folders, as it is written or with its links followed."""
    written, real = os.path.abspath(path), os.path.realpath(path)
    return any(
        each == folder or each.startswith(folder.rstrip(os.sep) + os.sep)
        for each in (written, real)
        for folder in folders
    )


@cache
def _installed_folders() -> tuple[str, ...]:
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    paths.append(site.getusersitepackages())
    return tuple(dict.fromkeys(form for path in paths for form in (os.path.abspath(path), os.path.realpath(path))))


@cache
def _standard_library() -> tuple[str, ...]:
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    return tuple(dict.fromkeys(form for path in paths for form in (os.path.abspath(path), os.path.realpath(path))))


@cache
def _by_package() -> dict[str, tuple[str, ...]]:
    return {package: tuple(sorted(set(names))) for package, names in packages_distributions().items()}


def _distributions(first: str) -> tuple[str, ...]:
    return _by_package().get(first, ())


def _shown(file: Path) -> str:
    relative = os.path.relpath(file)
    return relative if not relative.startswith(os.pardir) else str(file)
