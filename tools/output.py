"""What commands print: results on stdout, progress on stderr, a summary last and after it the next command.

Tables and colour are for people: rich leaves colour out where stdout is a pipe or NO_COLOR is set, and a pipe
gets lines as wide as the table is. With `--json` stdout holds one JSON document and nothing else: what the user's code
prints goes to stderr then.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from hydraplan.plans.file.strict import dumps_strict
from hydraplan.tools.table import Column, figures, fitted, names, natural, records, text, total

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Column", "Output", "figures", "names", "text"]


class Output:
    """Where a command's words go."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def line(self, line: str = "") -> None:
        """A line of the result."""
        if not self.as_json:
            print(line, file=sys.stdout)

    def table(self, title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """A table of the result; nothing where it has no rows."""
        if self.as_json or not rows:
            return
        if sys.stdout.isatty():
            _to_terminal(title, columns, rows)
        else:
            _to_pipe(title, columns, rows)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around what runs the user's code: where stdout is for programs, what that code prints goes to stderr."""
        if self.as_json:
            with redirect_stdout(sys.stderr):
                yield
        else:
            yield

    def json(self, document: object) -> None:
        """The result for programs."""
        if self.as_json:
            print(dumps_strict(document, indent=2), file=sys.stdout)

    def progress(self, line: str) -> None:
        """What is being done now."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def end(self, summary: str, next_command: str | None = None) -> None:
        """The summary, and what to run next."""
        if not self.as_json:
            print(summary, file=sys.stdout)
            if next_command is not None:
                print(f"Next: {next_command}", file=sys.stdout)
            sys.stdout.flush()


def _to_terminal(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    widths = fitted(columns, rows, console.width)
    console.print(title, style="bold")
    if widths is not None:
        console.print(_table(columns, rows, widths))
    else:
        print("", *records(columns, rows, console.width), "", sep="\n", file=sys.stdout)


def _to_pipe(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A line is as long as it needs to be, and ends with its last character."""
    from rich.console import Console

    widths = natural(columns, rows)
    rendered = io.StringIO()
    Console(file=rendered, width=total(widths), color_system=None, highlight=False).print(_table(columns, rows, widths))
    print(title, *(line.rstrip() for line in rendered.getvalue().splitlines()), sep="\n", file=sys.stdout)


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column.title, justify="right" if column.figures else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
