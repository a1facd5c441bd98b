"""Timelines in Chrome-trace form, for Perfetto: one process per device, one track per engine.

    process   host | gpu0 | gpu1 ...        tracks   compute, load, spill (host: updates)
    slices    the steps                     arrows   from a load or fetch to the steps that read it
    counter   bytes of the arena in use

Format: "Trace Event Format", events X (slice), s and f (arrow), C (counter), M (names); times in microseconds.
Of a predicted cycle, the first two copies are shown.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import (
    Backward,
    Drop,
    Fetch,
    FetchBatch,
    Forward,
    Load,
    Save,
    Spill,
    SpillGradients,
    Step,
    Update,
    engine,
)
from hydraplan.plans.language.workload import HOST
from hydraplan.plans.prediction.simulate import Simulation, simulate
from hydraplan.tools.run_report import Report

Event = dict[str, Any]
TRACKS = ("compute", "load", "spill")


def label(step: Step) -> str:
    """`a 3F0`, `a load 3`, `a update 3`: a step in a few characters."""
    match step:
        case Forward():
            return f"{step.job} {step.shard}F{step.microbatch}" + ("+" if step.keep else "")
        case Backward():
            return f"{step.job} {step.shard}B{step.microbatch}"
        case Load() | Spill() | Drop():
            state = " optimizer" if step.what == "optimizer" else ""
            return f"{step.job} {type(step).__name__.lower()} {step.slab}{state}"
        case SpillGradients():
            return f"{step.job} spill gradients {step.slab}"
        case FetchBatch():
            return f"{step.job} fetch batch {step.shard}.{step.microbatch}"
        case Fetch() | Save():
            return f"{step.job} {type(step).__name__.lower()} {step.what} {step.shard}.{step.microbatch}"
        case Update():
            return f"{step.job} update {step.slab}"


def predicted_timeline(plan: Plan, simulation: Simulation) -> str:
    """The predicted run as the text of a trace file."""
    places = [HOST, *(device.name for device in plan.workload.cluster.devices)]
    events = names(places)
    for number, site in enumerate(simulation.flow.sites):
        track = engine(site.step)
        if track is None:
            continue
        start, finish = simulation.start_us[number], simulation.finish_us[number]
        events.append(
            slice_event(
                site.step,
                places.index(site.step.device),
                start,
                finish - start,
                {"phase": site.phase, "section": site.section, "line": site.line, "copy": site.copy},
            )
        )
    events.extend(_arrows(simulation, places))
    events.extend(_memory(simulation, places))
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":")) + "\n"


def compared_timeline(report: Report) -> str:
    """A run as the text of a trace file: each place twice, as predicted and as it was."""
    simulation = simulate(report.plan)
    predicted = json.loads(predicted_timeline(report.plan, simulation))
    places = [HOST, *(device.name for device in report.plan.workload.cluster.devices)]
    events = [event for event in predicted["traceEvents"] if event["ph"] != "M"]
    events += names(places, " (predicted)") + names(places, " (actual)", first=len(places))
    for each in report.steps:
        process = len(places) + places.index(each.step.device)
        details = {"phase": each.phase, "section": each.section, "line": each.line, "iteration": each.iteration}
        events.append(slice_event(each.step, process, each.start_us, each.finish_us - each.start_us, details))
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}, separators=(",", ":")) + "\n"


def names(places: list[str], suffix: str = "", first: int = 0) -> list[Event]:
    """The metadata that names processes and tracks."""
    events: list[Event] = []
    for process, place in enumerate(places, start=first):
        events.append({"ph": "M", "pid": process, "name": "process_name", "args": {"name": place + suffix}})
        for thread, track in enumerate(TRACKS if place != HOST else ("updates",)):
            events.append({"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": track}})
    return events


def slice_event(step: Step, process: int, start_us: float, duration_us: float, details: Event) -> Event:
    track = engine(step)
    thread = 0 if step.device == HOST or track is None else TRACKS.index(track)
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "ts": start_us,
        "dur": duration_us,
        "name": label(step),
        "cat": type(step).__name__,
        "args": details,
    }


def _arrows(simulation: Simulation, places: list[str]) -> list[Event]:
    """From each load or fetch to the first step that reads what it brought."""
    events: list[Event] = []
    sites = simulation.flow.sites
    for instance in simulation.flow.instances:
        for (site, writes), (reader, reader_writes) in pairwise(instance.accesses):
            brought = isinstance(sites[site].step, Load | Fetch | FetchBatch)
            if not (writes and brought) or reader_writes or engine(sites[reader].step) is None:
                continue
            arrow = {"cat": "use", "name": "use", "id": len(events)}
            source, target = places.index(sites[site].step.device), places.index(sites[reader].step.device)
            track, other = TRACKS.index("load"), engine(sites[reader].step) or "compute"
            events.append({"ph": "s", "pid": source, "tid": track, "ts": simulation.finish_us[site] - 1, **arrow})
            events.append(
                {
                    "ph": "f",
                    "bp": "e",
                    "pid": target,
                    "tid": 0 if places[target] == HOST else TRACKS.index(other),
                    "ts": simulation.start_us[reader],
                    **arrow,
                }
            )
    return events


def _memory(simulation: Simulation, places: list[str]) -> list[Event]:
    """Bytes of each arena that are in use, as a counter."""
    changes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for instance in simulation.flow.instances:
        if instance.in_arena and instance.begin >= 0:
            changes[instance.place][simulation.start_us[instance.begin]] += instance.bytes
            changes[instance.place][simulation.finish_us[instance.end]] -= instance.bytes
    events: list[Event] = []
    for place, steps in changes.items():
        used = 0
        for time, change in sorted(steps.items()):
            used += change
            arguments = {"bytes": used}
            events.append({"ph": "C", "pid": places.index(place), "ts": time, "name": "arena", "args": arguments})
    return events
