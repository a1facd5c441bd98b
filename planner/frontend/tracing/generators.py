"""While a model is traced: who else than the job decides what random numbers it draws is refused.

    torch.rand(8, generator=self.generator)    a state of its own, which no graph holds: it goes on from forward to
                                               forward, in whatever order a plan runs them
    torch.manual_seed(0)                       the same numbers in every forward

Random nodes are keyed by job seed, step, microbatch and node (`planner.frontend.tracing.keyed`), so what is asked for
here would silently not be done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode

from hydraplan.planner.frontend.tracing.refusals import UntraceableError

REMEDY = (
    "leave it out: what a forward draws follows from the job's seed, the step and the microbatch; numbers that never "
    "change belong in a buffer, drawn where the model is made"
)


@contextmanager
def generators_refused() -> Iterator[None]:
    """While torch.export traces: UntraceableError where a forward passes a generator to an operator, or seeds one."""
    real = torch.manual_seed

    def manual_seed(seed: int) -> torch.Generator:
        if get_proxy_mode() is None:  # other threads
            return real(seed)
        raise UntraceableError(f"the forward seeds the process-wide generator ({seed})", REMEDY)

    _set_manual_seed(manual_seed)
    try:
        with _Passed():
            yield
    finally:
        _set_manual_seed(real)


def _set_manual_seed(function: Callable[[int], torch.Generator]) -> None:
    for module in (torch, torch.random):
        setattr(module, "manual_seed", function)  # noqa: B010 (mypy knows it as a function)


class _Passed(TorchFunctionMode):
    """Sees every call of torch's functions and of tensors' methods."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if any(isinstance(each, torch.Generator) for each in (*args, *given.values())):
            raise UntraceableError(f"{func.__name__} draws from a generator of the model's own", REMEDY)
        return func(*args, **given)
