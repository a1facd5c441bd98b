"""`hydraplan check`: prove that a plan file holds, without torch and without training anything."""

from __future__ import annotations

from dataclasses import replace

from hydraplan.planner.processes.collector import collector_paused
from hydraplan.plans.language.digests import lists_edited
from hydraplan.plans.language.plan import Plan, Predictions
from hydraplan.plans.language.quantities import format_bytes, format_count, format_duration
from hydraplan.plans.prediction.simulate import predict
from hydraplan.tools.commands.arguments import AsJson, PlanFile
from hydraplan.tools.output import Output
from hydraplan.tools.planfile import read_sound_plan
from hydraplan.tools.summary import plan_summary


def check(plan: PlanFile, /, *, as_json: AsJson = False) -> int:
    """Prove that a plan holds, without torch.

    That is memory, data flow, and completeness: every job gets exactly its training steps.

    Tells every finding at once, each with its line, JSON pointer, cause and remedy. Where lists were edited by hand,
    computes the predictions again and tells the difference.

        $ hydraplan check plan.json
    """
    output = Output(as_json=as_json)
    with collector_paused():
        sound = read_sound_plan(plan, output)
        read, now = sound.plan, predict(sound.plan, sound.simulated())
    edited, changes = lists_edited(read), differences(read.predictions, now)
    output.json({"valid": True, "findings": [], "lists_edited": edited, "predictions_changed": changes})
    if edited:
        output.line("The lists were edited by hand.")
    for change in changes:
        output.line(f"Prediction changed: {change}")
    output.end(
        f"Check: holds; {format_count(_steps(read), 'step')}, {plan_summary(replace(read, predictions=now))}",
        f"hydraplan execute {plan} -o {plan.with_suffix('.run')}",
    )
    return 0


def differences(before: Predictions, now: Predictions) -> list[str]:
    """What the plan says of itself against what its lists give, for people."""
    found = []
    for label, old, new in (
        ("makespan", before.makespan_us, now.makespan_us),
        ("lower bound", before.lower_bound_us, now.lower_bound_us),
    ):
        if old != new:
            found.append(f"{label} {format_duration(old)} -> {format_duration(new)} ({old} -> {new} us)")
    if before.host_peak_bytes != now.host_peak_bytes:
        found.append(f"host memory {format_bytes(before.host_peak_bytes)} -> {format_bytes(now.host_peak_bytes)}")
    peaks = {device.device: device.peak_bytes for device in before.devices}
    for device in now.devices:
        old = peaks.get(device.device, 0)
        if old != device.peak_bytes:
            found.append(f"peak of {device.device} {format_bytes(old)} -> {format_bytes(device.peak_bytes)}")
    if before != now and not found:
        found.append("details of time and memory")
    return found


def _steps(plan: Plan) -> int:
    return sum(len(phase.prologue) + len(phase.cycle) + len(phase.epilogue) for phase in plan.phases)
