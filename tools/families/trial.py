"""One family's trial: planned, cut, executed streamed, and held against the plain PyTorch loop to the bit.

    study -> cuts -> plan -> other decisions, their lists -> execute
                                                                  exact    no dropout, streamed   == plain loop
                                                                  one      dropout, streamed     \\  == each
                                                                  other    dropout, resident     /     other

All three jobs are in one workload, so their models are traced as few times as possible.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from sysconfig import get_path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
import transformers
from torch import Tensor, nn

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.frontend.shards.deterministic import deterministic
from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.planner.lists.cycles import make_lists
from hydraplan.planner.study import Study, study
from hydraplan.plans.analysis.flow import layouts_of
from hydraplan.plans.language.digests import decisions_digest, lists_digest
from hydraplan.plans.language.errors import HydraplanError
from hydraplan.plans.language.facts import Layout
from hydraplan.plans.language.plan import PhaseDecision, Placement, Plan
from hydraplan.plans.language.workload import Cluster, Device, Job, Link, Profile, Target, Workload
from hydraplan.runtime import execute
from hydraplan.runtime.saving.plain import read_state
from hydraplan.tools.families.exportable import WithLoss, quiet, reason
from hydraplan.tools.families.tiny import entry, make_model

STEPS = 3
ROWS = 2
SEED = 5
LR, WEIGHT_DECAY = 0.001, 0.1
SHARDS = {"exact": 3, "one": 3, "other": 4}
GIB = 1 << 30
PROFILE = Profile(
    name="trial",
    flops_per_s=20_000_000_000,
    bytes_per_s=5_000_000_000,
    functions_per_s=60_000_000,
    node_ns=10_000,
    copy_bytes_per_s=4_000_000_000,
    update_bytes_per_s=4_000_000_000,
)
LIBRARIES = f"{get_path('purelib')}/"
"""Where transformers lies on this machine, which is nobody's business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one family."""

    entry: str
    class_name: str
    shards: tuple[int, ...] = ()
    """Of the jobs `exact`, `one` and `other`."""
    equals_plain_loop: bool | None = None
    """Losses and weights after three steps, without dropout; None: not reached."""
    plans_agree: bool | None = None
    """Losses and weights with dropout over two plans."""
    reason: str = ""
    """Why it does not pass."""
    seconds: float = 0.0

    @property
    def passes(self) -> bool:
        return bool(self.equals_plain_loop and self.plans_agree)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a training ends with."""

    losses: tuple[float, ...]
    weights: Mapping[str, Tensor]

    def difference(self, other: Result) -> str:
        """Where the bits differ first; empty: nowhere."""
        for step, (one, two) in enumerate(zip(self.losses, other.losses, strict=True)):
            if one != two:
                return f"the loss of step {step} is {one!r}, not {two!r}"
        for name in sorted({*self.weights, *other.weights}):
            if name not in self.weights or name not in other.weights:
                return f"{name} is missing"
            if not torch.equal(self.weights[name], other.weights[name]):
                return f"{name} differs"
        return ""


def trial(name: str) -> Outcome:
    """Try one family; whatever it raises is its reason."""
    start = perf_counter()
    quiet()
    torch.set_num_threads(1)
    outcome = Outcome(entry=name, class_name=entry(name).class_name)
    try:
        outcome = _trial(name, outcome)
    except HydraplanError as error:
        outcome = replace(outcome, reason=" ".join(str(error).replace(LIBRARIES, "").split()))
    except Exception as error:  # a defect of ours, as far as anyone knows
        outcome = replace(outcome, reason=f"unexpected {reason(error)}")
    return replace(outcome, seconds=round(perf_counter() - start, 1))


def _trial(name: str, outcome: Outcome) -> Outcome:
    workload = Workload(cluster=_cluster(), jobs=tuple(_job(name, each) for each in SHARDS))
    known = study(workload.jobs)
    cuts = {job: even_cuts(_graph(known, job), shards) for job, shards in SHARDS.items()}
    outcome = replace(outcome, shards=tuple(len(cuts[job]) + 1 for job in SHARDS))
    if min(outcome.shards) < 3:
        return replace(outcome, reason=f"its graph has places for {min(outcome.shards) - 1} cuts")
    made = plan(workload, studied=known, cuts=cuts, solver=SolverOptions(effort=1, rounds=1))
    results = run(_edited(made))
    expected = plain_loop(name)
    wrong = results["exact"].difference(expected)
    differ = results["one"].difference(results["other"])
    reasons = []
    if wrong:
        reasons.append(_explained(name, wrong, expected, _graph(known, "exact")))
    if differ:
        reasons.append(f"two plans with dropout: {differ}")
    return replace(outcome, equals_plain_loop=not wrong, plans_agree=not differ, reason="; ".join(reasons))


def _explained(name: str, wrong: str, expected: Result, graph: TracedGraph) -> str:
    random = [node for node in graph.nodes if node.target in keyed.KEYED]
    if random:
        return f"draws random numbers without dropout too, {random[0].meta['source'].location}: {wrong}"
    if again := plain_loop(name).difference(expected):
        return f"the plain loop does not repeat itself: {again}"
    if other := exported_loop(name).difference(expected):
        return (
            "where it is traced the model does other arithmetic than in its plain loop (so does the program that "
            f"torch.export makes: {other}), and where it is not, it reads values of tensors"
        )
    return f"against the plain loop: {wrong}"


def _graph(known: Study, job: str) -> TracedGraph:
    return known.graphs[known.graph_of[job]].traced


def even_cuts(graph: TracedGraph, shards: int) -> tuple[int, ...]:
    """Positions that divide a graph's nodes into about equal shards; fewer where it has fewer places."""
    allowed = graph.cut_positions
    ideal = [len(graph.nodes) * number / shards for number in range(1, shards)]
    chosen = {min(allowed, key=lambda each: (abs(each - place), each)) for place in ideal if allowed}
    spare = [each for each in allowed if each not in chosen]
    return tuple(sorted([*chosen, *spare[: shards - 1 - len(chosen)]]))


def _edited(made: Plan) -> Plan:
    """Two plans that differ in all that a plan decides; the job without dropout is streamed."""
    layouts = layouts_of(made)
    placements = (
        Placement(job="exact", device="cpu0", steps=STEPS),
        Placement(job="one", device="cpu0", steps=STEPS),
        _held(layouts["other"]),
    )
    decisions = replace(made.decisions, phases=(PhaseDecision(placements=placements),))
    phases = make_lists(made.workload, made.facts, decisions)
    return replace(
        made,
        decisions=decisions,
        phases=phases,
        lists_from=decisions_digest(decisions),
        lists_digest=lists_digest(phases),
    )


def _held(layout: Layout) -> Placement:
    """Half of the slabs stay and are updated on the device, half of the shards keep their activations."""
    slabs = layout.slabs[::2]
    return Placement(
        job="other",
        device="cpu1",
        steps=STEPS,
        resident=tuple(slab.name for slab in slabs),
        keep=tuple(range(0, len(layout.shards), 2)),
        device_updates=tuple(slab.name for slab in slabs if slab.trainable_bytes),
    )


def _job(name: str, job: str) -> Job:
    return Job(
        name=job,
        model=Target(
            path="hydraplan.tools.families.models:make", arguments=(("dropout", job != "exact"), ("name", name))
        ),
        data=Target(path="hydraplan.tools.families.models:rows", arguments=(("count", STEPS * ROWS), ("name", name))),
        loss=None,
        optimizer=Target(path="AdamW", arguments=(("lr", LR), ("weight_decay", WEIGHT_DECAY))),
        steps=STEPS,
        batch_size=ROWS,
        microbatches=1,
        seed=SEED,
        threads=1,
        precision="fp32",
    )


def _cluster() -> Cluster:
    names = ("cpu0", "cpu1")
    return Cluster(
        devices=tuple(
            Device(name=name, backing="cpu", budget_bytes=GIB, link=f"link-{name}", profile=PROFILE.name)
            for name in names
        ),
        links=tuple(Link(name=f"link-{name}", load_bytes_per_s=None, spill_bytes_per_s=None) for name in names),
        profiles=(PROFILE,),
        host_memory_bytes=8 * GIB,
        host_profile=PROFILE.name,
        update_workers=1,
    )


def run(made: Plan) -> dict[str, Result]:
    """Execute a plan and read what it leaves. RuntimeError where a job fails."""
    with TemporaryDirectory() as folder:
        directory = Path(folder, "run")
        done = execute(made, directory)
        if done.failed:
            raise RuntimeError(f"job {done.failed[0].job} failed: {done.failed[0].error}")
        return {job.job: _read(directory, job.job) for job in done.jobs}


def _read(directory: Path, job: str) -> Result:
    with (directory / "losses" / f"{job}.csv").open() as lines:
        losses = tuple(float(row["loss"]) for row in csv.DictReader(lines))
    return Result(losses=losses, weights=_state(directory / "weights" / job))


def _state(folder: Path) -> Mapping[str, Tensor]:
    """Under the names of the model itself: a file that transformers writes has some others, and tied ones once."""
    if not (folder / "config.json").exists():
        return read_state(folder)
    (class_name,) = json.loads((folder / "config.json").read_text())["architectures"]
    state: Mapping[str, Tensor] = getattr(transformers, class_name).from_pretrained(folder).state_dict()
    return state


def plain_loop(name: str) -> Result:
    """The family as its user would train it without hydraplan."""
    model = _made(name)
    return _trained(name, model, lambda batch: model(**batch).loss)


def exported_loop(name: str) -> Result:
    """The same of what torch.export makes of it, without hydraplan."""
    model = WithLoss(_made(name)).train()
    program = torch.export.export(model, (open_data(_job(name, "exact")).batch(0),), strict=False)
    module = program.module()
    result = _trained(name, module, module)
    kept = set(model.model.state_dict())
    weights = {key.removeprefix("model."): value for key, value in result.weights.items()}
    return replace(result, weights={key: value for key, value in weights.items() if key in kept})


def _made(name: str) -> nn.Module:
    torch.manual_seed(SEED)
    return make_model(entry(name))


def _trained(name: str, model: nn.Module, loss_of: Callable[[dict[str, Tensor]], Tensor]) -> Result:
    data = open_data(_job(name, "exact"))
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    losses = []
    with deterministic():
        for step in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(data.batch(step))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    return Result(losses=tuple(losses), weights={key: value.detach() for key, value in model.state_dict().items()})
