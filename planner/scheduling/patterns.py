"""(A) The pattern LP: a lower bound on the makespan within the options, by column generation.

A *pattern* is what one device may do at a moment: which job classes run there together, in which options,
at which rates. The LP pays for patterns by the second, without asking that they fit together at every moment.

    sets        k  kinds of devices           j  job classes           o  options of j on k
    parameters  N_k devices of a kind         S_j training steps of a class, over all its jobs
                C_j jobs of a class           W   update workers       B_k budget (bytes)
                m, w, c, l, s, h, t           memory, window, compute, load, spill, host, chain (an option's)
    variables   T   makespan                  x_P seconds of pattern P
                y_jo jobs in an option        n_jo steps per second    u_jo whether the option is used

    min T   device  sum x_P <= N_k T          steps   sum n_Pj x_P >= S_j
            host    sum h_P x_P <= W T        jobs    sum y_Pj x_P <= C_j T

The bound holds for any set of patterns at hand: with duals pi (steps) and the most that any pattern of a
kind exceeds its price by, D_k (the pricing MILP's own bound), LB = sum pi_j S_j / (1 + sum N_k D_k).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulp

from hydraplan.planner.scheduling.options import Option
from hydraplan.planner.scheduling.solver import SolverOptions, Status, solve

MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Devices that differ in name only."""

    devices: tuple[str, ...]
    budget_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClass:
    """Jobs that differ in name and learning rate only."""

    jobs: tuple[str, ...]
    steps: int
    """Training steps of each."""
    options: tuple[tuple[Option, ...], ...]
    """Kind -> options there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Some jobs of a class in one option of a pattern."""

    job_class: int
    option: int
    jobs: int
    rate: float
    """Training steps per second, of all these jobs together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    kind: int
    gang: int
    """Devices that it takes: 1 until pipelines."""
    slots: tuple[Slot, ...]
    host: float
    """Seconds of host update per second."""

    def rate(self, job_class: int) -> float:
        return sum(slot.rate for slot in self.slots if slot.job_class == job_class)

    def jobs(self, job_class: int) -> int:
        return sum(slot.jobs for slot in self.slots if slot.job_class == job_class)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    kinds: tuple[Kind, ...]
    classes: tuple[JobClass, ...]
    workers: int

    def option(self, kind: int, slot: Slot) -> Option:
        return self.classes[slot.job_class].options[kind][slot.option]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Duals of the pattern LP."""

    step: tuple[float, ...]
    device: tuple[float, ...]
    host: float
    job: tuple[float, ...]


# -- the master ------------------------------------------------------------------------------------


def device_time(lp: pulp.LpProblem, instance: Instance, patterns: Sequence[Pattern], x: list, makespan) -> None:  # type: ignore[no-untyped-def,type-arg]
    """device_k: the patterns of a kind fill at most its devices."""
    for k, kind in enumerate(instance.kinds):
        used = pulp.lpSum(pattern.gang * x[p] for p, pattern in enumerate(patterns) if pattern.kind == k)
        lp += used <= len(kind.devices) * makespan, f"device_{k}"


def all_steps(lp: pulp.LpProblem, instance: Instance, patterns: Sequence[Pattern], x: list) -> None:  # type: ignore[type-arg]
    """steps_j: every class gets its training steps (in parts of them)."""
    for j, job_class in enumerate(instance.classes):
        steps = job_class.steps * len(job_class.jobs)
        done = pulp.lpSum(pattern.rate(j) / steps * x[p] for p, pattern in enumerate(patterns))
        lp += done >= 1, f"steps_{j}"


def host_time(lp: pulp.LpProblem, instance: Instance, patterns: Sequence[Pattern], x: list, makespan) -> None:  # type: ignore[no-untyped-def,type-arg]
    """host: the update workers keep up, over the whole time."""
    lp += pulp.lpSum(pattern.host * x[p] for p, pattern in enumerate(patterns)) <= instance.workers * makespan, "host"


def job_counts(lp: pulp.LpProblem, instance: Instance, patterns: Sequence[Pattern], x: list, makespan) -> None:  # type: ignore[no-untyped-def,type-arg]
    """jobs_j: no more jobs of a class at work than there are, over the whole time."""
    for j, job_class in enumerate(instance.classes):
        running = pulp.lpSum(pattern.jobs(j) * x[p] for p, pattern in enumerate(patterns))
        lp += running <= len(job_class.jobs) * makespan, f"jobs_{j}"


def master(instance: Instance, patterns: Sequence[Pattern], options: SolverOptions) -> tuple[float, Prices]:
    lp = pulp.LpProblem("patterns", pulp.LpMinimize)
    makespan = lp.add_variable("T", 0)
    x = [lp.add_variable(f"x_{p}", 0) for p in range(len(patterns))]
    lp += makespan
    device_time(lp, instance, patterns, x, makespan)
    all_steps(lp, instance, patterns, x)
    host_time(lp, instance, patterns, x, makespan)
    job_counts(lp, instance, patterns, x, makespan)
    solution = solve(lp, options)
    dual = {constraint.name: abs(constraint.pi or 0.0) for constraint in lp.constraints()}
    return solution.objective, Prices(
        step=tuple(dual[f"steps_{j}"] for j in range(len(instance.classes))),
        device=tuple(dual[f"device_{k}"] for k in range(len(instance.kinds))),
        host=dual["host"],
        job=tuple(dual[f"jobs_{j}"] for j in range(len(instance.classes))),
    )


# -- pricing ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pricing:
    """Variables of the pricing MILP of a kind."""

    lp: pulp.LpProblem
    jobs: Mapping[tuple[int, int], pulp.LpVariable]
    rate: Mapping[tuple[int, int], pulp.LpVariable]
    used: Mapping[tuple[int, int], pulp.LpVariable]


def engine_time(pricing: _Pricing, instance: Instance, k: int) -> None:
    """compute, load, spill: each engine is busy for at most all of the time."""
    for name in ("compute", "load", "spill"):
        busy = pulp.lpSum(
            getattr(instance.classes[j].options[k][o], f"{name}_us") / MICROSECONDS * rate
            for (j, o), rate in pricing.rate.items()
        )
        pricing.lp.addConstraint(busy <= 1, name)


def chains(pricing: _Pricing, instance: Instance, k: int) -> None:
    """chain_jo: a job's steps follow each other."""
    for (j, o), rate in pricing.rate.items():
        chain = instance.classes[j].options[k][o].chain_us / MICROSECONDS
        pricing.lp.addConstraint(chain * rate <= pricing.jobs[j, o], f"chain_{j}_{o}")


def memory(pricing: _Pricing, instance: Instance, k: int) -> None:
    """memory, window_jo: residents and values of all jobs, and the largest window, fit the budget."""
    budget = instance.kinds[k].budget_bytes
    window = pricing.lp.add_variable("window", 0, 1)
    held = pulp.lpSum(
        instance.classes[j].options[k][o].memory_bytes / budget * jobs for (j, o), jobs in pricing.jobs.items()
    )
    pricing.lp.addConstraint(held + window <= 1, "memory")
    for (j, o), used in pricing.used.items():
        need = instance.classes[j].options[k][o].window_bytes / budget
        pricing.lp.addConstraint(need * used <= window, f"window_{j}_{o}")


def counts(pricing: _Pricing, instance: Instance) -> None:
    """used_jo, count_j: jobs only in options that are used, no more than the class has."""
    for (j, o), jobs in pricing.jobs.items():
        pricing.lp.addConstraint(jobs <= len(instance.classes[j].jobs) * pricing.used[j, o], f"used_{j}_{o}")
    for j, job_class in enumerate(instance.classes):
        mine = pulp.lpSum(jobs for (other, _), jobs in pricing.jobs.items() if other == j)
        pricing.lp.addConstraint(mine <= len(job_class.jobs), f"count_{j}")


def price(instance: Instance, k: int, prices: Prices, options: SolverOptions) -> tuple[Pattern | None, float]:
    """The pattern of a kind that is worth most, and a proved bound on its worth beyond its price."""
    lp = pulp.LpProblem("pricing", pulp.LpMaximize)
    keys = [(j, o) for j, job_class in enumerate(instance.classes) for o in range(len(job_class.options[k]))]
    pricing = _Pricing(
        lp,
        {(j, o): lp.add_variable(f"y_{j}_{o}", 0, len(instance.classes[j].jobs), pulp.LpInteger) for j, o in keys},
        {(j, o): lp.add_variable(f"n_{j}_{o}", 0) for j, o in keys},
        {(j, o): lp.add_variable(f"u_{j}_{o}", 0, 1, pulp.LpBinary) for j, o in keys},
    )
    worth = []
    for j, o in keys:
        job_class = instance.classes[j]
        host = job_class.options[k][o].host_us / MICROSECONDS
        value = prices.step[j] / (job_class.steps * len(job_class.jobs)) - prices.host * host
        worth.append(value * pricing.rate[j, o] - prices.job[j] * pricing.jobs[j, o])
    lp += pulp.lpSum(worth)
    engine_time(pricing, instance, k)
    chains(pricing, instance, k)
    memory(pricing, instance, k)
    counts(pricing, instance)
    solution = solve(lp, options)
    if solution.status == "infeasible":
        return None, 0.0
    return _pattern(instance, k, pricing), solution.bound - prices.device[k]


def _pattern(instance: Instance, k: int, pricing: _Pricing) -> Pattern | None:
    slots = tuple(
        Slot(job_class=j, option=o, jobs=jobs, rate=rate)
        for (j, o), variable in pricing.jobs.items()
        if (jobs := round(variable.value() or 0)) and (rate := float(pricing.rate[j, o].value() or 0)) > 1e-9
    )
    if not slots:
        return None
    host = sum(instance.classes[slot.job_class].options[k][slot.option].host_us * slot.rate for slot in slots)
    return Pattern(kind=k, gang=1, slots=slots, host=host / MICROSECONDS)


# -- column generation -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    patterns: tuple[Pattern, ...]
    objective: float
    """Seconds: the LP's optimum over the patterns found."""
    bound: float
    """Seconds: proved for all patterns."""
    status: Status
    """Whether bound and objective met (`optimal`)."""


def alone(instance: Instance) -> list[Pattern]:
    """Patterns of one job of a class alone, in every option, as fast as it goes."""
    patterns = []
    for j, job_class in enumerate(instance.classes):
        for k, options in enumerate(job_class.options):
            for o, option in enumerate(options):
                slowest = max(option.chain_us, option.compute_us, option.load_us, option.spill_us, 1)
                rate = MICROSECONDS / slowest
                slot = Slot(job_class=j, option=o, jobs=1, rate=rate)
                patterns.append(Pattern(kind=k, gang=1, slots=(slot,), host=option.host_us * rate / MICROSECONDS))
    return patterns


def generate(instance: Instance, options: SolverOptions) -> Bound:
    """Patterns by column generation, and the bound that they prove."""
    patterns = alone(instance)
    best = 0.0
    objective = 0.0
    for _ in range(options.rounds):
        objective, prices = master(instance, patterns, options)
        found = []
        excess = 0.0
        for k, kind in enumerate(instance.kinds):
            pattern, beyond = price(instance, k, prices, options)
            excess += len(kind.devices) * max(0.0, beyond)
            if pattern is not None and pattern not in patterns:
                found.append(pattern)
        best = max(best, sum(prices.step) / (1 + excess))
        if not found or best >= objective * (1 - options.relative_gap):
            break
        patterns += found
    met = best >= objective * (1 - options.relative_gap)
    return Bound(
        patterns=tuple(patterns),
        objective=objective,
        bound=min(best, objective),
        status="optimal" if met else "stopped",
    )
