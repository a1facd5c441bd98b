"""What is said of a model that is refused: where (module and line), what stands in the way, and what to do about it."""

from __future__ import annotations

from traceback import walk_tb

from hydraplan.planner.frontend.tracing.traced import Source
from hydraplan.planner.frontend.users.usercode import said

CONVERT = (
    "convert one of them there (value.to(other.dtype)); in a job of precision bf16, parameters and batches are bf16 "
    'and buffers stay as they are made; precision = "autocast" converts what matrix products take'
)
"""What to do about mixed types."""


class UntraceableError(Exception):
    """Something that no graph of ours can hold, and what to do about it; raised in the midst of the user's code, so
    that module and line are added by who traces it."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


def where(source: Source | None) -> str:
    """`module transformer.h.3.attn (modeling_gpt2.py:300)` for messages."""
    if source is None:
        return "the model"
    module = f"module {source.module}" if source.module else "the model"
    return f"{module} ({source.location})" if source.location else module


def because(error: BaseException, remedy: str | None = None) -> str:
    """What came out of the user's code, and what to do about it, in one line; `remedy`: where the error has none."""
    if isinstance(error, UntraceableError):
        return f"{error}; {error.remedy}"
    if isinstance(error, SystemExit):
        return said(error)
    return f"{first_line(error)}; {remedy or _remedy(error)}"


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that torch adds."""
    kind, _, text = said(error).partition(": ")
    return f"{kind}: {text.strip().split(chr(10))[0][:300]}"


def _remedy(error: BaseException) -> str:
    kind = type(error).__name__
    if any(
        str(frame.f_globals.get("__name__")).startswith("torch.distributions")
        for frame, _ in walk_tb(error.__traceback__)
    ):
        return "a distribution looks at the values of its arguments: make it with validate_args=False"
    if "DataDependent" in kind or "DynamicOutputShape" in kind or "data-dependent" in str(error).lower():
        return (
            "the line depends on values of tensors (`if` on a tensor, .item(), nonzero, boolean indexing): "
            "use torch.where or masks, or move it into the data set"
        )
    if any(words in str(error) for words in ("dtype", "scalar type", "should be the same")):
        return CONVERT
    text = str(error)
    if "autograd formula" in text or "derivative" in text:
        return "give the operator a backward (torch.library.register_autograd), or call it under torch.no_grad()"
    if "fake impl" in text:
        return "say what it makes of tensors without values (torch.library.register_fake)"
    if isinstance(error, TypeError):
        return (
            "check that the data set's keys are the arguments of the model's forward, and hold its labels; "
            "a model that returns no loss needs the job's `loss`"
        )
    return "the forward has to run under torch.export(strict=False) with the shapes of one microbatch"
