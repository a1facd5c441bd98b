"""What planning learns from the user's code, for any cluster: the jobs' data opened, their models traced.

Graphs that are equal are traced once. Where there are cores for it, distinct ones are traced, cut and costed side by
side: other processes hold some of the graphs and answer questions about them (`planner.processes.elsewhere`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from hydraplan.planner.costs.facts import graph_facts
from hydraplan.planner.frontend.models.fingerprints import fingerprints
from hydraplan.planner.frontend.models.masters import unread_masters
from hydraplan.planner.frontend.shards.build import same_graph_cause
from hydraplan.planner.frontend.tracing.agreement import asks, begins_alike, refuse_other_answers
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.data import JobData, MapDataset, open_data
from hydraplan.planner.processes.collector import collector_paused
from hydraplan.planner.processes.elsewhere import Elsewhere, Outcome, Question, spread
from hydraplan.plans.language.facts import Graph
from hydraplan.plans.language.plan import Fingerprint
from hydraplan.plans.language.workload import Job, Target

Report = Callable[[str], None]
"""Called with a line on what is being done now; for people, on stderr."""


Cause = TypeVar("Cause")


def quietly(line: str) -> None:
    """The report of what nobody asked for."""


class StudiedGraph:
    """A job's traced graph, in this process or in another."""

    def __init__(self, job: Job, batch: Mapping[str, Tensor], elsewhere: Elsewhere | None = None) -> None:
        self.job = job
        self.batch = batch
        self.elsewhere = elsewhere
        """Who else has it."""

    @cached_property
    def traced(self) -> TracedGraph:
        """The graph in this process; traced here only when it is asked for. Raises TraceError and WorkloadError."""
        with collector_paused():
            return trace(self.job, self.batch)

    def answered(self, question: Question) -> Outcome:
        """By this process."""
        return question.answered(lambda: self.traced)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What planning learns from the user's code, for any cluster."""

    jobs: tuple[Job, ...]
    graphs: Mapping[str, StudiedGraph]
    """Graph name -> traced graph; structurally equal ones once."""
    facts: Mapping[str, Graph]
    """Of the graphs, by their names."""
    graph_of: Mapping[str, str]
    """Job -> graph name."""
    data: Mapping[str, JobData]
    """By job."""
    fingerprints: tuple[Fingerprint, ...]
    notices: tuple[str, ...]
    """What the user should know of data and checkpoints: items that are dropped, masters that are not read."""

    def facts_of(self, job: str) -> Graph:
        return self.facts[self.graph_of[job]]

    def answers(self, questions: Sequence[tuple[str, Question]], report: Report = quietly) -> list[Outcome]:
        """What comes of (graph name, question), each."""
        return answers([(self.graphs[name], question) for name, question in questions], report)


def study(jobs: Sequence[Job], *, report: Report = quietly) -> Study:
    """Open the jobs' data and trace their models, equal ones once. Raises TraceError and WorkloadError."""
    data = _open_all(jobs)
    batches = {job.name: data[job.name].microbatch(0, 0) for job in jobs}
    causes = {job.name: same_graph_cause(job, batches[job.name]) for job in jobs}
    learned = _learned(firsts(jobs, lambda job: causes[job.name]), batches, report)
    chance = {cause: graph.job.seed for cause, (graph, found) in learned.items() if found.made_by_chance}
    for job in jobs:  # what is made by chance may be another graph under another seed
        if job.seed != chance.get(causes[job.name], job.seed):
            causes[job.name] = (causes[job.name], job.seed)
    for job, outcome in _ask(jobs, causes, learned, begins_alike, report):  # another answer makes another graph
        if not outcome.result():
            causes[job.name] = (causes[job.name], job.name)
    more = firsts([job for job in jobs if causes[job.name] not in learned], lambda job: causes[job.name])
    learned |= _learned(more, batches, report)
    for _, outcome in _ask(jobs, causes, learned, refuse_other_answers, report):
        outcome.result()
    graphs: dict[str, StudiedGraph] = {}
    facts: dict[str, Graph] = {}
    names: dict[str, str] = {}
    name_of: dict[object, str] = {}
    for cause, (graph, found) in learned.items():
        name = names.setdefault(found.facts.digest, f"{graph.job.model.path.split(':')[-1]}-{len(names) + 1}")
        if name not in graphs or facts[name].construction_bytes < found.facts.construction_bytes:
            graphs[name], facts[name] = graph, replace(found.facts, name=name)
        name_of[cause] = name
    notices = [each.dropped for each in data.values() if each.dropped is not None]
    notices += [f"{graph.job.name}: {notice}" for graph, found in learned.values() for notice in found.notices]
    notices += unread_masters(jobs)
    return Study(
        jobs=tuple(jobs),
        graphs=graphs,
        facts=facts,
        graph_of={job.name: name_of[causes[job.name]] for job in jobs},
        data=data,
        fingerprints=fingerprints(jobs, data),
        notices=tuple(dict.fromkeys(notices)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What is to be known of a graph before it is cut."""

    facts: Graph
    notices: tuple[str, ...]
    made_by_chance: bool
    asks: bool
    """Whether what the batches say decides the graph."""


def learn(traced: TracedGraph) -> Learned:
    """Of a graph, wherever it is."""
    return Learned(
        facts=graph_facts(traced, name=""),
        notices=traced.notices,
        made_by_chance=traced.made_by_chance,
        asks=asks(traced),
    )


def _learned(
    distinct: Mapping[object, Job], batches: Mapping[str, Mapping[str, Tensor]], report: Report
) -> dict[object, tuple[StudiedGraph, Learned]]:
    """Cause -> the graph of its first job, traced, and what is to be known of it."""
    others = spread([(job, batches[job.name]) for job in distinct.values()])
    graphs = [
        StudiedGraph(job, batches[job.name], elsewhere)
        for job, elsewhere in zip(distinct.values(), others, strict=True)
    ]
    outcomes = answers([(graph, Question(f"trace {graph.job.name}", learn, {})) for graph in graphs], report)
    return {cause: (graph, outcome.result()) for cause, graph, outcome in zip(distinct, graphs, outcomes, strict=True)}


def _ask(
    jobs: Sequence[Job],
    causes: Mapping[str, object],
    learned: Mapping[object, tuple[StudiedGraph, Learned]],
    function: Callable[[TracedGraph, Job], object],
    report: Report,
) -> list[tuple[Job, Outcome]]:
    """What comes of a function of the graph and each job whose batches decide it."""
    asking = [job for job in jobs if causes[job.name] in learned and learned[causes[job.name]][1].asks]
    questions = [
        (learned[causes[job.name]][0], Question(f"read batches of {job.name}", function, {"job": job}))
        for job in asking
    ]
    return list(zip(asking, answers(questions, report), strict=True))


def firsts(jobs: Sequence[Job], cause: Callable[[Job], Cause]) -> dict[Cause, Job]:
    """Each cause, and the first job that has it."""
    found: dict[Cause, Job] = {}
    for job in jobs:
        found.setdefault(cause(job), job)
    return found


def _open_all(jobs: Sequence[Job]) -> dict[str, JobData]:
    """Data sets that several jobs name alike are made once: planning only looks at some items."""
    opened: dict[tuple[Target, int], MapDataset] = {}
    return {job.name: open_data(job, opened) for job in jobs}


def answers(questions: Sequence[tuple[StudiedGraph, Question]], report: Report = quietly) -> list[Outcome]:
    """What comes of questions about graphs, each answered where its graph is, side by side."""
    asked: dict[int, tuple[Elsewhere, int]] = {}
    for number, (graph, question) in enumerate(questions):
        if graph.elsewhere is not None:
            report(question.what)
            asked[number] = graph.elsewhere, graph.elsewhere.ask(question)
    found: dict[int, Outcome] = {}
    for number, (graph, question) in enumerate(questions):
        if number not in asked:
            report(question.what)
            found[number] = graph.answered(question)
    for number, (elsewhere, ticket) in asked.items():
        graph, question = questions[number]
        outcome = elsewhere.answer(ticket)
        if outcome is None:  # this process has to find out
            graph.elsewhere = None
            outcome = graph.answered(question)
        found[number] = outcome
    return [found[number] for number in range(len(questions))]
