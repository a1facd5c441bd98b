"""What runs and what it touches: sites, objects, instances, and the problems found while tracing them.

site        one step of the unrolled plan
key         an object: a slab's parameters, a shard's activations of one microbatch, ...
instance    one object in one place, from the site that makes it to the last that uses it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from hydraplan.plans.language.errors import Finding
from hydraplan.plans.language.facts import Layout
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Drop, Load, Step
from hydraplan.plans.language.workload import HOST

Section: TypeAlias = Literal["prologue", "cycle", "epilogue"]
Kind: TypeAlias = Literal[
    "parameters", "optimizer", "activations", "activation_gradients", "buffers", "batch", "gradients"
]
Node: TypeAlias = tuple[int, int]
"""Half-open range of microbatches."""

SLAB_KINDS: tuple[Literal["parameters"], Literal["optimizer"]] = ("parameters", "optimizer")
"""What a slab consists of; the only kinds that the host store holds throughout."""


COPIES = 2
"""Copies of a cycle that are traced: the second one stands for all later ones."""


class Site(NamedTuple):
    """One step of the unrolled plan."""

    phase: int
    section: Section
    copy: int
    line: int
    step: Step


class Key(NamedTuple):
    """What an instance is an instance of."""

    kind: Kind
    job: str
    slab: str = ""
    shard: int = -1
    step: int = 0
    microbatch: int = -1


@dataclass(slots=True, eq=False)
class Instance:
    """One object in one place, from the site that makes it to the last one that uses it."""

    id: int
    key: Key
    place: str
    bytes: int
    begin: int
    """Index of the site that makes it; -1: there from the start (the host store)."""
    version: int = 0
    """Of a slab: updates that it has seen. Of activation gradients: shards that have added to them."""
    dirty: bool = False
    """Newer than the host store."""
    accesses: list[tuple[int, bool]] = field(default_factory=list)
    """(site, writes), in list order."""
    dropped: int | None = None

    @property
    def end(self) -> int:
        return self.accesses[-1][0] if self.dropped is None else self.dropped

    @property
    def in_arena(self) -> bool:
        return not (self.place == HOST and self.key.kind in SLAB_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulation:
    """What becomes of a fresh gradient: into `targets[0]`, that into `targets[1]`, and so on."""

    slab: str
    shard: int
    targets: tuple[Instance, ...]
    stored: bool
    """The first target is new: store, do not add."""


@dataclass(slots=True)
class Uses:
    """The instances that one site touches."""

    reads: list[Instance] = field(default_factory=list)
    writes: list[Instance] = field(default_factory=list)
    accumulations: list[Accumulation] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A line that cannot be run as written."""

    phase: int
    section: Section | None
    line: int | None
    cause: str
    remedy: str

    @property
    def pointer(self) -> str:
        """JSON pointer of the line, the list, or the lists."""
        parts = [] if self.section is None else [str(self.phase), self.section]
        parts += [] if self.line is None else [str(self.line)]
        return "/".join(["/phases", *parts])

    def finding(self, line: int | None = None) -> Finding:
        return Finding(pointer=self.pointer, line=line, cause=self.cause, remedy=self.remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    sites: tuple[Site, ...]
    uses: tuple[Uses, ...]
    instances: tuple[Instance, ...]
    problems: tuple[Problem, ...]
    steps: dict[tuple[int, Section, str], int]
    """Training steps of a job in one run of a list: (phase, section, job) -> count."""


@lru_cache
def gradient_tree(microbatches: int) -> dict[Node, tuple[Node, Node]]:
    """Node -> (sibling, parent) of the fixed binary tree in which gradients are summed.

    [a, b) splits at a plus the largest power of two below b - a (EXACTNESS.md, rule 14).
    """
    tree: dict[Node, tuple[Node, Node]] = {}
    todo = [(0, microbatches)]
    while todo:
        first, last = todo.pop()
        if last - first > 1:
            middle = first + (1 << ((last - first - 1).bit_length() - 1))
            left, right = (first, middle), (middle, last)
            tree[left] = (right, (first, last))
            tree[right] = (left, (first, last))
            todo += [left, right]
    return tree


def unroll(plan: Plan) -> tuple[Site, ...]:
    """The sites of a plan, each cycle at most `COPIES` times."""
    sites: list[Site] = []
    for number, phase in enumerate(plan.phases):
        sections: list[tuple[Section, int, tuple[Step, ...]]] = [("prologue", 0, phase.prologue)]
        sections += [("cycle", copy, phase.cycle) for copy in range(min(phase.repeat, COPIES))]
        sections.append(("epilogue", 0, phase.epilogue))
        for section, copy, steps in sections:
            sites += [Site(number, section, copy, index, step) for index, step in enumerate(steps)]
    return tuple(sites)


def refreshes(sites: Sequence[Site]) -> frozenset[int]:
    """Which sites load parameters over a present copy: of those only what changes has to move.

    Whatever the order of the steps in time, what is frozen is there: its first load is waited for.
    """
    present: set[tuple[str, str, str]] = set()
    found: set[int] = set()
    for number, site in enumerate(sites):
        step = site.step
        if isinstance(step, Load | Drop) and step.what == "parameters":
            copy = (step.device, step.job, step.slab)
            if isinstance(step, Drop):
                present.discard(copy)
            elif copy in present:
                found.add(number)
            else:
                present.add(copy)
    return frozenset(found)


def layouts_of(plan: Plan) -> dict[str, Layout]:
    """Job -> its layout. The plan's references must have been checked."""
    graphs = {job.job: job.graph for job in plan.facts.jobs}
    layouts = {(layout.graph, layout.cuts): layout for layout in plan.facts.layouts}
    return {cut.job: layouts[graphs[cut.job], cut.cuts] for cut in plan.decisions.cuts}
