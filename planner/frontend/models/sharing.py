"""Tensors of a model that share memory, known by their storage.

    c.weight.data = b.weight.data      equal layout: two parameters on one memory, as a plain loop has them; each has a
    c.weight = nn.Parameter(b.weight.data)    gradient and optimizer state of its own, and both update it, in turn
    c.bias = nn.Parameter(b.weight.data[0])   overlapping, of another layout: refused
    b.weight = nn.Parameter(flat[:n])         apart on one storage: nothing is shared

One parameter under several names is no matter of this module: it is one tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Precision

APART = "give each memory of its own (.clone()), or use one parameter in both places (c.weight = b.weight)"


def shared_memory(tensors: Mapping[str, Tensor], precision: Precision) -> dict[str, str]:
    """Name of a tensor -> first name on the same memory, of those that several distinct tensors lie on.

    `tensors`: every parameter and buffer by name, each once. Raises TraceError for what can't be trained as it is in a
    plain loop: memory shared in part or in other layouts, several elements on one memory, complex parameters.
    """
    found: dict[str, str] = {}
    by_storage: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            _refuse_untrainable(name, tensor)
        if not tensor.numel():
            continue
        for other, before in by_storage[_storage(tensor)]:
            if not _overlap(before, tensor):
                continue
            if _layout(before) != _layout(tensor):
                raise TraceError(
                    f"{other} {tuple(before.shape)} and {name} {tuple(tensor.shape)} share memory in different "
                    f"layouts, so that an update of one would change the other: {APART}"
                )
            if precision == "bf16":
                raise TraceError(
                    f"{other} and {name} are two tensors on one memory, and precision bf16 gives each its own: {APART}"
                )
            found[name] = found[other] = found.get(other, other)
            break
        by_storage[_storage(tensor)].append((name, tensor))
    return found


def saved_on_one_memory(saved: Mapping[str, str], memory: Mapping[str, str], read: Sequence[str]) -> dict[str, str]:
    """Saved name -> whose values are saved: of a tensor that is not `read`, one that is and lies on the same memory."""
    on = {memory[name]: name for name in reversed(read) if name in memory}
    return {
        name: source if source in read else on.get(memory.get(source, ""), source) for name, source in saved.items()
    }


def refuse_written(job: str, names: Sequence[str]) -> None:
    """TraceError where the forward writes to buffers, `names`, whose memory is another tensor's too."""
    if names:
        raise TraceError(f"job {job}: the forward writes to buffer {names[0]}, which shares its memory: {APART}")


def _refuse_untrainable(name: str, tensor: Tensor) -> None:
    if any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True)):
        raise TraceError(
            f"parameter {name} {tuple(tensor.shape)} has strides {tensor.stride()}, several elements on one memory: "
            "expand it in the forward, or make it of its own with .contiguous()"
        )
    if tensor.is_complex():
        raise TraceError(
            f"parameter {name} is {tensor.dtype}, which torch's fused optimizers do not train: keep it as real pairs, "
            "nn.Parameter(torch.view_as_real(z).contiguous()), and use torch.view_as_complex of it in the forward"
        )


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether the spans of bytes meet; interleaved tensors count as well."""
    (first, last), (begin, end) = _span(one), _span(other)
    return first < end and begin < last


def _span(tensor: Tensor) -> tuple[int, int]:
    begin = tensor.storage_offset()
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return int(begin) * tensor.dtype.itemsize, int(begin + reach + 1) * tensor.dtype.itemsize
