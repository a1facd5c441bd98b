"""Standard streams that never end a command: closed, full, or with a reader that has gone.

What cannot be written is dropped from then on, and so is what the user's code prints; the command goes on, and tells
by its exit code that its results were not all told.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class Steady:
    """A stream as another, but for errors of the system, which it keeps to itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken: OSError | ValueError | None = None
        """Why not all was written."""

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: Any) -> None:
        if self.broken is not None:
            return
        try:
            call()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not self._stream.closed:
                raise  # characters that the stream's encoding has not
            self.broken = error
            with suppress(OSError, ValueError):  # what is buffered still has somewhere to go at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def steady_streams() -> Iterator[Steady]:
    """Within, nothing that is printed raises for want of somewhere to go. Gives stdout."""
    for number in range(3):  # or the next file that is opened gets the number, and what libraries print
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    with ExitStack() as stack:
        # Where a stream is closed (>&-) Python has none, and print would take the other in its place.
        nowhere = stack.enter_context(open(os.devnull, "w"))
        out, err = Steady(sys.stdout or nowhere), Steady(sys.stderr or nowhere)
        stack.enter_context(redirect_stdout(cast(TextIO, out)))
        stack.enter_context(redirect_stderr(cast(TextIO, err)))
        yield out
        out.flush()
