"""What forwards, backwards and the moves of their values do.

Per microbatch, forwards ascend and backwards strictly descend by shard, over those shards that have one: where
nothing upstream needs a gradient, there is none. A backward reads what its forward read, kept or not
(EXACTNESS.md, rule 13). Buffers that a forward updates pass through the microbatches in ascending order: a forward
begins with what the one before has made of them, and so does its backward, which changes nothing (rule 9).

Gradients of activations are one running sum, begun by the last shard that reads them: its version is how many shards
have added to it, so that a copy that was left behind on another device is recognised.
"""

from __future__ import annotations

from hydraplan.plans.analysis.objects import Accumulation, Instance, Key, Node, gradient_tree
from hydraplan.plans.analysis.state import State, cell_key, gradient_key
from hydraplan.plans.language.facts import ShardFacts
from hydraplan.plans.language.steps import Backward, Fetch, FetchBatch, Forward, Save, SpillGradients
from hydraplan.plans.language.workload import HOST


def fetch_batch(state: State, step: FetchBatch) -> None:
    state.enter(step.job, step.step)
    if state.shapes[step.job].shards[step.shard].batch_bytes == 0:
        state.problem(f"shard {step.shard} of {step.job} reads no batch values", "delete the line")
    state.begin(step.device, cell_key("batch", step, step.shard))


def fetch(state: State, step: Fetch) -> None:
    key = cell_key(step.what, step, step.shard)
    what = step.what.replace("_", " ")
    source = state.read(HOST, key) or state.missing(HOST, key, f"save {what} of shard {step.shard} above this line")
    state.begin(step.device, key).version = source.version


def save(state: State, step: Save) -> None:
    key = cell_key(step.what, step, step.shard)
    source = state.read(step.device, key) or state.missing(
        step.device, key, "save it on the device that has it, below the cell that makes it"
    )
    state.begin(HOST, key).version = source.version


def forward(state: State, step: Forward) -> None:
    state.enter(step.job, step.step)
    cell = (step.job, step.step, step.microbatch)
    if state.forwards[cell] != step.shard:
        _out_of_order(state, step, "forward", state.forwards[cell], "forwards ascend by shard")
    state.forwards[cell] = max(state.forwards[cell], step.shard + 1)
    shard = state.shapes[step.job].shards[step.shard]
    _read_inputs(state, step, shard)
    if step.keep and not shard.has_backward:
        state.problem(
            f"shard {step.shard} of {step.job} keeps activations for a backward that it does not have",
            'take "keep" from the line',
        )
    elif step.keep:
        state.kept[step.job, step.step, step.microbatch, step.shard] = step.device
    if shard.activation_bytes:
        state.begin(step.device, cell_key("activations", step, step.shard))
    if shard.buffer_bytes:
        state.begin(step.device, cell_key("buffers", step, step.shard))


def backward(state: State, step: Backward) -> None:
    state.enter(step.job, step.step)
    shape = state.shapes[step.job]
    if not shape.shards[step.shard].has_backward:
        state.problem(
            f"backward of shard {step.shard} of {step.job}, which makes no gradients: nothing upstream needs it",
            "delete the line",
        )
        return
    cell = (step.job, step.step, step.microbatch)
    if cell not in state.backwards and state.forwards[cell] <= shape.last:
        state.problem(
            f"backward of shard {step.shard}, microbatch {step.microbatch} of {step.job} before the forward "
            f"of shard {state.forwards[cell]}",
            "move it below all forwards of its microbatch",
        )
    expected = state.backwards.get(cell, shape.first_backward)
    if expected != step.shard:
        _out_of_order(state, step, "backward", expected, "backwards strictly descend by shard")
    state.backwards[cell] = shape.next_backward[step.shard] if step.shard <= expected else expected
    kept_on = state.kept.pop((step.job, step.step, step.microbatch, step.shard), step.device)
    if kept_on != step.device:
        state.problem(
            f"backward of shard {step.shard} of {step.job} on {step.device}; its forward kept activations on {kept_on}",
            f'run it on {kept_on}, or take "keep" from the forward',
        )
    shard = shape.shards[step.shard]
    _read_inputs(state, step, shard)
    if shape.adders[step.shard]:
        _read_sum(state, step, step.shard, len(shape.adders[step.shard]))
    for producer in shard.gradients_to:
        added = shape.adders[producer].index(step.shard)
        if added:
            running = _read_sum(state, step, producer, added)
            state.touch(running, writes=True)
        else:
            running = state.begin(step.device, cell_key("activation_gradients", step, producer))
        running.version = added + 1
    for slab, _ in shard.gradient_bytes:
        _accumulate(state, step, slab)


def spill_gradients(state: State, step: SpillGradients) -> None:
    state.enter(step.job, step.step)
    key = gradient_key(step, step.slab, step.shard)
    accumulators = state.open[step.device, key]
    source = accumulators.pop(step.microbatches, None)
    if source is None:
        first, last = step.microbatches
        present = ", ".join(f"[{a}, {b})" for a, b in sorted(accumulators)) or "none"
        state.problem(
            f"{step.device} has no gradients of slab {step.slab} from shard {step.shard} of {step.job} for "
            f"microbatches [{first}, {last}); it has {present}",
            "spill a whole node of the gradient tree, below the backwards that make it",
        )
        state.lost_gradients.add(key)
        return
    state.touch(source, writes=False)
    landed = state.new(HOST, key._replace(microbatch=step.microbatches[0]))
    targets = [landed, *_merge(state, state.open[HOST, key], step.job, step.microbatches, landed)]
    state.uses[-1].accumulations.append(
        Accumulation(slab=step.slab, shard=step.shard, targets=tuple(targets), stored=True)
    )


def _read_inputs(state: State, step: Forward | Backward, shard: ShardFacts) -> None:
    for slab in shard.slabs:
        _read_parameters(state, step, slab)
    for producer in shard.reads:
        key = cell_key("activations", step, producer)
        state.read(step.device, key) or state.missing(
            step.device,
            key,
            f"run shard {producer} on {step.device} above, or save it where it ran and fetch it here",
        )
    if shard.batch_bytes:
        key = cell_key("batch", step, step.shard)
        state.read(step.device, key) or state.missing(step.device, key, "fetch the batch above this line")
    if shard.buffer_bytes and step.microbatch:
        key = cell_key("buffers", step, step.shard)._replace(microbatch=step.microbatch - 1)
        state.read(step.device, key) or state.missing(
            step.device,
            key,
            f"run the forward of microbatch {key.microbatch} above, or save its buffers there and fetch them here",
        )


def _read_parameters(state: State, step: Forward | Backward, slab: str) -> None:
    key = Key("parameters", step.job, slab)
    present = state.read(step.device, key) or state.missing(
        step.device, key, f"load slab {slab} on {step.device} above this line"
    )
    if not state.shapes[step.job].slabs[slab].updated_bytes or (step.device, key) in state.phantoms:
        return
    newest = state.updates[step.job, slab]
    version = state.base[step.job] + step.step - state.missed[step.job, slab]
    if present.version == version:
        return
    state.problem(
        f"shard {step.shard} of {step.job} reads slab {slab} on {step.device} at update "
        f"{present.version}; training step {version} needs update {version}",
        f"load slab {slab} again below its update"
        if newest > present.version
        else "move the line below the update of the step before",
    )
    if newest == version:
        present.version = newest  # as if it had been loaded again
    elif newest < version:
        state.missed[step.job, slab] += version - newest


def _read_sum(state: State, step: Backward, producer: int, added: int) -> Instance:
    """The running sum of a shard's activation gradients, to which `added` shards have added."""
    key = cell_key("activation_gradients", step, producer)
    running = state.read(step.device, key)
    if running is not None and running.version in (added, -1):
        return running
    later = state.shapes[step.job].adders[producer][added - 1]
    remedy = f"save it where shard {later} ran backward, and fetch it on {step.device} above this line"
    if running is None:
        return state.missing(step.device, key, remedy)
    state.problem(
        f"activation gradients of shard {producer}, microbatch {step.microbatch} of {step.job} on {step.device} "
        f"lack what shard {later} added on another device",
        remedy,
    )
    return running


def _out_of_order(state: State, step: Forward | Backward, what: str, expected: int, rule: str) -> None:
    again = step.shard < expected if what == "forward" else step.shard > expected
    cell = f"{what} of shard {step.shard}, microbatch {step.microbatch} of {step.job}"
    if again:
        state.problem(f"{cell} a second time in step {step.step}, or too late; {rule}", "delete or move the line")
    else:
        state.problem(f"{cell} before that of shard {expected}; {rule}", "add or move the missing line")


def _accumulate(state: State, step: Backward, slab: str) -> None:
    key = gradient_key(step, slab, step.shard)
    accumulators = state.open[step.device, key]
    node = (step.microbatch, step.microbatch + 1)
    targets = _merge(state, accumulators, step.job, node, None)
    stored = not targets
    if stored:
        targets = [state.new(step.device, key._replace(microbatch=step.microbatch))]
        accumulators[node] = targets[0]
    state.uses[-1].accumulations.append(
        Accumulation(slab=slab, shard=step.shard, targets=tuple(targets), stored=stored)
    )


def _merge(
    state: State, accumulators: dict[Node, Instance], job: str, node: Node, landed: Instance | None
) -> list[Instance]:
    """Add up sibling nodes from `node` upward; what is left is registered, and the instances added to returned.

    `landed`: the instance that holds `node`, None for a fresh gradient in the workspace.
    """
    tree = gradient_tree(state.shapes[job].job.microbatches)
    targets: list[Instance] = []
    while node in tree and tree[node][0] in accumulators:
        sibling, node = tree[node]
        target = accumulators.pop(sibling)
        state.touch(target, writes=True)
        targets.append(target)
    holder = targets[-1] if targets else landed
    if holder is not None:
        accumulators[node] = holder
    return targets
