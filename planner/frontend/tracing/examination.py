"""Run an opaque node of the user's, forward and backward, on fake tensors, and see what only its inside shows.

A shard runs its nodes on an arena, anywhere and again. An operator of PyTorch allows that; a custom function may

    read a tensor that is no argument       its module's weights would stay where the model was made      refused
    draw random numbers                     from the process-wide generator                               refused
    write to what its backward is given     gradients lie in the arena, and others read them              refused
    hold arguments by itself (ctx.x = x)    no saved_tensors_hook sees them (EXACTNESS.md, rule 13)       told: clone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.fx import Graph
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hydraplan.planner.frontend.tracing.descriptions import held
from hydraplan.planner.frontend.tracing.evaluation import mapped
from hydraplan.planner.frontend.tracing.operators import is_random, is_registered, written_arguments
from hydraplan.planner.frontend.tracing.refusals import UntraceableError, first_line
from hydraplan.planner.frontend.users.usercode import RAISED


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    held: tuple[int, ...]
    """Arguments, by number, that the backward's context holds otherwise than by save_for_backward."""
    ran: str
    """The operators that forward and backward ran, one a line: code that no source text of the function shows."""


def examine(target: Callable[..., Any], given: Sequence[Any], *, name: str) -> Examined:
    """Examine a node's target on fake tensors of the forms of `given`; `name` is for errors.

    Raises UntraceableError where a shard could not run it with the same result.
    """
    with FakeTensorMode(), torch.enable_grad():  # a mode of its own: the tracer's lets .item() pass
        leaves = tree_map_only(Tensor, _leaf, list(given))
        tensors = {number: leaf for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        watch = _Watch(name, tensors.values())
        with watch:
            made = [each for each in tree_leaves(target(*leaves)) if isinstance(each, Tensor)]
        holding = _held(made, tensors)
        for number in holding:
            if torch.empty_like(tensors[number]).stride() != tensors[number].stride():
                raise UntraceableError(
                    f"the context of {name} holds an argument of strides {tensors[number].stride()} by itself",
                    "use ctx.save_for_backward",
                )
        _run_backward(watch, made, [leaf for leaf in tensors.values() if leaf.requires_grad])
    return Examined(held=tuple(holding), ran="\n".join(watch.ran))


def note_held_arguments(graph: Graph) -> None:
    """Give the nodes of registered operators the arguments that their backward's context holds by itself.

    No handle finds these in the arena (EXACTNESS.md, rule 13), so shards pass copies.
    """
    known: dict[str, tuple[int, ...]] = {}
    for node in graph.nodes:
        if node.op != "call_function" or not is_registered(node.target):
            continue
        args, kwargs = mapped((node.args, node.kwargs), lambda each: each.meta["val"])
        form = f"{node.target} {args} {kwargs}"
        if form not in known:
            known[form] = _holding(node.target, args, kwargs)
        leaves = tree_leaves((list(node.args), dict(node.kwargs)))
        node.meta["held"] = frozenset(leaves[number] for number in known[form])


def _holding(target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Numbers, among the leaves of the arguments, of those that the backward's context of a registered operator holds
    by itself."""
    with FakeTensorMode(), torch.enable_grad():
        given, named = tree_map_only(Tensor, _leaf, (list(args), dict(kwargs)))
        leaves = enumerate(tree_leaves((given, named)))
        tensors = {number: leaf for number, leaf in leaves if isinstance(leaf, Tensor)}
        made = [each for each in tree_leaves(target(*given, **named)) if isinstance(each, Tensor)]
        return tuple(_held(made, tensors))


def _leaf(value: Tensor) -> Tensor:
    leaf = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return leaf.requires_grad_(value.is_floating_point() or value.is_complex())


def _held(made: Iterable[Tensor], given: Mapping[int, Tensor]) -> list[int]:
    contexts = [getattr(each.grad_fn, "__dict__", {}) for each in made]
    inside = {_storage(tensor) for tensor in held(contexts)}
    return [number for number, leaf in given.items() if _storage(leaf) in inside]


def _run_backward(watch: _Watch, made: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
    ends = [each for each in made if each.requires_grad]
    if not ends or not leaves:
        return
    gradients = [torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=each.device) for each in ends]
    watch.part = "backward"
    watch.protect([*gradients, *leaves])
    try:
        with watch:
            torch.autograd.grad(ends, leaves, gradients, allow_unused=True)
    except UntraceableError:
        raise
    except RAISED as error:
        reason = first_line(error)
        raise UntraceableError(
            f"the backward of {watch.name} failed on tensors without values: {reason}",
            "it may depend on shapes and types, but not on values (no .item(), no numpy)",
        ) from error


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator that runs inside."""

    def __init__(self, name: str, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = name
        self.part = "forward"
        self.ran: list[str] = []
        self._alive: list[Tensor] = []
        """All that was seen, so that no storage's identity is used twice."""
        self._known: set[int] = set()
        self._protected: set[int] = set()
        self._know(given)

    def protect(self, tensors: Iterable[Tensor]) -> None:
        """Allow nobody to write to the tensors."""
        tensors = list(tensors)
        self._know(tensors)
        self._protected |= {_storage(each) for each in tensors}

    def _know(self, tensors: Iterable[Tensor]) -> None:
        for each in tensors:
            self._alive.append(each)
            self._known.add(_storage(each))

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        what = f"the {self.part} of {self.name}"
        if func is not torch.ops.aten.lift_fresh.default:  # a literal, made inside
            for each in tree_leaves((args, given)):
                if isinstance(each, Tensor) and _storage(each) not in self._known:
                    raise UntraceableError(
                        f"{what} reads a tensor of shape {tuple(each.shape)} that is none of its arguments",
                        "pass it as an argument",
                    )
        if is_random(func, args, given):
            raise UntraceableError(
                f"{what} draws random numbers ({func})", "draw them outside, and pass them as an argument"
            )
        if any(_storage(each) in self._protected for each in written_arguments(func, args, given)):
            raise UntraceableError(f"{what} writes to what it is given ({func})", "let it write to a clone")
        result = func(*args, **given)
        self._know(each for each in tree_leaves(result) if isinstance(each, Tensor))
        self.ran.append(f"{self.part} {func} {_form((args, given))}")
        return result


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _form(value: Any) -> str:
    return repr(tree_map_only(Tensor, lambda each: f"{tuple(each.shape)} {each.stride()} {each.dtype}", value))
