"""The user's code as a plan is bound to it: modules by the digest of their source, distributions by their version.

    mylab.models:small_gpt        code of mylab, code of mylab.models, and of what these import and nobody installed
    peft:get_peft_model           peft 0.21.2

Sources are read, never run: what a module imports is taken from its text. Their comments and layout do not count.
"""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from hydraplan.planner.frontend.users.origins import Origin, distribution_version, origin_of
from hydraplan.plans.language.plan import Fingerprint

CODE = "code of "
"""A fingerprint of a module's source begins so."""


def code_fingerprints(modules: Iterable[str]) -> tuple[Fingerprint, ...]:
    """Of modules and all that they need of what no version speaks for; distributions by name, then code by module."""
    found: dict[str, Origin] = {}
    todo = list(dict.fromkeys(modules))
    while todo:
        module = todo.pop(0)
        if module in found:
            continue
        origin = found[module] = origin_of(module)
        if origin.has_own_source:
            parents = module.split(".")[:-1]
            todo += [".".join(parents[: depth + 1]) for depth in range(len(parents))]
            todo += [each for each in dict.fromkeys(_imports(origin)) if origin_of(each).has_own_source]
    names = sorted(
        {name for origin in found.values() if origin.kind == "distribution" for name in origin.distributions}
    )
    versions = [Fingerprint(name=name, value=distribution_version(name) or "absent") for name in names]
    code = [
        Fingerprint(name=f"{CODE}{module}", value=digest(origin.file))
        for module, origin in sorted(found.items())
        if origin.has_own_source and origin.file is not None
    ]
    return (*versions, *code)


def present(name: str) -> str:
    """The value that a fingerprint of code or of a distribution has now; "absent" where there is no such."""
    if name.startswith(CODE):
        file = origin_of(name.removeprefix(CODE)).file
        return digest(file) if file is not None else "absent"
    return distribution_version(name) or "absent"


def digest(file: Path) -> str:
    """sha256 of what a source says; of its bytes where it is no source. "absent" where it cannot be read."""
    try:
        tree = _tree(file)
        said = ast.dump(tree).encode() if tree is not None else file.read_bytes()
    except (OSError, RecursionError):
        return "absent"
    return sha256(said).hexdigest()


def _imports(origin: Origin) -> Iterator[str]:
    """Modules that a source may import, by its text: each that it names, and names in it that may be modules."""
    tree = _tree(origin.file) if origin.file is not None else None
    if tree is None or origin.file is None:
        return
    package = origin.module if origin.file.stem == "__init__" else origin.module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _with_parents(name.name)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            if base:
                yield from _with_parents(base)
                yield from (f"{base}.{name.name}" for name in node.names if name.name != "*")


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[: depth + 1]) for depth in range(len(parts)))


def _absolute(module: str, level: int, package: str) -> str:
    if not level:
        return module
    parts = package.split(".") if package else []
    kept = parts[: len(parts) - (level - 1)]
    return ".".join([*kept, module] if module else kept)


def _tree(file: Path) -> ast.Module | None:
    """None: it is no source of Python."""
    try:
        with tokenize.open(file) as source:
            return ast.parse(source.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
