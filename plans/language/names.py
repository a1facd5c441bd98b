"""Names: what they may be, and which may have been meant by one that is mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Of jobs and devices, in workloads and plans alike; so none is "." or ".."."""
NAME_IN_WORDS = "a name of letters, digits and . _ -, at most 100"
CALLABLE = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*$"
"""`package.module:callable`."""


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
