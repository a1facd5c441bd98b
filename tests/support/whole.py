"""Whole runs for the acceptance tests: real jobs with data, plans with real facts, results read back.

Data sets here are importable by a plan, random access, and the same at every call. `Draws` is the loop that promise 1
is tested by: plans of one job, drawn at random, that all have to train to the same bits.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from support.drawn import Coverage, draw_phase
from support.models import BERT, GPT2, LLAMA, NO_DROPOUT, T5, TOKENS
from support.weights import saved_state
from torch import Tensor

from hydraplan.planner.costs.facts import graph_facts, layout_facts
from hydraplan.planner.frontend.models.fingerprints import fingerprints
from hydraplan.planner.frontend.models.model import make_loss
from hydraplan.planner.frontend.shards.build import Known, build
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.checking.check import check
from hydraplan.plans.language.digests import decisions_digest, facts_digest, lists_digest
from hydraplan.plans.language.facts import Facts, JobFacts
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import (
    Cuts,
    Decisions,
    Phase,
    PhaseDecision,
    Placement,
    Plan,
    Predictions,
    SolverRecord,
)
from hydraplan.plans.language.workload import Cluster, Device, Job, Link, Profile, Target, Value, Workload
from hydraplan.plans.prediction.simulate import predict
from hydraplan.runtime import execute, prepare
from hydraplan.runtime.replaying.replay import ComputeContext
from hydraplan.runtime.training import no_context

if TYPE_CHECKING:
    import pytest

GIB = 1 << 30
PROFILE = Profile(
    name="committed",
    flops_per_s=20_000_000_000,
    bytes_per_s=5_000_000_000,
    functions_per_s=60_000_000,
    node_ns=10_000,
    copy_bytes_per_s=4_000_000_000,
    update_bytes_per_s=4_000_000_000,
)


class Rows:
    """Random token rows; with `target`, what a regression fits."""

    def __init__(self, length: int, target: bool, width: int) -> None:
        generator = torch.Generator().manual_seed(11)
        self.tokens = torch.randint(0, TOKENS, (32, length), generator=generator)
        self.target = torch.randn(32, length, width, generator=generator) if target else None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.target is not None:
            return {"tokens": self.tokens[index], "target": self.target[index]}
        return {"input_ids": self.tokens[index], "labels": self.tokens[index].clone()}


def rows(length: int = 12, target: bool = False, width: int = 16) -> Rows:
    return Rows(length, target, width)


def whole_job(path: str, arguments: dict[str, Value], *, name: str, steps: int = 3, **more: object) -> Job:
    own = path.startswith("support.models:")
    job = Job(
        name=name,
        model=Target(path=path, arguments=tuple(sorted(arguments.items()))),
        data=Target(path="support.whole:rows", arguments=(("length", 8), ("target", True)) if own else ()),
        loss=Target(path="support.models:squared_error") if own else None,
        optimizer=Target(path="AdamW", arguments=(("lr", 0.01), ("weight_decay", 0.1))),
        steps=steps,
        batch_size=4,
        microbatches=1,
        seed=5,
        threads=1,
        precision="fp32",
    )
    return replace(job, **more)  # type: ignore[arg-type]


def exact_jobs() -> dict[str, Job]:
    """Without dropout, one microbatch: what must equal the plain loop."""
    return {
        "gpt2": whole_job("transformers:GPT2LMHeadModel", GPT2 | NO_DROPOUT, name="gpt2"),
        "llama": whole_job("transformers:LlamaForCausalLM", LLAMA, name="llama"),
        "t5": whole_job("transformers:T5ForConditionalGeneration", T5, name="t5"),
        "bert": whole_job("transformers:BertForMaskedLM", BERT, name="bert"),
        "skips": whole_job("support.models:Skips", {}, name="skips"),
        "adversarial": whole_job("support.models:Adversarial", {}, name="adversarial"),
        "statistics": whole_job("support.models:Statistics", {}, name="statistics"),
    }


def dropout_job(**more: object) -> Job:
    """GPT-2, tied, with dropout everywhere, four microbatches."""
    return whole_job("transformers:GPT2LMHeadModel", dict(GPT2), name="drawn", microbatches=4, **more)


def cluster(devices: int = 2, *, budget_bytes: int = GIB, backing: str = "cpu") -> Cluster:
    names = [f"cpu{number}" for number in range(devices)]
    return Cluster(
        devices=tuple(
            Device(name=name, backing=backing, budget_bytes=budget_bytes, link=f"link-{name}", profile=PROFILE.name)
            for name in names
        ),
        links=tuple(Link(name=f"link-{name}", load_bytes_per_s=None, spill_bytes_per_s=None) for name in names),
        profiles=(PROFILE,),
        host_memory_bytes=8 * GIB,
        host_profile=PROFILE.name,
        update_workers=1,
    )


def traced(job: Job) -> TracedGraph:
    return trace(job, open_data(job).microbatch(0, 0))


def facts_of(job: Job, graph: TracedGraph, cuts: tuple[int, ...]) -> Facts:
    return Facts(
        graphs=(graph_facts(graph, "graph"),),
        layouts=(layout_facts(graph, "graph", cuts, (PROFILE,), threads=job.threads),),
        jobs=(JobFacts(job=job.name, graph="graph", state_copies=state_of(job.optimizer, job.precision).copies),),
    )


def plan_of(job: Job, facts: Facts, phases: Sequence[Phase], where: Cluster) -> Plan:
    """A plan of given lists; its decisions only name the cuts and the first device."""
    placement = Placement(job=job.name, device=where.devices[0].name, steps=job.steps)
    decisions = Decisions(
        cuts=(Cuts(job=job.name, cuts=facts.layouts[0].cuts),),
        phases=(PhaseDecision(placements=(placement,)),),
    )
    plan = Plan(
        workload=Workload(cluster=where, jobs=(job,)),
        facts=facts,
        facts_digest=facts_digest(facts),
        decisions=decisions,
        lists_from=decisions_digest(decisions),
        lists_digest=lists_digest(tuple(phases)),
        phases=tuple(phases),
        predictions=Predictions(
            makespan_us=0, lower_bound_us=0, gap=0.0, host_peak_bytes=0, host_update_us=0, devices=(), jobs=()
        ),
        solver=SolverRecord(name="edited", status="drawn", objective_us=0, bound_us=0, gap=0.0, list_schedule_us=0),
        fingerprints=fingerprints([job], {job.name: open_data(job)}),
    )
    plan = replace(plan, predictions=predict(plan))
    findings = check(plan)
    assert not findings, "\n".join(map(str, findings))
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a job's training ends with."""

    losses: tuple[float, ...]
    weights: dict[str, Tensor]

    def same_bits(self, other: Result) -> bool:
        return (
            self.losses == other.losses
            and self.weights.keys() == other.weights.keys()
            and all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())
        )


def read_result(directory: Path, job: str) -> Result:
    """Read a job's losses and weights back from a run directory."""
    with (directory / "losses" / f"{job}.csv").open() as lines:
        losses = tuple(float(row["loss"]) for row in csv.DictReader(lines))
    return Result(losses=losses, weights=saved_state(directory / "weights" / job))


def run(plan: Plan, directory: Path, *, compute_context: ComputeContext = no_context) -> dict[str, Result]:
    """Execute a plan; every job must finish."""
    done = execute(plan, directory, compute_context=compute_context)
    assert not done.failed, [each.error for each in done.failed]
    return {job.name: read_result(directory, job.name) for job in plan.workload.jobs}


def plain_loop(job: Job, device: str = "cpu") -> Result:
    """The job as its user would train it without hydraplan: torch's fused AdamW, one microbatch a step."""
    assert job.microbatches == 1
    torch.set_num_threads(job.threads)
    data = open_data(job)
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        module = make_loss(job).to(device)
        parameters = [each for each in module.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(parameters, fused=True, **dict(job.optimizer.arguments))  # type: ignore[arg-type]
        losses = []
        for step in range(job.steps):
            optimizer.zero_grad(set_to_none=True)
            loss = module({name: value.to(device) for name, value in data.batch(step).items()})
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return Result(
        losses=tuple(losses), weights={name: each.detach().cpu() for name, each in module.model.state_dict().items()}
    )


@dataclass(kw_only=True)
class Draws:
    """Plans of one job, drawn one after another over all that may differ between them; all give the same bits."""

    job: Job
    graph: TracedGraph
    where: Cluster = field(default_factory=cluster)
    expected: Result | None = None
    """What they have to train to; of the first that is trained where nothing else is given."""
    coverage: Coverage = field(default_factory=Coverage)
    facts: dict[tuple[int, ...], Facts] = field(default_factory=dict)
    """By cuts: costing a cut graph takes longer than to train by it."""

    @staticmethod
    def of(job: Job, monkeypatch: pytest.MonkeyPatch, *, expected: Result | None = None) -> Draws:
        """The job is one and the same in all runs: its real model is traced once here, not once a plan."""
        graph, shared = traced(job), Known.of(job, *build(job, open_data(job).microbatch(0, 0)))
        assert graph.digest == shared.graph.digest, "the real model's graph is that of its planning"
        monkeypatch.setattr(prepare, "build", lambda job, batch, known: build(job, batch, known=shared))
        return Draws(job=job, graph=graph, expected=expected)

    def cut(self, cuts: Collection[int]) -> Facts:
        """The facts of a choice of cuts."""
        key = tuple(sorted(cuts))
        if key not in self.facts:
            self.facts[key] = facts_of(self.job, self.graph, key)
        return self.facts[key]

    def cut_anywhere(self, random: Random, most: int = 6) -> Facts:
        """The facts of some cuts, 1 to `most`."""
        return self.cut(random.sample(self.graph.cut_positions, random.randint(1, most)))

    def draw(self, facts: Facts, random: Random, *, updates: str | None = None) -> Plan:
        """A plan with these cuts. `updates`: the place of all updates; None: drawn too."""
        phase = draw_phase(
            self.job.name,
            facts.layouts[0],
            microbatches=self.job.microbatches,
            devices=[each.name for each in self.where.devices],
            steps=self.job.steps,
            random=random,
            coverage=self.coverage,
            updates=updates,
        )
        return plan_of(self.job, facts, [phase], self.where)

    def train(self, plan: Plan) -> Result:
        """What a plan of the job trains to, having seen that it is what is expected."""
        with TemporaryDirectory() as directory:
            found = run(plan, Path(directory) / "run")[self.job.name]
        if self.expected is None:
            self.expected = found
        assert found.losses == self.expected.losses
        for name, value in found.weights.items():
            assert value.dtype == self.expected.weights[name].dtype
            assert torch.equal(value, self.expected.weights[name]), name
        assert found.same_bits(self.expected)
        return found
