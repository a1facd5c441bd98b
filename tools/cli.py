"""hydraplan: plan the training of many large models on few small devices, then replay the plan.

Exit codes: 0 done, 1 error, 2 usage, 3 infeasible, 4 invalid plan, 5 stale plan, 130 interrupted, 143 and 129
stopped by SIGTERM and SIGHUP.

Results go to stdout, progress and errors to stderr. HYDRAPLAN_TRACEBACK=1 shows where an error came from.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

from hydraplan.plans.language.errors import HydraplanError
from hydraplan.tools.commands.capacity import capacity
from hydraplan.tools.commands.check import check
from hydraplan.tools.commands.diff import diff
from hydraplan.tools.commands.execute import execute
from hydraplan.tools.commands.inspect import inspect
from hydraplan.tools.commands.plan import plan
from hydraplan.tools.commands.profile import profile
from hydraplan.tools.commands.report import report
from hydraplan.tools.streams import steady_streams

COMMANDS: tuple[Callable[..., int], ...] = (plan, execute, inspect, check, diff, capacity, profile, report)
USAGE = 2
INTERRUPTED = 130
TRACEBACK = "HYDRAPLAN_TRACEBACK"


def application() -> App:
    """The commands in the order of their use. No flag has a `--no-` of its own."""
    made = App(
        name="hydraplan",
        help=__doc__,
        help_format="markdown",
        version=lambda: version("hydraplan"),
        default_parameter=Parameter(negative=(), show_default=False),
    )
    for position, command in enumerate(COMMANDS):
        made.command(command, sort_key=position)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    with steady_streams() as out:
        code = _run(arguments)
        out.flush()
        if out.broken is None:
            return code
        if not isinstance(out.broken, BrokenPipeError):  # a reader that has gone wants no word
            print(f"error: stdout could not be written: {out.broken}", file=sys.stderr)
        return code or 1


def script() -> NoReturn:
    """The command line as a process of its own."""
    code = main()
    gc.freeze()  # millions of objects may be left: the collector need not walk them once more before all is over
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is about inference; ask for it where wanted
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if not given:
            return _usage("no command is named", given)
        command, bound, _ = application().parse_args(given, exit_on_error=False, print_error=False)
        code: int = command(*bound.args, **bound.kwargs) or 0  # help and version return nothing
    except CycloptsError as error:
        _show_traceback()
        return _usage(str(error), given)
    except HydraplanError as error:
        _show_traceback()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (Exception, SystemExit) as error:
        _show_traceback()
        print(f"error: {_unexpected(error)}", file=sys.stderr)
        return 1
    return code


def _usage(cause: str, given: Sequence[str]) -> int:
    """What is wrong with a command line, and where its help is."""
    named = [each.__name__ for each in COMMANDS if [each.__name__] == list(given[:1])]
    print(f"error: {' '.join(cause.split())}", file=sys.stderr)
    print(f"usage: {' '.join(['hydraplan', *named])} --help shows it, with an example", file=sys.stderr)
    return USAGE


def _show_traceback() -> None:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()


def _unexpected(error: BaseException) -> str:
    """An error that is none of ours, in one line: what, where, and how to learn more."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    what = " ".join(str(error).split())[:300]
    return f"unexpected {type(error).__name__}{where}: {what} ({TRACEBACK}=1 shows the whole way there)"


if __name__ == "__main__":
    script()
