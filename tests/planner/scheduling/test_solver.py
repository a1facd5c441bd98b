"""Solver: right answers, bounds from the solver itself, nothing on standard output; the LPs' bounds hold."""

from __future__ import annotations

import math
import subprocess
import sys

import pulp
import pytest
from support.sweep import gptj, xl_sweep

from hydraplan.planner.scheduling import configurations, patterns
from hydraplan.planner.scheduling.instance import build_instance
from hydraplan.planner.scheduling.patterns import Instance
from hydraplan.planner.scheduling.phases import GRIDS, realize
from hydraplan.planner.scheduling.solver import SolverOptions, solve
from hydraplan.plans.language.facts import Facts
from hydraplan.plans.language.workload import Workload

SOLVERS = [SolverOptions(name="highs", relative_gap=0.0), SolverOptions(name="cbc", relative_gap=0.0)]
VALUES = [10, 13, 7, 8, 12, 4]
WEIGHTS = [5, 6, 3, 4, 7, 2]


def knapsack(sense: int) -> pulp.LpProblem:
    """Take at most 12 of weight for most value; or leave out the least value."""
    problem = pulp.LpProblem("knapsack", sense)
    taken = [problem.add_variable(f"x_{n}", 0, 1, pulp.LpBinary) for n in range(len(VALUES))]
    value = pulp.lpSum(v * x for v, x in zip(VALUES, taken, strict=True))
    problem += (
        value if sense == pulp.LpMaximize else pulp.lpSum(v * (1 - x) for v, x in zip(VALUES, taken, strict=True))
    )
    problem.addConstraint(pulp.lpSum(w * x for w, x in zip(WEIGHTS, taken, strict=True)) <= 12, "weight")
    return problem


def best_value() -> int:
    choices = range(1 << len(VALUES))
    return max(
        sum(v for n, v in enumerate(VALUES) if mask >> n & 1)
        for mask in choices
        if sum(w for n, w in enumerate(WEIGHTS) if mask >> n & 1) <= 12
    )


@pytest.mark.parametrize("options", SOLVERS, ids=lambda each: each.name)
def test_optimum_and_bound_meet_whatever_the_sense(options: SolverOptions) -> None:
    most = solve(knapsack(pulp.LpMaximize), options)
    least = solve(knapsack(pulp.LpMinimize), options)
    assert most.status == least.status == "optimal"
    assert most.objective == pytest.approx(best_value())
    assert most.bound == pytest.approx(best_value())
    assert least.objective == pytest.approx(sum(VALUES) - best_value())
    assert least.bound == pytest.approx(least.objective)
    assert most.gap == pytest.approx(0)


@pytest.mark.parametrize("options", SOLVERS, ids=lambda each: each.name)
def test_infeasible_is_said(options: SolverOptions) -> None:
    problem = knapsack(pulp.LpMaximize)
    problem.addConstraint(pulp.lpSum(problem.variables()) >= 6, "all")
    solution = solve(problem, options)
    assert solution.status == "infeasible"
    assert math.isnan(solution.objective)


def test_nothing_is_written_to_standard_output() -> None:
    code = (
        "import pulp; from hydraplan.planner.scheduling.solver import SolverOptions, solve;"
        "p = pulp.LpProblem('p', pulp.LpMinimize);"
        "x = p.add_variable('x', 1, 2, pulp.LpInteger); p += x; print(solve(p, SolverOptions()).objective)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"


def instance_of(workload: Workload, facts: Facts) -> Instance:
    graphs = {each.job: each.graph for each in facts.jobs}
    layouts = {layout.graph: layout for layout in facts.layouts}
    return build_instance(workload, facts, {job: layouts[graph] for job, graph in graphs.items()})


@pytest.fixture(scope="module", params=["xl", "gptj"])
def instance(request: pytest.FixtureRequest) -> Instance:
    return instance_of(*(xl_sweep(6, 4, tokens=(512, 1024)) if request.param == "xl" else gptj()))


def test_equal_jobs_and_devices_are_counted_not_named(instance: Instance) -> None:
    assert len(instance.kinds) == 1
    assert len(instance.classes) in (1, 2)


def test_phases_hold_at_every_moment_and_do_not_beat_the_bound(instance: Instance) -> None:
    options = SolverOptions()
    bound = patterns.generate(instance, options)
    timed, _ = configurations.generate(instance, bound.patterns, options)
    assert 0 < bound.bound <= bound.objective
    assert bound.bound <= sum(each.seconds for each in timed) * 1.001
    assert len(timed) <= len(instance.classes)
    for phase in timed:
        copies = phase.configuration.copies
        assert sum(each.count for each in copies) <= len(instance.kinds[0].devices)
        assert sum(each.pattern.host * each.count * each.speed for each in copies) <= instance.workers
        for j, job_class in enumerate(instance.classes):
            assert sum(each.pattern.jobs(j) * each.count for each in copies) <= len(job_class.jobs)


def test_patterns_keep_within_engines_memory_and_chains(instance: Instance) -> None:
    options = SolverOptions()
    found = patterns.generate(instance, options).patterns
    for pattern in configurations.widen(instance, found, options):
        members = [(instance.option(pattern.kind, slot), slot) for slot in pattern.slots]
        for engine in ("compute_us", "load_us", "spill_us"):
            assert sum(getattr(option, engine) * slot.rate for option, slot in members) <= 1e6 * 1.001
        for option, slot in members:
            assert option.chain_us * slot.rate <= slot.jobs * 1e6 * 1.001
        window = max(option.window_bytes for option, _ in members)
        memory = sum(option.memory_bytes * slot.jobs for option, slot in members) + window
        assert memory <= instance.kinds[pattern.kind].budget_bytes * 1.001


def test_whole_steps_add_up_at_every_grid(instance: Instance) -> None:
    options = SolverOptions()
    timed, _ = configurations.generate(instance, patterns.generate(instance, options).patterns, options)
    made = [phases for grid in GRIDS if (phases := realize(instance, timed, grid)) is not None]
    assert made
    for phases in made:
        for job_class in instance.classes:
            for job in job_class.jobs:
                steps = [each.steps for phase in phases for each in phase.placements if each.job == job]
                assert sum(steps) == job_class.steps
                assert all(step > 0 for step in steps)
