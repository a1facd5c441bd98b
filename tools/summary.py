"""A plan in one line, as `plan`, `inspect` and `check` end with it."""

from __future__ import annotations

from hydraplan.plans.language.plan import DevicePrediction, Plan
from hydraplan.plans.language.quantities import format_bytes, format_count, format_duration, format_percent


def plan_summary(plan: Plan) -> str:
    """`4 jobs, 2 devices, 3 phases; makespan 8 m 12 s (bound 8 m 02 s, gap 2.1 %), peak 10.6 GiB of 11.0 GiB`."""
    said = plan.predictions
    parts = [
        ", ".join(
            [
                format_count(len(plan.workload.jobs), "job"),
                format_count(len(plan.workload.cluster.devices), "device"),
                format_count(len(plan.phases), "phase"),
            ]
        ),
        f"makespan {format_duration(said.makespan_us)} "
        f"(bound {format_duration(said.lower_bound_us)}, gap {format_percent(said.gap)})",
    ]
    fullest = fullest_device(plan)
    if fullest is not None:
        device, budget_bytes = fullest
        parts[1] += f", peak {format_bytes(device.peak_bytes)} of {format_bytes(budget_bytes)}"
    return "; ".join(parts)


def fullest_device(plan: Plan) -> tuple[DevicePrediction, int] | None:
    """The device whose peak comes closest to its budget, with that budget in bytes."""
    budgets = {device.name: device.budget_bytes for device in plan.workload.cluster.devices}
    known = [(device, budgets[device.device]) for device in plan.predictions.devices if device.device in budgets]
    return max(known, key=lambda each: each[0].peak_bytes / each[1], default=None)
