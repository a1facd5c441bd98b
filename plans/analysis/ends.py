"""What must hold where a list, a phase or the plan ends.

list      every training step that it works on is complete: all cells that there are, losses saved, all slabs updated
cycle     the same slabs are held at its end as at its start
phase     nothing is held on any device, and the host store is newest
plan      every job gets exactly its steps
"""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

from hydraplan.plans.analysis.objects import SLAB_KINDS, Key, Problem, Site
from hydraplan.plans.analysis.state import State
from hydraplan.plans.language.workload import HOST

Held: TypeAlias = frozenset[tuple[str, Key]]
"""(device, what of which slab)."""
SlabStates: TypeAlias = frozenset[tuple[str, Key, bool, bool]]
"""(place, what of which slab, newer than the host store, older than the newest)."""

MANY = 4
"""More gaps of one kind in one training step are counted, not listed."""


def held(state: State) -> Held:
    """What is on devices now."""
    return frozenset(at for at in state.here if at[0] != HOST and at not in state.phantoms)


def slab_states(state: State) -> SlabStates:
    """Two equal ones are followed by equal walks, whatever the number of updates."""
    return frozenset(
        (place, key, instance.dirty, state.updates[key.job, key.slab] != instance.version)
        for (place, key), instance in state.here.items()
    )


def finish_list(state: State, site: Site) -> None:
    """Every training step that a list begins, it finishes. The list ends with `site`."""
    for job, steps in state.seen.items():
        state.steps[site.phase, site.section, job] = len(steps)
        if max(steps) >= len(steps):
            numbers = ", ".join(str(step) for step in sorted(steps)[:8])
            state.border_problem(
                site, f"its training steps of {job} are numbered {numbers}", "number them 0, 1, 2, ... in each list"
            )
        for step in sorted(steps):
            _finish_step(state, site, job, step)
        state.base[job] += len(steps)
        for slab in state.shapes[job].updated:
            state.missed[job, slab] = state.base[job] - state.updates[job, slab]
    for (job, _, _, shard), device in state.kept.items():
        state.border_problem(
            site,
            f"activations that shard {shard} of {job} kept on {device} outlive the list",
            f"add the backward of shard {shard} on {device}",
        )
    state.seen.clear()
    state.forwards.clear()
    state.backwards.clear()
    state.kept.clear()
    state.updated.clear()
    state.open.clear()
    state.lost_gradients.clear()
    for at in [at for at in state.here if at[1].kind not in SLAB_KINDS]:
        del state.here[at]
        state.phantoms.discard(at)


def _finish_step(state: State, site: Site, job: str, step: int) -> None:
    shape = state.shapes[job]
    gaps: dict[str, list[str]] = defaultdict(list)
    for microbatch in range(shape.job.microbatches):
        cell = (job, step, microbatch)
        next_forward = state.forwards.get(cell, 0)
        next_backward = state.backwards.get(cell, shape.first_backward)
        loss = Key("activations", job, shard=shape.last, step=step, microbatch=microbatch)
        if next_forward <= shape.last:
            gaps["forward"].append(f"of shard {next_forward}, microbatch {microbatch}")
        elif (HOST, loss) not in state.here:
            gaps["loss"].append(f"microbatch {microbatch}")
        if next_forward > shape.last and next_backward >= 0:
            gaps["backward"].append(f"of shard {next_backward}, microbatch {microbatch}")
    for slab in shape.updated:
        if (job, slab, step) not in state.updated:
            gaps["update"].append(f"of slab {slab}")
    for what, places in gaps.items():
        listed = "; ".join(places[:MANY]) + (f"; and {len(places) - MANY} more" if len(places) > MANY else "")
        if what == "loss":
            cause = f"step {step} of {job}: loss not saved: {listed}"
            remedy = f'save "activations" of shard {shape.last} after its forward'
        else:
            cause, remedy = f"step {step} of {job}: no {what} {listed}", f"add the {what}, and what it needs"
        state.border_problem(site, cause, remedy)


def compare_cycle(state: State, site: Site, start: Held, earlier: SlabStates | None) -> SlabStates:
    """A cycle ends as it began; `earlier` is how its first copy ended. Returns how this one ends."""
    now = held(state)
    for place, key in sorted(now - start - state.phantoms):
        state.border_problem(
            site,
            f"{key.kind} of slab {key.slab} of {key.job} on {place} at the cycle's end but not at its start",
            "drop it in the cycle, or load it in the prologue too",
        )
    for place, key in sorted(start - now - state.phantoms):
        state.border_problem(
            site,
            f"{key.kind} of slab {key.slab} of {key.job} on {place} at the cycle's start but not at its end",
            "load it again in the cycle, or do not hold it before",
        )
    ends = slab_states(state)
    if earlier is not None and ends != earlier and now == start:
        names = sorted({f"{key.slab} of {key.job} on {place}" for place, key, _, _ in ends ^ earlier})
        state.border_problem(
            site,
            f"which copies are newest differs from one cycle to the next: slab {', '.join(names[:MANY])}",
            "load or spill them in the cycle, so that every cycle ends alike",
        )
    return ends


def finish_phase(state: State, site: Site) -> None:
    """Nothing stays on a device, and the host store is newest."""
    for place, key in sorted(held(state)):
        state.border_problem(
            site,
            f"{key.kind} of slab {key.slab} of {key.job} still on {place} at the phase's end",
            "drop it in the epilogue",
        )
        del state.here[place, key]
    for at in [at for at in state.phantoms if at[0] != HOST]:
        state.here.pop(at, None)
        state.phantoms.discard(at)
    for (job, slab), count in state.updates.items():
        for kind in SLAB_KINDS:
            stored = state.here.get((HOST, Key(kind, job, slab)))
            if stored is not None and stored.version != count:  # what is never trained has no optimizer state
                state.border_problem(
                    site,
                    f"{kind} of slab {slab} of {job} in the host store are older than the device's",
                    f"spill {kind} of it from the device that updated it",
                )
                stored.version = count


def finish_plan(state: State) -> None:
    """Every job gets exactly its steps."""
    planned: dict[str, int] = defaultdict(int)
    for (number, section, job), count in state.steps.items():
        planned[job] += count * (state.plan.phases[number].repeat if section == "cycle" else 1)
    for definition in state.plan.workload.jobs:
        if planned[definition.name] != definition.steps:
            problem = Problem(
                phase=max(len(state.plan.phases) - 1, 0),
                section=None,
                line=None,
                cause=f"the lists train {definition.name} by {planned[definition.name]} steps; "
                f"its job says {definition.steps}",
                remedy='change "repeat" of a phase, or the lists',
            )
            state.problems[problem] = None
