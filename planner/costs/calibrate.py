"""A short calibration of this machine's CPU for the threads of one cell, kept in a named file.

    rate                measured on
    flops_per_s         a product of [512, 768] and [768, 2304] matrices, forward and both backward ones
    bf16_flops_per_s    a product of [128, 256] and [256, 1024] matrices in bf16, likewise
    bytes_per_s         sums of 4 MiB tensors, 24 in turn, so that most come from memory
    functions_per_s     tanh of 4 MiB tensors, 8 in turn, less their traffic
    node_ns             a tiny transformer block, run as a cell, forward and backward, per aten operator
    copy_bytes_per_s    a copy of 64 MiB
    update_bytes_per_s  torch's fused AdamW on 12 million elements in 12 views

The file is an input of the plan: the same file gives the same plan, on any machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from hydraplan.planner.costs.operators import CountWork, Work
from hydraplan.planner.costs.shards import cell_arguments
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.plans.file.reading import MOST_WORKLOAD_BYTES, read_bounded
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.names import did_you_mean
from hydraplan.plans.language.workload import Job, Profile, Target
from hydraplan.plans.prediction.durations import update_bytes

FORMAT = "hydraplan-profile/1"
FLOAT_BYTES = 4
SECONDS_EACH = 0.5
"""Time given to each measurement; the seven together stay well below ten seconds."""
MATRIX_EFFICIENCY = 0.97
"""What a training step reaches of the rate of one product measured over and over."""


def calibrate(name: str = "cpu", *, threads: int = 1) -> Profile:
    """Measure this machine's CPU, in about six seconds, at so many intra-op threads."""
    with _threads(threads):
        traffic = _traffic_rate()
        return Profile(
            name=name,
            flops_per_s=round(_flops_rate(512, 768, 2304, torch.float32) * MATRIX_EFFICIENCY),
            # Smaller: without instructions of its own for bf16 a CPU takes 25 times as long as in fp32.
            bf16_flops_per_s=round(_flops_rate(128, 256, 1024, torch.bfloat16) * MATRIX_EFFICIENCY),
            bytes_per_s=round(traffic),
            node_ns=max(1, round(_node_seconds() * 1e9)),
            copy_bytes_per_s=round(_copy_rate()),
            update_bytes_per_s=round(_update_rate()),
            functions_per_s=round(_functions_rate(traffic)),
        )


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile to a file of its own, for people to read and keep."""
    path.write_text(json.dumps({"format": FORMAT} | asdict(profile), indent=2) + "\n")


def read_profile(path: Path) -> Profile:
    """Read a profile's file. Raises WorkloadError for anything but exactly a profile."""
    try:
        text = read_bounded(path, MOST_WORKLOAD_BYTES)
        content = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except OSError as error:
        raise WorkloadError(f"profile {path}: {error.strerror}: write it with `hydraplan profile`") from error
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"profile {path} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise WorkloadError(f'profile {path} has no "format": "{FORMAT}": write it with `hydraplan profile`')
    known = {field.name for field in fields(Profile)}
    optional = {field.name for field in fields(Profile) if field.default is None}
    unknown, missing = sorted(content.keys() - known), sorted(known - optional - content.keys())
    if unknown:
        meant = "; ".join(f"unknown {name}, {did_you_mean(name, known)}" for name in unknown)
        raise WorkloadError(f"profile {path}: {meant}")
    if missing:
        raise WorkloadError(f"profile {path}: missing {', '.join(missing)}")
    for key, value in content.items():
        if key == "name":
            right = isinstance(value, str) and bool(value)
        elif key in optional and value is None:
            right = True
        else:
            right = type(value) is int and 0 < value < 2**63
        if not right:
            expected = "a name" if key == "name" else "a whole number above 0"
            raise WorkloadError(f"profile {path}: {key} is {repr(value)[:100]}; write {expected}")
    return Profile(**content)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(work: Callable[[], object]) -> float:
    """Time of `work`, repeated after a warm-up for `SECONDS_EACH`: the first octile, since others only slow it down."""
    work()
    times: list[float] = []
    start = perf_counter()
    while len(times) < 5 or perf_counter() - start < SECONDS_EACH:
        before = perf_counter()
        work()
        times.append(perf_counter() - before)
    return sorted(times)[len(times) // 8]


def _flops_rate(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    shapes = ((rows, inner), (inner, columns), (rows, columns))
    value, weight, gradient = (torch.rand(shape).to(dtype) for shape in shapes)

    def products() -> None:
        value @ weight
        value.t() @ gradient
        gradient @ weight.t()

    return 3 * 2 * rows * inner * columns / _seconds(products)


def _traffic_rate() -> float:
    values = [torch.rand(1 << 20) for _ in range(24)]
    results: dict[int, Tensor] = {}

    def sums() -> None:
        for index, value in enumerate(values):
            results[index] = values[index - 1] + value

    return len(values) * 3 * FLOAT_BYTES * values[0].numel() / _seconds(sums)


def _functions_rate(traffic: float) -> float:
    values = [torch.randn(1 << 20) for _ in range(8)]

    def functions() -> list[Tensor]:
        return [value.tanh() for value in values]

    elements = len(values) * values[0].numel()
    seconds = _seconds(functions)
    # On a noisy machine the two may not fit together; at least half of a tanh is arithmetic.
    return elements / max(seconds - 2 * FLOAT_BYTES * elements / traffic, seconds / 2)


def _copy_rate() -> float:
    source, target = torch.zeros(1 << 26, dtype=torch.uint8), torch.zeros(1 << 26, dtype=torch.uint8)
    return source.numel() / _seconds(lambda: target.copy_(source))


def _update_rate() -> float:
    state_copies, parts, part = 2, 12, 1_000_000
    slab = torch.rand(parts * part)
    parameters = [slab[index * part : (index + 1) * part].requires_grad_() for index in range(parts)]
    for parameter in parameters:
        parameter.grad = torch.rand(part)
    step = torch.optim.AdamW(parameters, fused=True).step
    return update_bytes(FLOAT_BYTES * slab.numel(), state_copies) / _seconds(step)


class TinyBlock(nn.Module):
    """A block of a transformer so small that running it is dispatch and little else."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 3 * width)
        self.outer = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, value: Tensor) -> Tensor:
        query, key, content = self.inner(self.norm(value)).split(value.shape[-1], dim=-1)
        attended = nn.functional.scaled_dot_product_attention(query, key, content)
        value = value + nn.functional.dropout(self.outer(attended), 0.1)
        result: Tensor = value + self.down(torch.tanh(self.up(value)) * 0.5)
        return result


def squared_mean(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The tiny block's loss."""
    loss: Tensor = model(batch["value"]).square().mean()
    return loss


def _node_seconds() -> float:
    """Per operator of a cell that recomputes, as the runtime runs it: code of the graph, hooks, autograd."""
    module = TinyBlock.__module__
    job = Job(
        name="calibration",
        model=Target(path=f"{module}:TinyBlock"),
        data=Target(path=f"{module}:TinyBlock"),
        loss=Target(path=f"{module}:squared_mean"),
        optimizer=Target(path="SGD"),
        steps=1,
        batch_size=1,
        microbatches=1,
        seed=0,
        threads=1,
        precision="fp32",
    )
    sharded = shard(trace(job, {"value": torch.rand(1, 4, 16)}), ())
    cell, backward = cell_arguments(
        sharded, 0, {}, lambda each: torch.rand(each.size_bytes // FLOAT_BYTES).as_strided(each.shape, each.stride)
    )
    program = sharded.programs[0]

    def step() -> None:
        program.forward(**cell, keep=False)
        program.backward(**cell, **backward, kept=None)

    with CountWork() as counted:
        step()
    work: Work = counted.work
    return _seconds(step) / work.operators
