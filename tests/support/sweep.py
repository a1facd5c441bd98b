"""Workloads of the size that the planner is for, without torch: facts as a tracer would give them.

xl_sweep(12, 8)     GPT-2 XL: 48 blocks of 123 MB, tied embeddings of 320 MB
gptj()              GPT-J 6B: 28 blocks of 805 MB, two embeddings of 826 MB
"""

from __future__ import annotations

from hydraplan.plans.language.facts import CellTimes, Facts, Graph, JobFacts, Layout, ShardFacts, SlabFacts
from hydraplan.plans.language.workload import Cluster, Device, Job, Link, Profile, Target, Workload

GIB = 1 << 30
GPU = Profile(
    name="rtx2080ti",
    flops_per_s=10 * 10**12,
    bytes_per_s=600 * 10**9,
    node_ns=10_000,
    copy_bytes_per_s=12 * 10**9,
    update_bytes_per_s=500 * 10**9,
)
HOST_CPU = Profile(
    name="cpu",
    flops_per_s=10**12,
    bytes_per_s=100 * 10**9,
    node_ns=10_000,
    copy_bytes_per_s=50 * 10**9,
    update_bytes_per_s=100 * 10**9,
)


def gpu_cluster(devices: int, *, budget_bytes: int = 11 * GIB, bytes_per_s: int = 12 * 10**9) -> Cluster:
    return Cluster(
        devices=tuple(
            Device(
                name=f"gpu{number}",
                backing=f"cuda:{number}",
                budget_bytes=budget_bytes,
                link=f"pcie{number}",
                profile=GPU.name,
            )
            for number in range(devices)
        ),
        links=tuple(
            Link(name=f"pcie{number}", load_bytes_per_s=bytes_per_s, spill_bytes_per_s=bytes_per_s)
            for number in range(devices)
        ),
        profiles=(HOST_CPU, GPU),
        host_memory_bytes=1 << 40,
        host_profile=HOST_CPU.name,
        update_workers=1,
    )


def block_layout(
    name: str, blocks: int, *, block_bytes: int, embedding_bytes: int, tied: bool, tokens: int, width: int
) -> Layout:
    """A transformer: an embedding and a head (one tied slab, or two), and blocks, each a shard."""
    last = blocks - 1
    boundary = tokens * width * 4
    block_us = round(2 * block_bytes / 4 * tokens / GPU.flops_per_s * 1e6)
    head_us = round(2 * embedding_bytes / 4 * tokens / GPU.flops_per_s * 1e6)
    shards = []
    for number in range(blocks):
        slabs = [str(number)]
        if number in (0, last):
            slabs.append(f"0+{last}" if tied else f"e{number}")
        forward = block_us + (head_us if number == last else 0)
        gradients = [(str(number), block_bytes)]
        if len(slabs) > 1:
            gradients.append((slabs[1], embedding_bytes))
        shards.append(
            ShardFacts(
                slabs=tuple(slabs),
                reads=(number - 1,) if number else (),
                gradients_to=(number - 1,) if number else (),
                gradient_bytes=tuple(gradients),
                activation_bytes=boundary if number < last else 256,
                activation_gradient_bytes=boundary if number < last else 0,
                batch_bytes=tokens * 8 if number in (0, last) else 0,
                forward_workspace_bytes=6 * boundary,
                backward_workspace_bytes=block_bytes + 8 * boundary,
                recompute_workspace_bytes=block_bytes + 24 * boundary,
                keep_workspace_bytes=6 * boundary,
                kept_bytes=16 * boundary,
                times=(
                    CellTimes(profile=GPU.name, forward_us=forward, backward_us=2 * forward),
                    CellTimes(profile=HOST_CPU.name, forward_us=10 * forward, backward_us=20 * forward),
                ),
            )
        )
    slabs_of = [
        SlabFacts(name=str(n), readers=(n,), parameter_bytes=block_bytes, trainable_bytes=block_bytes)
        for n in range(blocks)
    ]
    ends = [(f"0+{last}", (0, last))] if tied else [("e0", (0,)), (f"e{last}", (last,))]
    slabs_of += [
        SlabFacts(name=n, readers=readers, parameter_bytes=embedding_bytes, trainable_bytes=embedding_bytes)
        for n, readers in ends
    ]
    return Layout(graph=name, cuts=tuple(range(1, blocks)), shards=tuple(shards), slabs=tuple(slabs_of))


def job_of(name: str, *, steps: int, microbatches: int = 1) -> Job:
    return Job(
        name=name,
        model=Target(path="transformers:GPT2LMHeadModel"),
        data=Target(path="toy.data:numbers"),
        loss=None,
        optimizer=Target(path="AdamW", arguments=(("lr", 1e-3),)),
        steps=steps,
        batch_size=4 * microbatches,
        microbatches=microbatches,
        seed=0,
        threads=1,
        precision="fp32",
    )


def facts_of(jobs: tuple[Job, ...], layouts: tuple[Layout, ...], graph_of: dict[str, str]) -> Facts:
    return Facts(
        graphs=tuple(
            Graph(
                name=layout.graph,
                digest="0" * 64,
                nodes=len(layout.shards) + 1,
                cut_positions=layout.cuts,
                parameter_bytes=sum(slab.parameter_bytes for slab in layout.slabs),
                construction_bytes=sum(slab.parameter_bytes for slab in layout.slabs),
            )
            for layout in layouts
        ),
        layouts=layouts,
        jobs=tuple(JobFacts(job=job.name, graph=graph_of[job.name], state_copies=2) for job in jobs),
    )


def xl_sweep(
    jobs: int = 12, devices: int = 8, *, steps: int = 100, tokens: tuple[int, ...] = (1024, 2048, 4096)
) -> tuple[Workload, Facts]:
    """Learning rates by batch sizes; a batch size is a graph of its own."""
    layouts = tuple(
        block_layout(
            f"xl{each}",
            48,
            block_bytes=123 * 10**6 // 256 * 256,
            embedding_bytes=322 * 10**6 // 256 * 256,
            tied=True,
            tokens=each,
            width=1600,
        )
        for each in tokens
    )
    made = tuple(job_of(f"xl-{number:02d}", steps=steps) for number in range(jobs))
    graphs = {job.name: layouts[number % len(layouts)].graph for number, job in enumerate(made)}
    return Workload(cluster=gpu_cluster(devices), jobs=made), facts_of(made, layouts, graphs)


def gptj(*, steps: int = 50, tokens: int = 2048) -> tuple[Workload, Facts]:
    layout = block_layout(
        "gptj",
        28,
        block_bytes=805 * 10**6 // 256 * 256,
        embedding_bytes=826 * 10**6 // 256 * 256,
        tied=False,
        tokens=tokens,
        width=4096,
    )
    made = (job_of("gptj", steps=steps),)
    return Workload(cluster=gpu_cluster(1), jobs=made), facts_of(made, (layout,), {"gptj": "gptj"})
