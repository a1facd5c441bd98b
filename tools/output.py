"""What commands print: results on stdout, progress on stderr, a summary last and after it the next command.

Tables and colour are for people: rich leaves colour out where stdout is a pipe or NO_COLOR is set, and a pipe
gets lines as wide as the table is. With `--json` stdout holds one JSON document and nothing else.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

PIPE_COLUMNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    title: str
    figures: bool = False
    """Right-aligned."""


def text(title: str) -> Column:
    return Column(title=title)


def figures(title: str) -> Column:
    return Column(title=title, figures=True)


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
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column.title, justify="right" if column.figures else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        if sys.stdout.isatty():
            Console(highlight=False).print(table)
            return
        # In a pipe a line is as long as it needs to be, and ends with its last character.
        rendered = io.StringIO()
        Console(file=rendered, width=PIPE_COLUMNS, color_system=None, highlight=False).print(table)
        for line in rendered.getvalue().splitlines():
            print(line.rstrip(), file=sys.stdout)

    def json(self, document: object) -> None:
        """The result for programs."""
        if self.as_json:
            print(json.dumps(document, indent=2, allow_nan=False), file=sys.stdout)

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
