"""(B) The configuration LP: phases that hold at every moment, by column generation.

A *configuration* puts patterns on the cluster all at once. Other than the pattern LP it never lets the host
fall behind for a while, nor a class have more jobs at work than it has.

    parameters  n_Pj steps per second of class j in pattern P      h_P host seconds per second
                y_Pj jobs of class j in P                          N_k, C_j, S_j, W as in `planner.scheduling.patterns`
    variables   d_q  seconds of configuration q                    (master)
                z_P  copies of a pattern, t_P how much of their speed is used         (pricing)

    master      min sum d_q                      steps    sum_q n_qj d_q >= S_j
    pricing     max sum_j pi_j sum_P n_Pj t_P    devices  sum z_P <= N_k        jobs   sum y_Pj z_P <= C_j
                                                 host     sum h_P t_P <= 0.9 W     speed  t_P <= z_P

The master's basis has at most one configuration for each job class: those are the phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulp

from hydraplan.planner.scheduling.patterns import Instance, Pattern, Prices, price
from hydraplan.planner.scheduling.solver import SolverOptions, solve

HOST_SHARE = 0.9
"""Part of the update workers' time that phases may use: where it is all used, updates queue and steps wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Devices that run one pattern, at a part of its speed where the host would not keep up."""

    pattern: Pattern
    count: int
    speed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    copies: tuple[Copies, ...]

    def rate(self, job_class: int) -> float:
        return sum(each.pattern.rate(job_class) * each.count * each.speed for each in self.copies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    configuration: Configuration
    seconds: float


def all_steps(lp: pulp.LpProblem, instance: Instance, columns: Sequence[Configuration], d: list) -> None:  # type: ignore[type-arg]
    """steps_j: every class gets its training steps (in parts of them)."""
    for j, job_class in enumerate(instance.classes):
        steps = job_class.steps * len(job_class.jobs)
        done = pulp.lpSum(column.rate(j) / steps * d[q] for q, column in enumerate(columns))
        lp.addConstraint(done >= 1, f"steps_{j}")


def master(
    instance: Instance, columns: Sequence[Configuration], options: SolverOptions
) -> tuple[float, list[float], tuple[float, ...]]:
    """Objective, seconds of each column, and the steps' duals; infinite where some class has no column."""
    lp = pulp.LpProblem("configurations", pulp.LpMinimize)
    d = [lp.add_variable(f"d_{q}", 0) for q in range(len(columns))]
    lp += pulp.lpSum(d)
    all_steps(lp, instance, columns, d)
    solution = solve(lp, options)
    duals = tuple(abs(lp.get_constraint_by_name(f"steps_{j}").pi or 0.0) for j in range(len(instance.classes)))
    return solution.objective, [float(each.value() or 0) for each in d], duals


def devices(lp: pulp.LpProblem, instance: Instance, pool: Sequence[Pattern], z: list) -> None:  # type: ignore[type-arg]
    """devices_k: no more copies than devices of the kind."""
    for k, kind in enumerate(instance.kinds):
        used = pulp.lpSum(pattern.gang * z[p] for p, pattern in enumerate(pool) if pattern.kind == k)
        lp.addConstraint(used <= len(kind.devices), f"devices_{k}")


def jobs(lp: pulp.LpProblem, instance: Instance, pool: Sequence[Pattern], z: list) -> None:  # type: ignore[type-arg]
    """jobs_j: each job at most once at a time."""
    for j, job_class in enumerate(instance.classes):
        running = pulp.lpSum(pattern.jobs(j) * z[p] for p, pattern in enumerate(pool) if pattern.jobs(j))
        lp.addConstraint(running <= len(job_class.jobs), f"jobs_{j}")


def host(lp: pulp.LpProblem, instance: Instance, pool: Sequence[Pattern], t: list) -> None:  # type: ignore[type-arg]
    """host: the update workers keep up at every moment, without queues."""
    busy = pulp.lpSum(pattern.host * t[p] for p, pattern in enumerate(pool))
    lp.addConstraint(busy <= HOST_SHARE * instance.workers, "host")


def speed(lp: pulp.LpProblem, z: list, t: list) -> None:  # type: ignore[type-arg]
    """speed_P: a pattern runs at most as fast as its copies."""
    for p, (copies, used) in enumerate(zip(z, t, strict=True)):
        lp.addConstraint(used <= copies, f"speed_{p}")


def best(
    instance: Instance, pool: Sequence[Pattern], worth: Sequence[float], options: SolverOptions
) -> Configuration | None:
    """The configuration that is worth most at given prices of the classes' steps."""
    lp = pulp.LpProblem("configuration", pulp.LpMaximize)
    z = [lp.add_variable(f"z_{p}", 0, None, pulp.LpInteger) for p in range(len(pool))]
    t = [lp.add_variable(f"t_{p}", 0) for p in range(len(pool))]
    value = []
    for p, pattern in enumerate(pool):
        gain = sum(
            worth[j] * pattern.rate(j) / (job_class.steps * len(job_class.jobs))
            for j, job_class in enumerate(instance.classes)
        )
        value.append(gain * t[p])
    lp += pulp.lpSum(value)
    devices(lp, instance, pool, z)
    jobs(lp, instance, pool, z)
    host(lp, instance, pool, t)
    speed(lp, z, t)
    if solve(lp, options).status == "infeasible":
        return None
    copies = tuple(
        Copies(pattern=pattern, count=count, speed=float(t[p].value() or 0) / count)
        for p, pattern in enumerate(pool)
        if (count := round(z[p].value() or 0)) and (t[p].value() or 0) > 1e-9
    )
    return Configuration(copies=copies) if copies else None


def widen(instance: Instance, pool: Sequence[Pattern], options: SolverOptions) -> tuple[Pattern, ...]:
    """More patterns, priced by the configuration LP's own duals."""
    found = list(pool)
    for _ in range(options.rounds):
        _, duals = generate(instance, found, options)
        free = Prices(step=duals, device=(0.0,) * len(instance.kinds), host=0.0, job=(0.0,) * len(duals))
        priced = (price(instance, k, free, options)[0] for k in range(len(instance.kinds)))
        new = [pattern for pattern in priced if pattern is not None and pattern not in found]
        if not new:
            break
        found += new
    return tuple(found)


def generate(
    instance: Instance, pool: Sequence[Pattern], options: SolverOptions
) -> tuple[tuple[Timed, ...], tuple[float, ...]]:
    """Phases of least total duration over the patterns of a pool, and the steps' duals."""
    columns: list[Configuration] = []
    for j in range(len(instance.classes)):
        only = [1.0 if other == j else 1e-6 for other in range(len(instance.classes))]
        column = best(instance, pool, only, options)
        if column is not None and column not in columns:
            columns.append(column)
    for _ in range(options.rounds):
        objective, weights, duals = master(instance, columns, options)
        column = best(instance, pool, duals, options)
        if column is None or column in columns or _gain(instance, column, duals) <= 1 + options.relative_gap / 10:
            break
        columns.append(column)
    else:
        objective, weights, duals = master(instance, columns, options)
    timed = [
        Timed(configuration=column, seconds=seconds)
        for column, seconds in zip(columns, weights, strict=True)
        if seconds > 1e-6 * max(objective, 1e-6)
    ]
    return tuple(sorted(timed, key=lambda each: -each.seconds)), duals


def _gain(instance: Instance, column: Configuration, duals: Sequence[float]) -> float:
    """Worth of a second of a configuration; more than 1: it shortens the schedule."""
    return sum(
        duals[j] * column.rate(j) / (job_class.steps * len(job_class.jobs))
        for j, job_class in enumerate(instance.classes)
    )
