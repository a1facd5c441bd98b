"""Solving with pulp: HiGHS (through highspy) or CBC, one thread a process, bounds from the solver itself.

pulp says "Optimal" of a HiGHS run that stopped on its time limit; so status and bound are read from HiGHS.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from functools import cache
from typing import Literal

import highspy
import pulp

THREADS = 1
"""HiGHS in one process with another number of threads than at first returns at once, unsolved."""

Status = Literal["optimal", "stopped", "infeasible"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverOptions:
    """Which solver, and the limits on it.

    The work is limited by rounds, gap and effort, which are the same on any machine. `solve_seconds` only guards
    against a solve that runs away: a plan that it has cut short depends on the machine, and its record says `stopped`.
    """

    name: Literal["highs", "cbc"] = "highs"
    solve_seconds: float = 60.0
    """Limit of one solve (they take milliseconds)."""
    relative_gap: float = 0.01
    rounds: int = 12
    """Rounds of column generation, at most."""
    effort: int = 120_000
    """Lines of lists that may be simulated in search of a better plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    status: Status
    objective: float
    bound: float
    """Proved: no solution is better."""

    @property
    def gap(self) -> float:
        return abs(self.objective - self.bound) / max(abs(self.objective), 1e-12)


def solve(problem: pulp.LpProblem, options: SolverOptions) -> Solution:
    """Solve in place; variables carry the values. `objective` is NaN where no solution was found."""
    if options.name == "cbc":
        return _cbc(problem, options)
    return _highs(problem, options)


@cache
def _silence_banner() -> None:
    """The first HiGHS of a process writes a banner to standard output, whatever its options: send it nowhere."""
    stdout = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        highspy.Highs()  # type: ignore[no-untyped-call]
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def _highs(problem: pulp.LpProblem, options: SolverOptions) -> Solution:
    _silence_banner()
    problem.solve(
        pulp.HiGHS(
            msg=False,
            threads=THREADS,
            timeLimit=options.solve_seconds,
            gapRel=options.relative_gap,
            random_seed=0,
        )
    )
    model = problem.solverModel
    info = model.getInfo()
    optimal = str(model.getModelStatus()).endswith("kOptimal")
    value = pulp.value(problem.objective)
    if str(model.getModelStatus()).endswith("kInfeasible"):
        return Solution(status="infeasible", objective=math.nan, bound=math.nan)
    if value is None:
        return _nothing(problem)
    # pulp hands a maximisation over as the minimisation of the negative objective.
    constant = float(problem.objective.constant)  # which HiGHS is not told
    bound = float(problem.sense * info.mip_dual_bound) + constant if problem.isMIP() else float(value)
    return Solution(status="optimal" if optimal else "stopped", objective=float(value), bound=bound)


def _nothing(problem: pulp.LpProblem) -> Solution:
    """A limit came before any solution: nothing is proved."""
    bound = math.inf if problem.sense == pulp.LpMaximize else -math.inf
    return Solution(status="stopped", objective=math.nan, bound=bound)


def _cbc(problem: pulp.LpProblem, options: SolverOptions) -> Solution:
    status = problem.solve(
        pulp.COIN_CMD(
            path=shutil.which("cbc") or pulp.PULP_CBC_CMD.pulp_cbc_path,
            msg=False,
            threads=THREADS,
            timeLimit=options.solve_seconds,
            gapRel=options.relative_gap,
        )
    )
    value = pulp.value(problem.objective)
    if status == pulp.LpStatusInfeasible:
        return Solution(status="infeasible", objective=math.nan, bound=math.nan)
    if status != pulp.LpStatusOptimal or value is None:
        return _nothing(problem)
    finished = problem.sol_status == pulp.LpSolutionOptimal
    # CBC proves the gap it was given; pulp does not pass on its own bound.
    slack = options.relative_gap * abs(float(value)) if problem.isMIP() else 0.0
    if not finished:
        slack = math.inf
    bound = float(value) + (slack if problem.sense == pulp.LpMaximize else -slack)
    return Solution(status="optimal" if finished else "stopped", objective=float(value), bound=bound)
