"""What may come out of the user's code (models, data sets, losses), and how it is told."""

from __future__ import annotations

RAISED = (Exception, SystemExit)
"""Anything but an interrupt: code that calls sys.exit() ends its job, not the program, and not without a word."""


def said(error: BaseException) -> str:
    """What was raised and its text; never raises."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r}): let it raise an error that says why"
    try:
        text = str(error)
    except Exception as failed:  # a user's exception may not even be printable
        text = f"(its text cannot be had: {type(failed).__name__})"
    return f"{type(error).__name__}: {text}"
