"""What load, spill, drop and update do to slabs.

A slab's version is the number of its updates. The host store has the newest, except between an update on a
device and the spill of what it updated (the device's copy is *dirty* meanwhile).
"""

from __future__ import annotations

from hydraplan.plans.analysis.objects import SLAB_KINDS, Key
from hydraplan.plans.analysis.state import State, gradient_key
from hydraplan.plans.language.steps import Drop, Load, Spill, Update
from hydraplan.plans.language.workload import HOST


def load(state: State, step: Load) -> None:
    key = Key(step.what, step.job, step.slab)
    if not _exists(state, step):
        return
    source = state.read(HOST, key) or state.missing(HOST, key, "")
    newest = state.updates[step.job, step.slab]
    if source.version != newest:
        state.problem(
            f"load of slab {step.slab} of {step.job}: the host store has its update {source.version}, "
            f"the newest is update {newest}",
            f"spill {step.what} from the device that updated it above this line",
        )
        source.version = newest
    present = state.here.get((step.device, key))
    if present is None:
        present = state.begin(step.device, key)
    else:
        state.touch(present, writes=True)
        state.phantoms.discard((step.device, key))
    present.version = source.version
    present.dirty = False


def spill(state: State, step: Spill) -> None:
    key = Key(step.what, step.job, step.slab)
    if not _exists(state, step):
        return
    source = state.read(step.device, key) or state.missing(step.device, key, f"load {step.what} of it above this line")
    target = state.here[HOST, key]
    if not source.dirty and source.version < state.updates[step.job, step.slab]:
        state.problem(
            f"spill of slab {step.slab} of {step.job} would overwrite a newer copy in the host store",
            "delete the line",
        )
        return
    state.touch(target, writes=True)
    target.version = source.version
    source.dirty = False


def drop(state: State, step: Drop) -> None:
    key = Key(step.what, step.job, step.slab)
    present = state.here.get((step.device, key))
    if present is None:
        state.problem(f"{step.what} of slab {step.slab} of {step.job} are not on {step.device}", "delete the line")
        return
    if present.dirty:
        state.problem(
            f"drop of {step.what} of slab {step.slab} of {step.job}, updated on {step.device} and not spilled",
            f"spill {step.what} of it between the update and this line",
        )
        state.here[HOST, key].version = present.version
    present.dropped = state.site
    del state.here[step.device, key]
    state.phantoms.discard((step.device, key))


def update(state: State, step: Update) -> None:
    state.enter(step.job, step.step)
    shape = state.shapes[step.job]
    what = f"update of slab {step.slab} of {step.job}"
    slab = shape.slabs[step.slab]
    if not slab.updated_bytes:
        state.problem(f"{what}: nothing in it is trained", "delete the line")
        return
    if (step.job, step.slab, step.step) in state.updated:
        state.problem(f"{what}: step {step.step} has updated it already", "delete the line")
        return
    state.updated.add((step.job, step.slab, step.step))
    for shard in shape.readers_with_gradients(step.slab):
        _read_gradients(state, step, shard)
    if slab.buffer_bytes:
        _read_buffers(state, step, slab.readers[0])
    count = state.updates[step.job, step.slab]
    for kind in SLAB_KINDS if slab.trainable_bytes else SLAB_KINDS[:1]:
        key = Key(kind, step.job, step.slab)
        copy = state.read(step.device, key) or state.missing(step.device, key, f"load {kind} of it above this line")
        if copy.version != count:
            state.problem(
                f"{what}: the {kind} on {step.device} are at update {copy.version}, the newest is {count}",
                "spill the newer copy and load it again",
            )
        state.touch(copy, writes=True)
        copy.version = count + 1
        copy.dirty = step.device != HOST
    state.updates[step.job, step.slab] = count + 1


def _read_gradients(state: State, step: Update, shard: int) -> None:
    whole = (0, state.shapes[step.job].job.microbatches)
    key = gradient_key(step, step.slab, shard)
    accumulators = state.open[step.device, key]
    gradient = accumulators.pop(whole, None)
    if gradient is not None:
        state.touch(gradient, writes=False)
    elif key not in state.lost_gradients:
        present = ", ".join(f"[{a}, {b})" for a, b in sorted(accumulators)) or "none"
        state.problem(
            f"update of slab {step.slab} of {step.job} needs shard {shard}'s gradients of all microbatches "
            f"[0, {whole[1]}) on {step.device}, which has {present}",
            "move it below the last backward, and on the host below the spills of gradients",
        )
        state.lost_gradients.add(key)


def _read_buffers(state: State, step: Update, shard: int) -> None:
    """What the forward of the last microbatch has made of the slab's buffers."""
    last = state.shapes[step.job].job.microbatches - 1
    key = Key("buffers", step.job, shard=shard, step=step.step, microbatch=last)
    state.read(step.device, key) or state.missing(
        step.device,
        key,
        f"move it below that forward, and on the host below a save of its buffers (microbatch {last})",
    )


def _exists(state: State, step: Load | Spill) -> bool:
    """Whether a slab has what a line moves: without trained parameters it has no optimizer state, and nothing of
    what is frozen is ever spilled."""
    slab = state.shapes[step.job].slabs[step.slab]
    if step.what == "optimizer" and not slab.trainable_bytes:
        state.problem(f"slab {step.slab} of {step.job} has no optimizer state", "delete the line")
        return False
    if isinstance(step, Spill) and not slab.updated_bytes:
        state.problem(f"slab {step.slab} of {step.job} is frozen: the host store has all of it", "delete the line")
        return False
    return True
