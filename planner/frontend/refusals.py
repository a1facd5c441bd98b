"""What user code may not do while it is traced, raised in the midst of it: the tracer adds module and line."""

from __future__ import annotations

CONVERT = (
    "convert one of them there (value.to(other.dtype)); in a job of precision bf16, parameters and batches are bf16 "
    'and buffers stay as they are made; precision = "autocast" converts what matrix products take'
)
"""What to do about mixed types."""


class UntraceableError(Exception):
    """Something that no graph of ours can hold, and what to do about it."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


def because(error: Exception) -> str:
    """What came out of the user's code, and what to do about it, in one line."""
    if isinstance(error, UntraceableError):
        return f"{error}; {error.remedy}"
    return f"{type(error).__name__}: {first_line(error)}; {_remedy(error)}"


def first_line(error: Exception) -> str:
    """What an error says, without the pages that torch adds."""
    return str(error).strip().split("\n")[0][:300]


def _remedy(error: Exception) -> str:
    kind = type(error).__name__
    if "DataDependent" in kind or "DynamicOutputShape" in kind or "data-dependent" in str(error).lower():
        return (
            "the line depends on values of tensors (`if` on a tensor, .item(), nonzero, boolean indexing): "
            "use torch.where or masks, or move it into the data set"
        )
    if any(words in str(error) for words in ("dtype", "scalar type", "should be the same")):
        return CONVERT
    if isinstance(error, TypeError):
        return (
            "check that the data set's keys are the arguments of the model's forward, and hold its labels; "
            "a model that returns no loss needs the job's `loss`"
        )
    return "the forward has to run under torch.export(strict=False) with the shapes of one microbatch"
