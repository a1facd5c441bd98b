"""All models of the catalogue, those of absent libraries too."""

from __future__ import annotations

from hydraplan.tools.libraries import others, vision
from hydraplan.tools.libraries.entry import Entry


def entries() -> tuple[Entry, ...]:
    """All models, in the order of their names."""
    return tuple(sorted((*vision.ENTRIES, *others.ENTRIES), key=lambda entry: entry.name))


def entry(name: str) -> Entry:
    """The entry of a name such as `timm/convnext_atto`."""
    return next(each for each in entries() if each.name == name)
