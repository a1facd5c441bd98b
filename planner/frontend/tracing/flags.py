"""Process-wide flags that change what operators compute: none may be another for part of a forward.

    with sdpa_kernel(MATH): ...              another kernel for the attention inside
    torch.set_float32_matmul_precision(..)   from here on, in every job of the process
    with torch.inference_mode(): ...

A graph's nodes carry grad mode and autocast (`Context`) and nothing else. So flags are read before a forward, at each
of its operators, and after it (`planner.frontend.tracing.repeat`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.autograd import forward_ad

Reader: TypeAlias = Callable[[], Any]

_OF_TORCH = re.compile(r"_get_.*(enabled|allow_.*|precision|benchmark|deterministic.*|priority_order|backend|qengine)")
"""torch._C's own readers of flags."""
_NO_FLAGS = ("_get_privateuse1_backend_name", "_get_onednn_allow_tf32")
"""No flag of a kernel; and one that warns where it is read, and is told by precisions too."""


def _torchs() -> Iterator[tuple[str, Reader]]:
    for name in sorted(vars(torch._C)):
        reader = getattr(torch._C, name)
        if not _OF_TORCH.fullmatch(name) or name in _NO_FLAGS:
            continue
        try:
            value = reader()
        except (TypeError, RuntimeError):  # of another sort, or of a build that this one is not
            continue
        if _comparable(value):
            yield name.removeprefix("_get_"), _guarded(reader)


def _guarded(reader: Reader) -> Reader:
    def read() -> Any:
        try:
            return reader()
        except RuntimeError as error:  # torch does not answer where precisions were set in its old and its new way
            return str(error)

    return read


def _comparable(value: object) -> bool:
    try:
        return bool(value == value) and not isinstance(value, torch.Tensor)
    except Exception:
        return False


def _precision(backend: str, operation: str) -> Reader:
    return lambda: torch._C._get_fp32_precision_getter(backend, operation)


def _flushes() -> bool:
    """Whether numbers that are nearly zero are taken for zero: torch can set it, and not tell."""
    return _TINY * 1.0 == 0.0


_TINY = float.fromhex("0x1p-1074")
_BACKENDS = {"generic": ("all",), "mkldnn": ("all", "conv", "matmul", "rnn"), "cuda": ("all", "conv", "matmul", "rnn")}
_HELD: dict[str, Reader] = {
    "inference mode": torch.is_inference_mode_enabled,
    "the default dtype": torch.get_default_dtype,
    "the default device": lambda: torch._GLOBAL_DEVICE_CONTEXT.__dict__.get("device_context"),
    "the number of threads": torch.get_num_threads,
    "anomaly detection": torch.is_anomaly_enabled,
    "forward-mode differentiation": lambda: forward_ad._current_level >= 0,
    "the fast path of attention": torch.backends.mha.get_fastpath_enabled,
    "opt_einsum": lambda: (torch.backends.opt_einsum.enabled, torch.backends.opt_einsum.strategy),
    "flushing of denormal numbers": _flushes,
    "multithreaded autograd": torch._C._is_multithreading_enabled,
    "the seed of the process-wide generator": torch.default_generator.initial_seed,
} | {
    f"fp32 precision of {backend}'s {operation}": _precision(backend, operation)
    for backend, operations in _BACKENDS.items()
    for operation in operations
}
_READERS: dict[str, Reader] = dict(_torchs()) | _HELD
_NAMES, _READS = tuple(_READERS), tuple(_READERS.values())

Flags: TypeAlias = tuple[Any, ...]


class Change(NamedTuple):
    name: str
    before: object
    now: object

    def __str__(self) -> str:
        return f"{self.name} ({self.before} outside, {self.now} here)"


def flags() -> Flags:
    """All flags as they are; some microseconds."""
    return tuple([read() for read in _READS])


def changes(before: Flags, now: Flags) -> list[Change]:
    """The flags that differ, by name."""
    return [Change(*each) for each in zip(_NAMES, before, now, strict=True) if each[1] != each[2]]
