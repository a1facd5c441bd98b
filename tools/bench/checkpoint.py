"""How much memory it takes to load a checkpoint of more than 1 GiB, and to save it again, against the host store.

    random checkpoint, in files of 300 MB -> hydraplan plan -> a process of its own: load all into the store, save

    gpt2       its head tied to its embedding, a fifth of all; SGD, so that the store is the parameters and no more
    adamw      the same with two copies of optimizer state in the store
    mixtral    an expert lies in the file on its own, in the model with the others: what is converted on the way

The kernel counts the memory, pages of mapped files included; what the process held after its imports is taken off.
The last line is a JSON object, with `predicted` (what the plan says of the same moment, Python's own objects aside) and
`within_aims`: whether every `load_peak_over_store` is at most 1.15; if not, the command ends with 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.workload import Checkpoint, Cluster, Device, Job, Link, Target, Workload

KIB = 1024
MOST_OVER_STORE = 1.15
FILE = "300MB"
VOCABULARY = 50_257
LENGTH = 16
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 12, "n_embd": 1280, "n_head": 20, "vocab_size": VOCABULARY}),
    "mixtral": (
        "MixtralForCausalLM",
        {
            "num_hidden_layers": 12,
            "hidden_size": 512,
            "intermediate_size": 1792,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "vocab_size": 8_192,
        },
    ),
}
RUNS = {"gpt2": ("gpt2", "SGD"), "adamw": ("gpt2", "AdamW"), "mixtral": ("mixtral", "SGD")}


class Rows:
    """Rows of one token."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        import torch

        row = torch.full((LENGTH,), index)
        return {"input_ids": row, "labels": row}


def main() -> None:
    figures: dict[str, dict[str, Any]] = {}
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            _inside(["make", model, folder])
            for run, (wanted, optimizer) in RUNS.items():
                if wanted == model:
                    path = Path(folder) / f"{run}.json"
                    _inside(["plan", model, folder, optimizer, str(path)])
                    figures[run] = json.loads(_inside(["load", str(path)]))
                    print(run, json.dumps(figures[run]))
    within = all(each["load_peak_over_store"] <= MOST_OVER_STORE for each in figures.values())
    print(json.dumps({**figures, "within_aims": within}))
    if not within:
        raise SystemExit(1)


def _inside(arguments: list[str]) -> str:
    """One step in a process of its own: its last line."""
    command = [sys.executable, "-m", "hydraplan.tools.bench.checkpoint", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().split("\n")[-1]


def make(model: str, folder: str) -> None:
    import torch
    import transformers

    name, config = MODELS[model]
    made = getattr(transformers, name)
    with torch.device("meta"):
        built = made(made.config_class(**config))
    built = built.to_empty(device="cpu")
    built.tie_weights()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.uniform_(-0.02, 0.02, generator=generator)
    built.save_pretrained(Path(folder) / "checkpoint", max_shard_size=FILE)


def plan(model: str, folder: str, optimizer: str, path: str) -> None:
    import hydraplan.planner
    from hydraplan.planner.costs.catalogue import profiles

    profile = profiles()["server-cpu"]
    job = Job(
        name="job",
        model=Target(path=f"transformers:{MODELS[model][0]}"),
        data=Target(path="hydraplan.tools.bench.checkpoint:Rows"),
        loss=None,
        optimizer=Target(path=optimizer),
        steps=1,
        batch_size=1,
        microbatches=1,
        seed=0,
        threads=1,
        precision="fp32",
        checkpoint=Checkpoint(folder=str(Path(folder) / "checkpoint")),
    )
    cluster = Cluster(
        devices=(Device(name="cpu0", backing="cpu", budget_bytes=2 << 30, link="link", profile=profile.name),),
        links=(Link(name="link", load_bytes_per_s=None, spill_bytes_per_s=None),),
        profiles=(profile,),
        host_memory_bytes=64 << 30,
        host_profile=profile.name,
        update_workers=1,
    )
    Path(path).write_text(dumps(hydraplan.planner.plan(Workload(cluster=cluster, jobs=(job,)), report=_tell)))


def load(path: str) -> None:
    import transformers

    from hydraplan.runtime.devices.cpu import CpuBacking
    from hydraplan.runtime.memory.store import HostStore
    from hydraplan.runtime.prepare import prepare
    from hydraplan.runtime.saving.weights import write_weights

    planned = loads(Path(path).read_text()).plan
    (job,) = planned.workload.jobs
    getattr(transformers, job.model.path.split(":")[1])  # an import of its own
    at_first = _held_now()
    store = HostStore(CpuBacking().host_memory)
    prepared = prepare(planned, store)
    loaded = _most_held() - at_first
    (copies,) = (each.state_copies for each in planned.facts.jobs)
    slabs = prepared.graphs[job.name].slabs
    size = sum(slab.parameter_bytes + copies * slab.trainable_bytes for slab in slabs)
    before = _held_now()
    write_weights(Path(path).with_suffix(".saved"), job, store)
    saved = _most_held() - before
    print(
        json.dumps(
            {
                "load_peak_over_store": round(loaded / size, 3),
                "predicted": round(planned.facts.graphs[0].construction_bytes / size, 3),
                "save_extra_over_store": round(saved / size, 3),
                "store_bytes": size,
            }
        )
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _held_now() -> int:
    """Bytes of memory that this process holds; the count of the most starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _most_held() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (each for each in lines if each.startswith(name + ":"))
    return int(line.split()[1]) * KIB


STEPS: dict[str, Callable[..., None]] = {"make": make, "plan": plan, "load": load}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        STEPS[sys.argv[1]](*sys.argv[2:])
    else:
        main()
