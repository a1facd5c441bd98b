"""Nodes under a mode of their own: no_grad and autocast regions of a model, one node at a time.

torch.export keeps such a region as one operator with a graph inside; a cut has to go through it, so each of its
nodes carries the modes that it runs under (EXACTNESS.md, rule 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from planner.frontend.traced import Context

PLAIN = Context()


@contextmanager
def entered(context: Context) -> Iterator[None]:
    """Run under a node's modes; autocast without its cache of cast weights, which a cut would split."""
    cast = context.autocast
    with torch.set_grad_enabled(context.grad):
        if cast is None:
            yield
        else:
            with torch.autocast(cast.device_type, dtype=cast.dtype, enabled=cast.enabled, cache_enabled=False):
                yield


class Scoped:
    """A node's target, called under the node's modes; named, so that torch.fx can write code that calls it."""

    __module__ = __name__

    def __init__(self, target: Callable[..., Any], context: Context) -> None:
        self.target = target
        self.context = context
        cast = context.autocast
        modes = f"{context.grad}_{cast and (cast.device_type, cast.dtype, cast.enabled)}"
        name = f"{getattr(target, '__module__', '')}_{target}_{modes}"
        self.__name__ = "scoped_" + "".join(letter if letter.isalnum() else "_" for letter in name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with entered(self.context):
            return self.target(*args, **kwargs)

    def __repr__(self) -> str:
        return self.__name__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scoped) and (self.target, self.context) == (other.target, other.context)

    def __hash__(self) -> int:
        return hash((self.target, self.context))
