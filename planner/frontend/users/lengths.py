"""Items of differing length as one batch: padded to a bucket, one of few lengths that the job declares.

    items of a training step        5    9    3    12             first dimension of the keys that are padded
    buckets 8, 16, 32          ->  16   16   16    16             the smallest that holds the longest of all

The bucket follows from data and seed alone: microbatches of a step share it, however a plan places them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import torch
from torch import Tensor

from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Job, Lengths, Pad


def padded(data: str, items: Mapping[int, Mapping[str, Tensor]], lengths: Lengths) -> list[dict[str, Tensor]]:
    """The items (by number) of a whole batch, all at the length of its bucket. `data`: the data set, for messages.

    Raises WorkloadError, naming the item, where one is longer than the largest bucket or lacks a key to pad.
    """
    length = _bucket(data, items, lengths)
    fills = dict(lengths.pad)
    return [
        {key: _fill_up(data, key, value, length, fills[key]) if key in fills else value for key, value in item.items()}
        for item in items.values()
    ]


def _bucket(data: str, items: Mapping[int, Mapping[str, Tensor]], lengths: Lengths) -> int:
    """The smallest bucket that holds every item."""
    longest = 0
    for number, item in items.items():
        for key, _ in lengths.pad:
            value = item.get(key)
            if value is None or value.dim() == 0:
                found = f"only {', '.join(sorted(item))}" if value is None else "one number"
                raise WorkloadError(
                    f"data {data}: item {number} has {found} where lengths.pad names {key!r}; "
                    "pad keys that every item holds, whose first dimension is its length"
                )
            if len(value) > lengths.buckets[-1]:
                raise WorkloadError(
                    f"data {data}: {key} of item {number} has length {len(value)}, {len(value) - lengths.buckets[-1]} "
                    f"more than the largest bucket, {lengths.buckets[-1]}; shorten the item, or add a bucket"
                )
            longest = max(longest, len(value))
    return lengths.buckets[bisect_left(lengths.buckets, longest)]


def _fill_up(data: str, key: str, value: Tensor, length: int, fill: Pad) -> Tensor:
    if not _holds(value.dtype, fill):
        raise WorkloadError(
            f"data {data}: {key} is {value.dtype}, which has no {fill!r}; pad it with another value in lengths.pad"
        )
    result = value.new_full((length, *value.shape[1:]), fill)
    result[: len(value)] = value
    return result


def _holds(dtype: torch.dtype, fill: Pad) -> bool:
    if dtype.is_floating_point or dtype.is_complex:
        return True
    if dtype is torch.bool:
        return fill in (0, 1)
    return fill == int(fill) and torch.iinfo(dtype).min <= fill <= torch.iinfo(dtype).max


def examples(job: Job, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """A microbatch of every bucket, ascending, from a microbatch of any: cut off, or filled up by what pads.

    Of a job without lengths: the microbatch.
    """
    if job.lengths is None:
        return (dict(batch),)
    fills = dict(job.lengths.pad)
    return tuple(
        {key: _of_length(value, length, fills[key]) if key in fills else value for key, value in batch.items()}
        for length in job.lengths.buckets
    )


def _of_length(value: Tensor, length: int, fill: Pad) -> Tensor:
    result = value.new_full((len(value), length, *value.shape[2:]), fill)
    shared = min(length, value.shape[1])
    result[:, :shared] = value[:, :shared]
    return result


def length_of(batch: Mapping[str, Tensor], lengths: Lengths) -> int:
    """The bucket that a batch was padded to."""
    key, _ = lengths.pad[0]
    return int(batch[key].shape[1])
