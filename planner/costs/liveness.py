"""Live bytes: how much memory a computation holds at its peak, counted storage by storage.

    op          live storages                peak
    a = f(x)    a                            a
    b = g(a)    a b                          a + b
    del a       b                            a + b
    c = h(b)    b c                          max(a + b, b + c)

A dispatch mode sees every tensor that an operator makes, and each storage's death; under fake tensors
the same stream of operators runs without memory, so a shard's figures are known before it ever runs. What
was there before (parameters, activations in an arena) is not counted. While an operator runs, its kernel's own scratch
counts too (`planner.costs.scratch`).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, UntypedStorage
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hydraplan.planner.costs.scratch import scratch_bytes
from hydraplan.plans.analysis.arena import align


class CountLiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages made inside, on fake or real tensors, but for `outside` ones.

    `threads`: that kernels run on.
    """

    def __init__(self, outside: Iterable[Tensor] = (), threads: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._threads = threads
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        """Live storage, by id -> its bytes; 0 for what lay outside."""
        for tensor in outside:
            self._track(tensor.untyped_storage(), counted=False)

    def reset_peak(self) -> None:
        """Measure the peak anew from here."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._track(leaf.untyped_storage(), counted=True)
        scratch = scratch_bytes(func, args, kwargs or {}, result, self._threads)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + scratch)
        return result

    def _track(self, storage: UntypedStorage, *, counted: bool) -> None:
        key = id(storage)
        if key in self._sizes:
            return
        size = storage.nbytes() if counted else 0
        self._sizes[key] = size
        weakref.finalize(storage, self._forget, key).atexit = False
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)


def value_bytes(node: Node) -> int:
    """Aligned bytes of what a node makes, as a dense tensor."""
    value = node.meta["val"]
    values = (value,) if isinstance(value, Tensor) else value
    return sum(align(each.numel() * each.element_size()) for each in values if isinstance(each, Tensor))
