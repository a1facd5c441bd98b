"""hydraplan: plan the training of many large models on few small devices, then replay the plan.

    exit code   0 done   1 error   2 usage   3 infeasible   4 invalid plan   5 stale plan   130 interrupted

Results go to stdout, progress and errors to stderr. HYDRAPLAN_TRACEBACK=1 shows where an error came from.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

from hydraplan.plans.language.errors import HydraplanError
from hydraplan.tools.commands import capacity, check, diff, execute, inspect, plan, profile, report

COMMANDS = (plan, execute, inspect, check, diff, capacity, profile, report)
INTERRUPTED = 130
TRACEBACK = "HYDRAPLAN_TRACEBACK"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="hydraplan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    with ExitStack() as stack:
        # Where a stream is closed (>&-) Python has none, and print would take the other in its place.
        nowhere = stack.enter_context(open(os.devnull, "w"))
        if sys.stdout is None:
            stack.enter_context(redirect_stdout(nowhere))
        if sys.stderr is None:
            stack.enter_context(redirect_stderr(nowhere))
        return _run(arguments)


def script() -> NoReturn:
    """The command line as a process of its own."""
    code = main()
    gc.freeze()  # millions of objects may be left: the collector need not walk them once more before all is over
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    chosen = parser().parse_args(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is about inference; ask for it where wanted
    try:
        code: int = chosen.run(chosen)
        sys.stdout.flush()
    except HydraplanError as error:
        _show_traceback()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, SystemExit) as error:
        _show_traceback()
        print(f"error: {_unexpected(error)}", file=sys.stderr)
        return 1
    return code


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
