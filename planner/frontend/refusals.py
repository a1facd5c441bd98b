"""What is said of a model that is refused: where (module and line), what stands in the way, and what to do about it."""

from __future__ import annotations

from planner.frontend.traced import Source

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
    said = str(error)
    if "autograd formula" in said or "derivative" in said:
        return "give the operator a backward (torch.library.register_autograd), or call it under torch.no_grad()"
    if "fake impl" in said:
        return "say what it makes of tensors without values (torch.library.register_fake)"
    if isinstance(error, TypeError):
        return (
            "check that the data set's keys are the arguments of the model's forward, and hold its labels; "
            "a model that returns no loss needs the job's `loss`"
        )
    return "the forward has to run under torch.export(strict=False) with the shapes of one microbatch"
