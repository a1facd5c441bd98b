"""Text files of bounded size: what is no text is told with its line, and what is too large is not read at all."""

from __future__ import annotations

import codecs
from pathlib import Path

from hydraplan.plans.language.quantities import format_bytes

MOST_PLAN_BYTES = 64 << 20
"""Of a plan: some half a million steps."""
MOST_WORKLOAD_BYTES = 4 << 20
"""Of a workload, or of a profile."""


class UnreadableError(ValueError):
    """A file that holds no text that may be read: where, why, and what to do."""

    def __init__(self, line: int, cause: str, remedy: str) -> None:
        super().__init__(f"line {line}: {cause}; {remedy}")
        self.line = line
        self.cause = cause
        self.remedy = remedy


def read_bounded(path: Path, most_bytes: int) -> str:
    """A file's text, line ends as `\\n`. Raises OSError where it cannot be read, and UnreadableError."""
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UnreadableError(1, f"more than {format_bytes(most_bytes)}", "no larger file is read: make it smaller")
    if content.startswith(codecs.BOM_UTF8):
        raise UnreadableError(1, "a byte order mark stands before the text", "save it as UTF-8 without one")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableError(line, f"not UTF-8 text ({error.reason})", "restore the line, or the file") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
