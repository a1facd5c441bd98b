"""Small plans without torch: a workload, facts with given costs, and straightforward hand-made lists.

    toy_workload(...)   jobs and devices
    toy_layout(...)     a chain of shards, with a tied slab and a value that skips over shards where wanted
    toy_plan(...)       every job streamed through one device, one phase, residents and device updates as named

Every cell is brought what it needs by the lines above it; nothing is prefetched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from hydraplan.plans.language.digests import decisions_digest, facts_digest, lists_digest
from hydraplan.plans.language.facts import CellTimes, Facts, Graph, JobFacts, Layout, ShardFacts, SlabFacts
from hydraplan.plans.language.plan import (
    Cuts,
    Decisions,
    DevicePrediction,
    Fingerprint,
    JobPrediction,
    Phase,
    PhaseDecision,
    Placement,
    Plan,
    Predictions,
    SolverRecord,
)
from hydraplan.plans.language.steps import (
    Backward,
    Drop,
    FetchBatch,
    Forward,
    Load,
    Save,
    Spill,
    SpillGradients,
    Step,
    Update,
)
from hydraplan.plans.language.workload import HOST, Cluster, Device, Job, Link, Profile, Target, Workload
from hydraplan.plans.prediction.simulate import predict

BUFFER_BYTES = 512
MIB = 1 << 20
PROFILE = "toy"


def toy_cluster(
    devices: int = 2,
    *,
    budget_bytes: int = 64 * MIB,
    bytes_per_s: int = 100_000_000,
    shared_link: bool = False,
    update_workers: int = 1,
) -> Cluster:
    """Devices `cpu0`, `cpu1`, ..., each with a link `link0`, ... of its own unless `shared_link`."""
    names = ["link0"] if shared_link else [f"link{number}" for number in range(devices)]
    return Cluster(
        devices=tuple(
            Device(
                name=f"cpu{number}",
                backing="cpu",
                budget_bytes=budget_bytes,
                link=names[0 if shared_link else number],
                profile=PROFILE,
            )
            for number in range(devices)
        ),
        links=tuple(Link(name=name, load_bytes_per_s=bytes_per_s, spill_bytes_per_s=bytes_per_s) for name in names),
        profiles=(
            Profile(
                name=PROFILE,
                flops_per_s=10**10,
                bytes_per_s=10**10,
                node_ns=5_000,
                copy_bytes_per_s=10**9,
                update_bytes_per_s=10**9,
            ),
        ),
        host_memory_bytes=1 << 33,
        host_profile=PROFILE,
        update_workers=update_workers,
    )


def toy_job(name: str, *, steps: int = 4, microbatches: int = 2) -> Job:
    return Job(
        name=name,
        model=Target(path="toy.models:Chain", arguments=(("width", 8),)),
        data=Target(path="toy.data:numbers"),
        loss=None,
        optimizer=Target(path="AdamW", arguments=(("betas", (0.9, 0.95)), ("lr", 1e-3))),
        steps=steps,
        batch_size=4 * microbatches,
        microbatches=microbatches,
        seed=0,
        threads=1,
        precision="fp32",
    )


def toy_workload(jobs: int = 1, *, cluster: Cluster | None = None, steps: int = 4, microbatches: int = 2) -> Workload:
    """Jobs `a`, `b`, ..."""
    return Workload(
        cluster=cluster or toy_cluster(),
        jobs=tuple(toy_job(chr(ord("a") + number), steps=steps, microbatches=microbatches) for number in range(jobs)),
    )


def toy_layout(
    shards: int = 3,
    *,
    graph: str = "chain",
    slab_bytes: int = MIB,
    activation_bytes: int = 64 * 1024,
    forward_us: int = 1_000,
    backward_us: int = 2_000,
    tied: bool = True,
    skip: bool = False,
    frozen: int = 0,
    buffers: Collection[int] = (),
    profiles: Sequence[str] = (PROFILE,),
) -> Layout:
    """A chain of shards of one cost, cut every ten nodes.

    `tied`: the first and the last shard share a slab as well. `skip`: the last shard also reads the first's
    activations. The first shard reads the batch, and so does the last (the labels). `frozen`: of so many shards
    from the first on nothing is trained, of those after them a quarter of each slab; a tied slab is then frozen too.
    `buffers`: shards whose forwards update some.
    """
    last = shards - 1
    shared = f"0+{last}"
    has_shared = tied and last > 0
    names = [[str(number), shared] if has_shared and number in (0, last) else [str(number)] for number in range(shards)]
    trained = slab_bytes // 4 if frozen else slab_bytes
    slabs = [
        SlabFacts(
            name=str(n),
            readers=(n,),
            parameter_bytes=slab_bytes + (BUFFER_BYTES if n in buffers else 0),
            trainable_bytes=0 if n < frozen else trained,
            buffer_bytes=BUFFER_BYTES if n in buffers else 0,
        )
        for n in range(shards)
    ]
    if has_shared:
        half = slab_bytes // 2
        slabs.append(
            SlabFacts(name=shared, readers=(0, last), parameter_bytes=half, trainable_bytes=0 if frozen else half)
        )
    sizes = {slab.name: slab.trainable_bytes for slab in slabs}
    reads = [tuple(sorted({n - 1} | ({0} if skip and n == last else set()))) if n else () for n in range(shards)]
    return Layout(
        graph=graph,
        cuts=tuple(10 * number for number in range(1, shards)),
        shards=tuple(
            ShardFacts(
                slabs=tuple(names[number]),
                reads=reads[number],
                gradients_to=tuple(producer for producer in reads[number] if producer >= frozen),
                gradient_bytes=tuple((name, sizes[name]) for name in names[number] if sizes[name]),
                activation_bytes=activation_bytes if number < last else 256,
                activation_gradient_bytes=activation_bytes if frozen <= number < last else 0,
                batch_bytes=1024 if number in (0, last) else 0,
                forward_workspace_bytes=10_000,
                backward_workspace_bytes=20_000,
                recompute_workspace_bytes=50_000,
                keep_workspace_bytes=5_000,
                kept_bytes=30_000,
                buffer_bytes=BUFFER_BYTES if number in buffers else 0,
                times=tuple(CellTimes(profile=p, forward_us=forward_us, backward_us=backward_us) for p in profiles),
            )
            for number in range(shards)
        ),
        slabs=tuple(slabs),
    )


def toy_facts(workload: Workload, layout: Layout, *, state_copies: int = 2) -> Facts:
    """All jobs train the one graph."""
    nodes = 10 * len(layout.shards)
    return Facts(
        graphs=(
            Graph(
                name=layout.graph,
                digest="0" * 64,
                nodes=nodes,
                cut_positions=tuple(range(1, nodes)),
                parameter_bytes=sum(slab.parameter_bytes for slab in layout.slabs),
                construction_bytes=2 * sum(slab.parameter_bytes for slab in layout.slabs),
            ),
        ),
        layouts=(layout,),
        jobs=tuple(JobFacts(job=job.name, graph=layout.graph, state_copies=state_copies) for job in workload.jobs),
    )


def step_lines(layout: Layout, job: Job, placement: Placement, step: int = 0) -> list[Step]:
    """One training step of a job on one device: microbatches outside, shards inside."""
    device, name, last = placement.device, job.name, len(layout.shards) - 1
    streamed = [slab.name for slab in layout.slabs if slab.name not in placement.resident]
    lines: list[Step] = []
    for microbatch in range(job.microbatches):
        cell = _Cell(device=device, job=name, microbatch=microbatch, step=step)
        for number, shard in enumerate(layout.shards):
            lines += [Load(device=device, job=name, slab=slab) for slab in shard.slabs if slab in streamed]
            lines += [cell(FetchBatch, shard=number)] if shard.batch_bytes else []
            lines.append(cell(Forward, shard=number, keep=number in placement.keep))
            lines += [Drop(device=device, job=name, slab=slab) for slab in shard.slabs if slab in streamed]
        lines.append(cell(Save, shard=last, what="activations"))
        for number in reversed(range(len(layout.shards))):
            if not layout.shards[number].has_backward:
                continue
            slabs = [slab for slab in layout.shards[number].slabs if slab in streamed]
            lines += [Load(device=device, job=name, slab=slab) for slab in slabs]
            lines.append(cell(Backward, shard=number))
            lines += [Drop(device=device, job=name, slab=slab) for slab in slabs]
    for slab in layout.slabs:
        if slab.trainable_bytes:
            lines += _update_lines(layout, job, placement, slab, step)
    return lines


def _update_lines(layout: Layout, job: Job, placement: Placement, slab: SlabFacts, step: int) -> list[Step]:
    device, name = placement.device, job.name
    resident = slab.name in placement.resident
    lines: list[Step] = []
    if slab.name not in placement.device_updates:
        for shard in slab.readers:
            if slab.name in dict(layout.shards[shard].gradient_bytes):
                lines.append(
                    SpillGradients(
                        device=device,
                        job=name,
                        slab=slab.name,
                        shard=shard,
                        microbatches=(0, job.microbatches),
                        step=step,
                    )
                )
        lines.append(Update(device=HOST, job=name, slab=slab.name, step=step))
        if resident:
            lines.append(Load(device=device, job=name, slab=slab.name))
        return lines
    contents = ("parameters", "optimizer")
    if not resident:
        lines += [Load(device=device, job=name, slab=slab.name, what=what) for what in contents]
    lines.append(Update(device=device, job=name, slab=slab.name, step=step))
    if not resident:
        lines += [Spill(device=device, job=name, slab=slab.name, what=what) for what in contents]
        lines += [Drop(device=device, job=name, slab=slab.name, what=what) for what in contents]
    return lines


class _Cell:
    """Makes the steps of one microbatch."""

    def __init__(self, *, device: str, job: str, microbatch: int, step: int) -> None:
        self.fields = dict(device=device, job=job, microbatch=microbatch, step=step)

    def __call__(self, kind: Callable[..., Step], **more: object) -> Step:
        return kind(**self.fields, **more)


def toy_phase(
    layouts: Mapping[str, Layout],
    jobs: Sequence[Job],
    placements: Sequence[Placement],
    *,
    repeat: int,
) -> Phase:
    """The jobs one after another in each cycle, each by its placement's steps / repeat."""
    by_name = {job.name: job for job in jobs}
    prologue: list[Step] = []
    cycle: list[Step] = []
    epilogue: list[Step] = []
    for placement in placements:
        layout, job = layouts[placement.job], by_name[placement.job]
        for slab in placement.resident:
            contents = ("parameters", "optimizer") if slab in placement.device_updates else ("parameters",)
            updated = [] if len(contents) == 1 else contents
            prologue += [Load(device=placement.device, job=job.name, slab=slab, what=what) for what in contents]
            epilogue += [Spill(device=placement.device, job=job.name, slab=slab, what=what) for what in updated]
            epilogue += [Drop(device=placement.device, job=job.name, slab=slab, what=what) for what in contents]
        for step in range(placement.steps // repeat):
            cycle += step_lines(layout, job, placement, step)
    return Phase(repeat=repeat, prologue=tuple(prologue), cycle=tuple(cycle), epilogue=tuple(epilogue))


def toy_plan(
    workload: Workload | None = None,
    layout: Layout | None = None,
    placements: Sequence[Placement] | None = None,
    *,
    phases: Sequence[Phase] | None = None,
    repeat: int = 2,
    state_copies: int = 2,
    predicted: bool = True,
) -> Plan:
    """A complete plan with digests and, unless not `predicted`, predictions.

    By default every job streams through the first device, in one phase. `phases`: lists of one's own, each
    with the `placements` as its decisions.
    """
    workload = workload or toy_workload()
    layout = layout or toy_layout()
    placements = placements or [
        Placement(job=job.name, device=workload.cluster.devices[0].name, steps=job.steps) for job in workload.jobs
    ]
    layouts = {job.name: layout for job in workload.jobs}
    if phases is None:
        phases = [toy_phase(layouts, workload.jobs, placements, repeat=repeat)]
    decisions = Decisions(
        cuts=tuple(Cuts(job=job.name, cuts=layout.cuts) for job in workload.jobs),
        phases=(PhaseDecision(placements=tuple(placements)),) * len(phases),
    )
    facts = toy_facts(workload, layout, state_copies=state_copies)
    plan = Plan(
        workload=workload,
        facts=facts,
        facts_digest=facts_digest(facts),
        decisions=decisions,
        lists_from=decisions_digest(decisions),
        lists_digest=lists_digest(tuple(phases)),
        phases=tuple(phases),
        predictions=no_predictions(workload),
        solver=SolverRecord(name="list", status="not run", objective_us=0, bound_us=0, gap=0.0, list_schedule_us=0),
        fingerprints=(Fingerprint(name="torch", value="2.13.0"),),
    )
    return replace(plan, predictions=predict(plan)) if predicted else plan


def no_predictions(workload: Workload) -> Predictions:
    """Complete, and empty of meaning: what simulates a plan takes longer than many tests have."""
    nothing = dict.fromkeys(
        ("arena_bytes", "workspace_bytes", "kept_bytes", "peak_bytes", "compute_us", "load_us", "spill_us"), 0
    )
    return Predictions(
        makespan_us=0,
        lower_bound_us=0,
        gap=0.0,
        host_peak_bytes=0,
        host_update_us=0,
        devices=tuple(DevicePrediction(device=device.name, **nothing) for device in workload.cluster.devices),
        jobs=tuple(JobPrediction(job=job.name, finish_us=0) for job in workload.jobs),
    )
