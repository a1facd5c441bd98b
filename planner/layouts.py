"""Facts of a workload under given cuts: each distinct graph and choice of cuts measured once, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from hydraplan.planner.costs.facts import layout_facts
from hydraplan.planner.processes.elsewhere import Question
from hydraplan.planner.study import Report, Study, firsts
from hydraplan.plans.language.facts import Facts, JobFacts
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.workload import Workload


def facts_under(workload: Workload, known: Study, cuts: Mapping[str, tuple[int, ...]], report: Report) -> Facts:
    """Sizes and costs of all jobs' graphs under these cuts (job -> positions); each layout is measured once."""
    asked = firsts(workload.jobs, lambda job: (known.graph_of[job.name], cuts[job.name]))
    threads: dict[tuple[str, tuple[int, ...]], int] = {}
    for job in workload.jobs:
        key = (known.graph_of[job.name], cuts[job.name])
        threads[key] = max(threads.get(key, 1), job.threads)
    questions = [
        (
            graph,
            Question(
                f"cost the {len(positions) + 1} shards of {job.name}",
                layout_facts,
                dict(
                    graph=graph,
                    cuts=positions,
                    profiles=workload.cluster.profiles,
                    threads=threads[graph, positions],
                ),
            ),
        )
        for (graph, positions), job in asked.items()
    ]
    jobs = tuple(
        JobFacts(
            job=job.name,
            graph=known.graph_of[job.name],
            state_copies=state_of(job.optimizer, job.precision).copies,
        )
        for job in workload.jobs
    )
    layouts = tuple(outcome.result() for outcome in known.answers(questions, report))
    return Facts(graphs=tuple(known.facts.values()), layouts=layouts, jobs=jobs)
