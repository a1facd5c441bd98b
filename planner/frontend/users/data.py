"""The data of a job: batches by training step, in an order that the job's seed fixes.

    epoch 0                    epoch 1
    | batch 0 | batch 1 | ..   | batch n | batch n + 1 | ..      each epoch its own permutation of the items
    step 0      step 1           step n                          an incomplete last batch is dropped

Any step can be asked for at any time, so a run resumes, or a plan reorders, without replaying a sampler.
A data set is map-style: `len(data)`, and `data[i]`, a dict of tensors named as the model's forward
arguments (or as the job's loss expects them). An item may be augmented at random: it is read under seeds of its own
for torch's, numpy's and Python's generators, by job, epoch and index (`seeding`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate

from hydraplan.planner.frontend.users.imports import load
from hydraplan.planner.frontend.users.lengths import padded
from hydraplan.planner.frontend.users.seeding import item_seed, kept_as_they_are, seed_all, seeded
from hydraplan.planner.frontend.users.usercode import RAISED, said
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Job, Lengths, Target

FINGERPRINT_ITEMS = 5
"""Items that a data set's fingerprint looks at, evenly spread from the first to the last."""


class MapDataset(Protocol):
    """What a job's data target returns."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobData:
    """A job's data set with its order: the batch of every training step."""

    name: str
    """The target's path, for messages."""
    dataset: MapDataset
    seed: int
    batch_size: int
    microbatches: int
    lengths: Lengths | None = None
    """What items of differing length are padded to; None: they are all of one size."""

    @property
    def steps_per_epoch(self) -> int:
        return len(self.dataset) // self.batch_size

    @property
    def dropped(self) -> str | None:
        """What the user should know: how many items each epoch leaves out; None: none."""
        rest = len(self.dataset) % self.batch_size
        if not rest:
            return None
        return (
            f"data {self.name}: {len(self.dataset)} items make {self.steps_per_epoch} batches of {self.batch_size}; "
            f"the last {rest} of each epoch's order are dropped"
        )

    def batch(self, step: int) -> dict[str, Tensor]:
        """The whole batch of a training step, items stacked along dimension 0."""
        return self._collate(step, 0, self.batch_size)

    def microbatch(self, step: int, microbatch: int) -> dict[str, Tensor]:
        """The rows of the batch that one microbatch trains on."""
        rows = self.batch_size // self.microbatches
        first = microbatch * rows
        if self.lengths is not None:  # all items of the step have a say in its length
            return {name: value[first : first + rows] for name, value in self.batch(step).items()}
        return self._collate(step, first, rows)

    def _collate(self, step: int, first: int, rows: int) -> dict[str, Tensor]:
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size + first
        indices = order(len(self.dataset), self.seed, epoch)[start : start + rows].tolist()
        with kept_as_they_are():
            items = [self._read(index, item_seed(self.seed, epoch, index)) for index in indices]
        if self.lengths is not None:
            items = padded(self.name, dict(zip(indices, items, strict=True)), self.lengths)
        names = sorted(items[0])
        try:
            if any(sorted(item) != names for item in items):
                raise KeyError("their keys differ")
            collated: dict[str, Tensor] = default_collate(items)
        except (RuntimeError, KeyError) as error:
            raise WorkloadError(
                f"data {self.name}: items {indices} do not stack to a batch: {error}; "
                "give every item the same keys and shapes, or have those that differ padded by the job's lengths"
            ) from error
        return collated

    def item(self, index: int, epoch: int = 0) -> dict[str, Tensor]:
        """One item of the data set as an epoch has it, checked."""
        with kept_as_they_are():
            return self._read(index, item_seed(self.seed, epoch, index))

    def _read(self, index: int, seed: int) -> dict[str, Tensor]:
        seed_all(seed)
        try:
            item: Any = self.dataset[index]
        except RAISED as error:
            raise WorkloadError(f"data {self.name}: item {index} failed: {said(error)}") from error
        if not isinstance(item, Mapping):
            raise WorkloadError(
                f"data {self.name}: item {index} is a {type(item).__name__}; "
                "return a dict of tensors named as the arguments of the model's forward"
            )
        for key, value in item.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise WorkloadError(
                    f"data {self.name}: item {index} has {key!r}: {type(value).__name__}; only tensors under names "
                    "can be batched: wrap it in torch.tensor, or leave it out"
                )
        if not item:
            raise WorkloadError(f"data {self.name}: item {index} is empty")
        return dict(item)

    def fingerprint(self) -> str:
        """sha256 over the length and a few items: whether the data has changed, without reading all of it.

        Whatever the job's seed, they are read under the same ones. Raises WorkloadError where an item differs each time
        that it is read.
        """
        items, last = len(self.dataset), FINGERPRINT_ITEMS - 1
        digest = hashlib.sha256(f"items {items}".encode())
        for index in sorted({(items - 1) * i // last for i in range(FINGERPRINT_ITEMS)}):
            with kept_as_they_are():
                item, again = (self._read(index, item_seed(0, 0, index)) for _ in range(2))
            self._check_same(index, item, again)
            for name, value in sorted(item.items()):
                digest.update(f"{index} {name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _check_same(self, index: int, item: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
        different = [name for name in sorted(item.keys() | again.keys()) if not _same(item.get(name), again.get(name))]
        if different:
            raise WorkloadError(
                f"data {self.name}: item {index} differs each time that it is read, in {', '.join(different)}, so that "
                "no run could be repeated; let it follow from its index, or draw from the process-wide generators of "
                "torch, numpy.random or random, which are seeded for each item and epoch, not from one of its own"
            )


def _same(value: Tensor | None, other: Tensor | None) -> bool:
    if value is None or other is None or (value.shape, value.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(value.isnan(), other.isnan()) and torch.equal(value.nan_to_num(), other.nan_to_num())


def open_data(job: Job, opened: dict[tuple[Target, int], MapDataset] | None = None) -> JobData:
    """The data of a job; its data set is made here, or taken from those `opened` before, which it joins.

    Raises WorkloadError where the target is not a map-style data set, is smaller than one batch, or the
    batch does not divide into the microbatches.
    """
    if job.batch_size < 1 or job.microbatches < 1 or job.batch_size % job.microbatches:
        raise WorkloadError(
            f"job {job.name}: batch size {job.batch_size} does not divide into {job.microbatches} microbatches"
        )
    dataset = opened.get((job.data, job.seed)) if opened is not None else None
    if dataset is None:
        dataset = open_dataset(job.data, job.seed)
        if opened is not None:
            opened[job.data, job.seed] = dataset
    data = JobData(
        name=job.data.path,
        dataset=dataset,
        seed=job.seed,
        batch_size=job.batch_size,
        microbatches=job.microbatches,
        lengths=job.lengths,
    )
    if data.steps_per_epoch == 0:
        raise WorkloadError(
            f"job {job.name}: data {job.data.path} has {len(data.dataset)} items, "
            f"fewer than one batch of {job.batch_size}"
        )
    return data


def open_dataset(target: Target, seed: int) -> MapDataset:
    """Call a data target under a job's seed. Raises WorkloadError where it fails or gives no map-style data set."""
    factory = load(target.path)
    try:
        with seeded(seed):
            dataset = factory(**dict(target.arguments))
        map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        if map_style:
            len(dataset)
    except RAISED as error:
        raise WorkloadError(f"data {target.path} failed: {said(error)}") from error
    if not map_style:
        raise WorkloadError(
            f"data {target.path} gives a {type(dataset).__name__}; "
            "give a map-style data set: one with len() and [index]"
        )
    return dataset  # type: ignore[no-any-return]


def steps_of_epochs(epochs: int, items: int, batch_size: int) -> int:
    """Training steps of whole epochs, each without its incomplete last batch."""
    return epochs * (items // batch_size)


@lru_cache(maxsize=64)
def order(items: int, seed: int, epoch: int) -> Tensor:
    """The permutation of an epoch: item indices, from a generator of its own keyed by (seed, epoch)."""
    key = hashlib.sha256(f"order/{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    return torch.randperm(items, generator=generator)
