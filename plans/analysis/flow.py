"""What a list means: its steps run line by line, in the order written.

The walk goes once over the whole plan, with each cycle twice (the second time stands for all later
ones), and finds, without any clock,

- the *instances*: every stretch of time in which an object exists in one place, and who reads or writes it;
- the *problems*: every line that reads what is not there, or is stale, or comes out of order.

Arena addresses (`arena`), dependencies (`hazards`) and peaks (`memory`) all derive from it.

Objects, by kind, and where they can be:

    parameters, optimizer       a slab's; host store always; device from load to drop. What is frozen is the same in
                                every copy: a spill, and a load over a present copy, move what changes alone
    activations                 a shard's outputs of a microbatch; device from forward or fetch, host from save
    activation_gradients        their gradients: begun by the first reader's backward, added to by the others
    buffers                     what a forward made of the buffers that it updates; the next microbatch's begins with
                                them, and the slab's update takes over the last; device from forward or fetch, host
                                from save
    batch                       the batch values a shard reads; device from fetch
    gradients                   an accumulator of a slab's gradients from one shard; device from a backward,
                                host from a spill; sibling nodes of the microbatch tree that meet are added up

Activations, their gradients, buffers and batches need no drop: they live until their last reader in the list.
A training step of a job lies within one list (a prologue, cycle or epilogue); only slabs are held over
a border, and the same ones at a cycle's end as at its start.

    types           plans.analysis.objects
    what is where   plans.analysis.state
    the steps       plans.analysis.slab_rules, plans.analysis.cell_rules
    the borders     plans.analysis.ends
"""

from __future__ import annotations

from hydraplan.plans.analysis import cell_rules, slab_rules
from hydraplan.plans.analysis.ends import Held, SlabStates, compare_cycle, finish_list, finish_phase, finish_plan, held
from hydraplan.plans.analysis.objects import (
    SLAB_KINDS,
    Accumulation,
    Flow,
    Instance,
    Key,
    Kind,
    Node,
    Problem,
    Section,
    Site,
    Uses,
    gradient_tree,
    layouts_of,
    refreshes,
    unroll,
)
from hydraplan.plans.analysis.state import State
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
)

__all__ = [
    "SLAB_KINDS",
    "Accumulation",
    "Flow",
    "Instance",
    "Key",
    "Kind",
    "Node",
    "Problem",
    "Section",
    "Site",
    "Uses",
    "gradient_tree",
    "layouts_of",
    "refreshes",
    "trace",
    "unroll",
]


def trace(plan: Plan) -> Flow:
    """Run the plan's lists line by line. References in steps (jobs, shards, slabs, devices) must exist."""
    state = State(plan)
    start: Held = frozenset()
    ended: SlabStates | None = None
    for position, site in enumerate(state.sites):
        state.site = position
        state.uses.append(Uses())
        _run(state, site.step)
        following = state.sites[position + 1] if position + 1 < len(state.sites) else None
        if following is None or following[:3] != site[:3]:
            finish_list(state, site)
            if site.section == "prologue":
                start = held(state)
            elif site.section == "cycle":
                ended = compare_cycle(state, site, start, ended)
            if following is None or following.phase != site.phase:
                finish_phase(state, site)
                start, ended = frozenset(), None
    finish_plan(state)
    return Flow(
        sites=state.sites,
        uses=tuple(state.uses),
        instances=tuple(state.instances),
        problems=tuple(state.problems),
        steps=state.steps,
    )


def _run(state: State, step: Step) -> None:
    match step:  # cells, of which most of a list consists, first
        case Forward():
            cell_rules.forward(state, step)
        case Backward():
            cell_rules.backward(state, step)
        case Load():
            slab_rules.load(state, step)
        case Spill():
            slab_rules.spill(state, step)
        case Drop():
            slab_rules.drop(state, step)
        case Update():
            slab_rules.update(state, step)
        case SpillGradients():
            cell_rules.spill_gradients(state, step)
        case FetchBatch():
            cell_rules.fetch_batch(state, step)
        case Fetch():
            cell_rules.fetch(state, step)
        case Save():
            cell_rules.save(state, step)
