"""Names that a person may have mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    if not names:
        return "there is none"
    shown = ", ".join(f'"{each}"' for each in names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}"
