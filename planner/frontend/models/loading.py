"""A job's model from a local checkpoint: made by transformers' own loading, its bytes read last.

transformers knows how the names and forms of a checkpoint become those of the model (renamings, experts that are
stacked, fused projections), so `from_pretrained` places the tensors here too; but it is given tensors that nothing was
read into. Under fake tensors that is the planner's model. For the real one, most come out as they went in:

    file           from_pretrained          model             host store
    w (on disk) -> memory never touched  -> parameter w    => read into its slab, at its place     (stored)
    e0, e1, ... -> read                  -> e, stacked     => copied                               (converted)

so that a model is never in memory twice, nor is the largest of its tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hydraplan.planner.frontend.models.checkpoint import Stored, read_weights
from hydraplan.planner.frontend.models.configurations import PARAMETER_DTYPE, checkpoint_class, checkpoint_configuration
from hydraplan.planner.frontend.models.conversions import converting_fake_modules
from hydraplan.planner.frontend.models.freed import Freed
from hydraplan.planner.frontend.models.masters import stored_masters
from hydraplan.planner.frontend.models.quiet import quiet
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Checkpoint, Job

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
READ_BYTES = 1 << 24
"""Read at once where numbers are converted on the way."""
MOST_NAMED = 5
"""Tensors named in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model whose tensors lie in memory, but for those in `stored`."""

    model: nn.Module
    stored: Mapping[str, Stored] = field(default_factory=dict)
    """Name of a parameter or buffer -> where its values are to be read from; its memory was never written."""
    masters: Mapping[str, Stored] = field(default_factory=dict)
    """Of a bf16 job: parameter -> where its master is to be read from."""
    from_checkpoint: bool = False
    notices: tuple[str, ...] = ()
    """What the user should know of how it was made."""


class Reading:
    """A tensor of a checkpoint that is read when transformers asks for it: `tensor[...]`."""

    def __init__(self, stored: Stored, freed: Freed) -> None:
        self._stored = stored
        self._freed = freed

    def __getitem__(self, _: object) -> Tensor:
        tensor = empty(self._stored)
        self._freed.note(tensor.nbytes)  # of those read before it, as they were put together and dropped
        read_into(tensor, self._stored)
        return tensor


def empty(stored: Stored) -> Tensor:
    """Memory for a tensor, in the dtype that it is trained in; fake under a fake mode."""
    dtype = DTYPES[stored.dtype]
    return torch.empty(stored.shape, dtype=PARAMETER_DTYPE if dtype.is_floating_point else dtype)


def read_into(target: Tensor, stored: Stored) -> None:
    """Read a tensor of a checkpoint into memory of its shape, of whatever dtype and strides."""
    dtype = DTYPES[stored.dtype]
    with torch.no_grad(), stored.file.open("rb", buffering=0) as file:
        file.seek(stored.begin)
        if target.is_contiguous() and target.dtype == dtype:
            _read(file, target.view(-1), stored)
            return
        flat = target.view(-1) if target.is_contiguous() else torch.empty(target.numel(), dtype=target.dtype)
        step = READ_BYTES // dtype.itemsize
        for first in range(0, flat.numel(), step):
            part = torch.empty(min(step, flat.numel() - first), dtype=dtype)
            _read(file, part, stored)
            if dtype.is_floating_point:  # rounded as those that were made, in two steps where the target is narrower
                part = part.to(PARAMETER_DTYPE)
            flat[first : first + len(part)].copy_(part)
        if not target.is_contiguous():
            target.copy_(flat.view(target.shape))


def _read(file: Any, flat: Tensor, stored: Stored) -> None:
    memory = flat.detach().view(torch.uint8).numpy().data
    while memory:
        count = file.readinto(memory)  # a call reads 2 GiB at most
        if not count:
            raise WorkloadError(f"{stored.file} ends before byte {stored.end}: copy it again")
        memory = memory[count:]


def _check(stored: Stored) -> None:
    if stored.dtype not in DTYPES:
        raise WorkloadError(
            f"{stored.file} holds {stored.name} in dtype {stored.dtype}, which cannot be trained: "
            f"save the model in one of {', '.join(DTYPES)}"
        )
    size = prod(stored.shape) * DTYPES[stored.dtype].itemsize
    if stored.end - stored.begin != size:
        raise WorkloadError(
            f"{stored.file} holds {stored.name} in {stored.end - stored.begin} bytes, and its {stored.dtype} "
            f"{stored.shape} takes {size}: copy it again"
        )


# -- the model ----------------------------------------------------------------------------------------


def empty_model(job: Job) -> Loaded:
    """The model with no tensor read; made under a fake mode, or its memory is real. Raises WorkloadError where
    checkpoint and model do not fit."""
    assert job.checkpoint is not None
    stored = _stored(job.checkpoint)
    return _placed(job, {name: empty(each) for name, each in stored.items()}, stored)


def load_model(job: Job) -> Loaded:
    """The real model; tensors that transformers takes as they are stay unread, what it converts or makes is there."""
    with FakeTensorMode(allow_non_fake_inputs=True), converting_fake_modules():
        taken = set(empty_model(job).stored.values())
    assert job.checkpoint is not None
    freed, stored = Freed(), _stored(job.checkpoint)
    values = {name: empty(each) if each in taken else Reading(each, freed) for name, each in stored.items()}
    loaded = _placed(job, values, stored)
    freed.give_back()
    assert set(loaded.stored.values()) == taken, "a tensor was taken unread that the fake model converts"
    return loaded


def _stored(checkpoint: Checkpoint) -> dict[str, Stored]:
    """The tensors of a checkpoint that are to be loaded. Raises WorkloadError where one to be ignored is not there, or
    one cannot be read."""
    stored = {name: each for weights in read_weights(checkpoint.folder) for name, each in weights.tensors.items()}
    idle = sorted(set(checkpoint.ignore) - set(stored))
    if idle:
        raise WorkloadError(
            f"checkpoint {checkpoint.folder}: `ignore` names {_some(idle)}, which it does not hold: take them out"
        )
    wanted = {name: each for name, each in stored.items() if name not in checkpoint.ignore}
    for each in wanted.values():
        _check(each)
    return wanted


def _placed(job: Job, values: Mapping[str, Tensor | Reading], stored: Mapping[str, Stored]) -> Loaded:
    assert job.checkpoint is not None
    placed = {_storage(each): stored[name] for name, each in values.items() if isinstance(each, Tensor)}
    with _one_by_one(), _Touched(job.checkpoint, placed) as seen:
        model, report = checkpoint_class(job.model, job.checkpoint).from_pretrained(
            None,
            config=checkpoint_configuration(job.model, job.checkpoint),
            state_dict=dict(values),
            dtype=PARAMETER_DTYPE,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, all at once
        )
    _refuse_what_does_not_fit(job.checkpoint, report)
    unread = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        source = placed.get(_storage(tensor))
        if source is not None and source not in seen.touched:
            value = values[source.name]
            assert isinstance(value, Tensor)
            if (tensor.shape, tensor.stride(), tensor.dtype) == (value.shape, value.stride(), value.dtype):
                unread[name] = source
    masters = stored_masters(job.checkpoint, model) if job.precision == "bf16" else {}
    return Loaded(model=model, stored=unread, masters=masters, from_checkpoint=True)


class _Touched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which tensors an operator reads or writes, beyond viewing them: they have to be read before it.

    Refuses what asks for values while there are none: transformers ties two tensors that are both there if they are
    equal.
    """

    def __init__(self, checkpoint: Checkpoint, placed: Mapping[int, Stored]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._checkpoint, self._placed = checkpoint, placed
        self.touched: set[Stored] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        if not function.is_view and function.namespace != "prim":  # that asks for a tensor's device and the like
            tensors = [each for each in tree_leaves((arguments, named)) if isinstance(each, Tensor)]
            found = [self._placed[_storage(each)] for each in tensors if _storage(each) in self._placed]
            if function is torch.ops.aten.equal.default and len(found) == 2:
                first, second = (each.name for each in found)
                raise WorkloadError(
                    f"checkpoint {self._checkpoint.folder} holds both {first} and {second}, which its configuration "
                    f'ties: write ignore = ["{second}"] to train them as one, or tie_word_embeddings = false to train '
                    "each on its own"
                )
            self.touched.update(found)
        return function(*arguments, **(named or {}))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _one_by_one() -> Iterator[None]:
    """transformers reads ahead with threads, more than memory may hold, unless this variable says otherwise."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _refuse_what_does_not_fit(checkpoint: Checkpoint, report: Mapping[str, Any]) -> None:
    """Raises WorkloadError with all that is missing, unexpected or of another shape."""
    missing, unexpected = set(report["missing_keys"]), set(report["unexpected_keys"])
    wrong = [
        f"{name} is {tuple(there)} in the checkpoint and {tuple(here)} in the model"
        for name, there, here in sorted(report["mismatched_keys"])
    ]
    missing -= {name for name, _, _ in report["mismatched_keys"]}
    problems = []
    if wrong:
        problems.append(f"{_some(wrong)}: give the configuration that the checkpoint was saved with")
    if missing - set(checkpoint.initialise):
        problems.append(
            f"it lacks {_some(sorted(missing - set(checkpoint.initialise)))}: "
            "name another architecture, or name them in `initialise` to start them under the job's seed"
        )
    if unexpected:
        problems.append(
            f"it holds {_some(sorted(unexpected))}, which the model has not: "
            "name another architecture, or name them in `ignore`"
        )
    idle = sorted(set(checkpoint.initialise) - missing)
    if idle:
        problems.append(f"`initialise` names {_some(idle)}, which it does not lack: take them out")
    if problems:
        raise WorkloadError(f"checkpoint {checkpoint.folder} does not fit the model: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def graph_cause(job: Job) -> str:
    """What of a checkpoint decides the graph, and whether it fits: equal for checkpoints of one architecture, size and
    set of tensors."""
    if job.checkpoint is None:
        return ""
    tensors = sorted((each.name, each.dtype, each.shape) for each in _stored(job.checkpoint).values())
    with quiet():
        configuration = checkpoint_configuration(job.model, job.checkpoint).to_json_string()
    return f"{job.checkpoint.initialise} {configuration} {tensors}"
