"""Nodes under a mode of their own: no_grad and autocast regions of a model, one node at a time.

torch.export keeps such a region as one operator with a graph inside; a cut has to go through it, so each of its
nodes carries the modes that it runs under (EXACTNESS.md, rule 2). Where regions nest, what export makes of them is
wrong besides: a no_grad inside of an autocast region is lost. So the graph is taken before it makes regions:

    _enter_autocast("cpu", bfloat16, True, ...)
    linear                                          autocast
    _set_grad_enabled(False)
    linear_1                                        autocast, no_grad
    ...

An autocast for another device type than the CPU, where models are traced, does nothing there and is left out; what it
does there, it does on whichever device a shard runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch._export.passes import replace_autocast_with_hop_pass, replace_set_grad_with_hop_pass
from torch.fx import Node

from hydraplan.planner.frontend.models.model import TRACED_ON
from hydraplan.planner.frontend.tracing.traced import Autocast, Context

PLAIN = Context()
SET_GRAD = torch._C._set_grad_enabled
ENTER_AUTOCAST = torch.amp.autocast_mode._enter_autocast
EXIT_AUTOCAST = torch.amp.autocast_mode._exit_autocast

_REGION_PASSES = (replace_set_grad_with_hop_pass, replace_autocast_with_hop_pass)
"""Modules of torch.export, each with its function of the same name."""


@contextmanager
def modes_as_nodes() -> Iterator[None]:
    """Let torch.export leave changes of modes where they are in the graph, as nodes."""
    names = [module.__name__.rpartition(".")[2] for module in _REGION_PASSES]
    before = [getattr(module, name) for module, name in zip(_REGION_PASSES, names, strict=True)]
    for module, name in zip(_REGION_PASSES, names, strict=True):
        setattr(module, name, _as_it_is)
    try:
        yield
    finally:
        for module, name, function in zip(_REGION_PASSES, names, before, strict=True):
            setattr(module, name, function)


def _as_it_is(*graph_and_signature: Any) -> tuple[Any, ...]:
    return graph_and_signature


class Modes:
    """The modes in force, while one walks over the nodes of an exported graph."""

    def __init__(self) -> None:
        self.context = PLAIN
        self._before: dict[Node, Autocast | None] = {}
        """The node that entered an autocast -> what was in force before."""

    def change(self, node: Node) -> bool:
        """Whether the node changes modes; then they are changed."""
        if node.target is SET_GRAD:
            self.context = replace(self.context, grad=bool(node.args[0]))
        elif node.target is ENTER_AUTOCAST:
            device_type, dtype, enabled = node.args[:3]
            self._before[node] = self.context.autocast
            if device_type == TRACED_ON:
                assert isinstance(dtype, torch.dtype)
                self.context = replace(self.context, autocast=Autocast(dtype=dtype) if enabled else None)
        elif node.target is EXIT_AUTOCAST:
            (entered_at,) = node.args
            assert isinstance(entered_at, Node)
            self.context = replace(self.context, autocast=self._before.pop(entered_at))
        else:
            return False
        return True


def ambient_of(contexts: Sequence[Context]) -> Context:
    """The modes to enter once for nodes of these contexts: the autocast of most of them.

    Entering modes costs a node several times what dispatching it does.
    """
    counted = Counter(context.autocast for context in contexts)
    return Context(autocast=counted.most_common(1)[0][0] if counted else None)


@contextmanager
def entered(context: Context, device_type: str, ambient: Context = PLAIN) -> Iterator[None]:
    """Run under a node's modes, where those of `ambient` are in force; autocast without its cache of cast weights,
    which a cut would split.

    (The cache could not join uses of a weight here, which are leaves of their own, but it would hold on to them.)
    """
    cast = context.autocast
    with torch.set_grad_enabled(context.grad):
        if cast == ambient.autocast:
            yield
        else:
            dtype = None if cast is None else cast.dtype
            with torch.autocast(device_type, dtype=dtype, enabled=cast is not None, cache_enabled=False):
                yield


class Scoped:
    """A node's target, called under the node's modes on the device that comes as an argument before the node's own;
    named, so that torch.fx can write code that calls it."""

    __module__ = __name__

    def __init__(self, target: Callable[..., Any], context: Context, ambient: Context = PLAIN) -> None:
        self.target = target
        self.context = context
        self.ambient = ambient
        modes = "_".join(f"{each.grad}_{each.autocast and each.autocast.dtype}" for each in (context, ambient))
        name = f"{getattr(target, '__module__', '')}_{target}_{modes}"
        self.__name__ = "scoped_" + "".join(letter if letter.isalnum() else "_" for letter in name)

    def __call__(self, device: torch.device, /, *args: Any, **kwargs: Any) -> Any:
        with entered(self.context, device.type, self.ambient):
            return self.target(*args, **kwargs)

    def __repr__(self) -> str:
        return self.__name__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scoped) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple[object, ...]:
        return (self.target, self.context, self.ambient)
