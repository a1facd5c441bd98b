"""How well the cost model predicts a CPU: predicted over measured time of GPT-2-style shards, by a fresh calibration.

    calibrate -> for each model: trace, cut in five, run each shard's forward and recomputing backward

All in one process on one thread. The last line is a JSON object; a ratio of 1 is a perfect prediction.
"""

from __future__ import annotations

import json
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from hydraplan.planner.costs.calibrate import calibrate
from hydraplan.planner.costs.forms import ShardForms
from hydraplan.planner.costs.operators import seconds
from hydraplan.planner.costs.shards import cell_arguments, measure
from hydraplan.planner.frontend.shards.program import ShardedGraph, TensorLayout
from hydraplan.planner.frontend.shards.sharded import shard
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.plans.language.workload import Job, Profile, Target, Value

REPEATS = 9
SHARDS = 5

MODELS: dict[str, dict[str, int | float]] = {
    "small": {"n_embd": 64, "n_layer": 4, "n_head": 2, "vocab_size": 256, "n_positions": 64},
    "medium": {"n_embd": 256, "n_layer": 4, "n_head": 4, "vocab_size": 1000, "n_positions": 128},
    "large": {"n_embd": 768, "n_layer": 2, "n_head": 12, "vocab_size": 5000, "n_positions": 256},
}
ROWS = {"small": 2, "medium": 4, "large": 1}


def main() -> None:
    torch.set_num_threads(1)
    profile = calibrate("bench")
    print(profile)
    ratios = {}
    for name in MODELS:
        predicted, measured = compare(name, profile)
        ratios[name] = predicted / measured
        print(f"{name}: predicted {predicted * 1e3:.1f} ms, measured {measured * 1e3:.1f} ms")
    print(json.dumps({f"predicted_over_measured_{name}": round(ratio, 3) for name, ratio in ratios.items()}))


def compare(name: str, profile: Profile) -> tuple[float, float]:
    """Seconds of all shards' forwards and recomputing backwards: (predicted, measured)."""
    job = _job(name)
    tokens = torch.randint(0, 200, (ROWS[name], int(MODELS[name]["n_positions"])))
    traced = trace(job, {"input_ids": tokens, "labels": tokens})
    every = len(traced.cut_positions) // SHARDS
    sharded = shard(traced, traced.cut_positions[every::every][: SHARDS - 1])
    forms = ShardForms(traced, sharded)
    predicted = measured = 0.0
    for number in range(SHARDS):
        running = forms.running(number)
        cost = measure(sharded, number, running)
        predicted += 2 * seconds(cost.forward, profile) + seconds(cost.backward, profile)
        measured += _cell_seconds(sharded, number, running)
    return predicted, measured


def _cell_seconds(sharded: ShardedGraph, number: int, running: dict[int, tuple[str, ...]]) -> float:
    forward, backward = cell_arguments(sharded, number, running, _real)
    program = sharded.programs[number]
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        program.forward(**forward, keep=False)
        program.backward(**forward, **backward, kept=None)
        times.append(perf_counter() - start)
    return median(times[1:])


def _real(layout: TensorLayout) -> Tensor:
    elements = layout.size_bytes // layout.dtype.itemsize
    floating = layout.dtype.is_floating_point
    flat = torch.randn(elements) * 0.1 if floating else torch.zeros(elements, dtype=layout.dtype)
    return flat.as_strided(layout.shape, layout.stride)


def _job(name: str) -> Job:
    arguments: dict[str, Value] = {**MODELS[name], "bos_token_id": 0, "eos_token_id": 0}
    return Job(
        name=name,
        model=Target(path="transformers:GPT2LMHeadModel", arguments=tuple(sorted(arguments.items()))),
        data=Target(path="hydraplan.tools.bench.cost:main"),
        loss=None,
        optimizer=Target(path="AdamW"),
        steps=1,
        batch_size=ROWS[name],
        microbatches=1,
        seed=0,
        threads=1,
        precision="fp32",
    )


if __name__ == "__main__":
    main()
