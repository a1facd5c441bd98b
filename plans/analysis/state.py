"""What is where while a plan's lists are run line by line: the state that the rules of the steps act on.

What a line reads and is not there is reported once; then the walk goes on as if it were (a *phantom*), so that
one missing line makes one problem and not one for every line that follows.
"""

from __future__ import annotations

from collections import defaultdict

from hydraplan.plans.analysis.objects import (
    SLAB_KINDS,
    Instance,
    Key,
    Kind,
    Node,
    Problem,
    Section,
    Site,
    Uses,
    layouts_of,
    unroll,
)
from hydraplan.plans.language.facts import Layout, ShardFacts, SlabFacts
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Backward, Fetch, FetchBatch, Forward, Save, SpillGradients, Update
from hydraplan.plans.language.workload import HOST, Job


class JobShape:
    """What the rules ask of a job's layout, looked up ahead."""

    def __init__(self, job: Job, layout: Layout, state_copies: int) -> None:
        self.job = job
        self.shards: tuple[ShardFacts, ...] = layout.shards
        self.last = len(layout.shards) - 1
        self.slabs: dict[str, SlabFacts] = {slab.name: slab for slab in layout.slabs}
        self.state_copies = state_copies
        self.gradient_bytes = [dict(shard.gradient_bytes) for shard in layout.shards]
        self.updated = [slab.name for slab in layout.slabs if slab.updated_bytes]
        self.adders: list[list[int]] = [
            [number for number, shard in enumerate(layout.shards) if producer in shard.gradients_to][::-1]
            for producer in range(len(layout.shards))
        ]
        """Shard -> those whose backwards add to its activations' gradients, in the order of their backwards."""
        self.next_backward: list[int] = []
        """Shard, or the number of shards -> the next one below that has a backward; -1: none."""
        below = -1
        for number, shard in enumerate((*layout.shards, None)):
            self.next_backward.append(below)
            if shard is not None and shard.has_backward:
                below = number

    @property
    def first_backward(self) -> int:
        """The shard whose backward is the first of a microbatch; -1: no shard has one."""
        return self.next_backward[-1]

    def readers_with_gradients(self, slab: str) -> list[int]:
        return [shard for shard in self.slabs[slab].readers if slab in self.gradient_bytes[shard]]


class State:
    """The walk's memory. `site` is the line that runs now."""

    def __init__(self, plan: Plan) -> None:
        copies = {job.job: job.state_copies for job in plan.facts.jobs}
        jobs = {job.name: job for job in plan.workload.jobs}
        self.plan = plan
        self.shapes = {job: JobShape(jobs[job], layout, copies[job]) for job, layout in layouts_of(plan).items()}
        self.sites: tuple[Site, ...] = unroll(plan)
        self.site = -1
        self.uses: list[Uses] = []
        self.instances: list[Instance] = []
        self.here: dict[tuple[str, Key], Instance] = {}
        """What is in each place now."""
        self.open: dict[tuple[str, Key], dict[Node, Instance]] = defaultdict(dict)
        """Accumulators in each place; the key's step and shard, without a microbatch."""
        self.updates: dict[tuple[str, str], int] = defaultdict(int)
        """(job, slab) -> updates so far, on whatever device."""
        self.base: dict[str, int] = defaultdict(int)
        """Training steps finished before the current list."""
        self.steps: dict[tuple[int, Section, str], int] = {}
        # Of the current list:
        self.seen: dict[str, set[int]] = defaultdict(set)
        """Training steps that it works on."""
        self.forwards: dict[tuple[str, int, int], int] = defaultdict(int)
        """(job, step, microbatch) -> next shard to run forward."""
        self.backwards: dict[tuple[str, int, int], int] = {}
        """The same, backward; -1: all have run; absent: none yet."""
        self.kept: dict[tuple[str, int, int, int], str] = {}
        """(job, step, microbatch, shard) -> where its forward keeps activations."""
        self.updated: set[tuple[str, str, int]] = set()
        # Problems:
        self.problems: dict[Problem, None] = {}
        self.lines_with_problems: dict[tuple[int, Section, int], int] = {}
        """Line -> copy of the cycle that had problems with it first."""
        self.phantoms: set[tuple[str, Key]] = set()
        self.missed: dict[tuple[str, str], int] = defaultdict(int)
        """(job, slab) -> updates whose absence has been reported."""
        self.lost_gradients: set[Key] = set()
        """Gradients whose absence has been reported."""
        for name, shape in self.shapes.items():
            for slab in shape.slabs.values():
                for kind in SLAB_KINDS:
                    if kind == "parameters" or slab.trainable_bytes:
                        self.begin(HOST, Key(kind, name, slab.name))

    # -- instances --------------------------------------------------------------------------------

    def size_of(self, key: Key) -> int:
        shape = self.shapes[key.job]
        match key.kind:
            case "activations":
                return shape.shards[key.shard].activation_bytes
            case "activation_gradients":
                return shape.shards[key.shard].activation_gradient_bytes
            case "parameters":
                return shape.slabs[key.slab].parameter_bytes
            case "optimizer":
                return shape.state_copies * shape.slabs[key.slab].trainable_bytes
            case "buffers":
                return shape.shards[key.shard].buffer_bytes
            case "batch":
                return shape.shards[key.shard].batch_bytes
            case "gradients":
                return shape.gradient_bytes[key.shard][key.slab]

    def new(self, place: str, key: Key) -> Instance:
        """Make an instance without registering it as the place's current one."""
        instance = Instance(len(self.instances), key, place, self.size_of(key), self.site)
        self.instances.append(instance)
        if self.site >= 0:
            self.touch(instance, writes=True)
        return instance

    def begin(self, place: str, key: Key) -> Instance:
        instance = self.here[place, key] = self.new(place, key)
        self.phantoms.discard((place, key))
        return instance

    def read(self, place: str, key: Key) -> Instance | None:
        """What is in a place now: `read(place, key) or missing(place, key, remedy)`."""
        instance = self.here.get((place, key))
        if instance is not None:
            self.touch(instance, writes=False)
        return instance

    def missing(self, place: str, key: Key, remedy: str) -> Instance:
        """The phantom of what a line reads and is not there."""
        if key.slab:
            self.problem(f"{_words(key.kind)} of slab {key.slab} of {key.job} are not {_at(place)}", remedy)
        else:
            part = f"{_words(key.kind)} of shard {key.shard}, microbatch {key.microbatch} of {key.job}"
            self.problem(f"{part} {'is' if key.kind == 'batch' else 'are'} not {_at(place)}", remedy)
        phantom = self.begin(place, key)
        phantom.version = self.updates[key.job, key.slab] if key.slab else -1
        self.phantoms.add((place, key))
        return phantom

    def touch(self, instance: Instance, *, writes: bool) -> None:
        instance.accesses.append((self.site, writes))
        uses = self.uses[-1]
        (uses.writes if writes else uses.reads).append(instance)

    def enter(self, job: str, step: int) -> None:
        """Note that the current list works on a training step."""
        self.seen[job].add(step)

    # -- problems ---------------------------------------------------------------------------------

    def problem(self, cause: str, remedy: str) -> None:
        """Report the current line; of a cycle's line, what its first copy finds, if anything."""
        site = self.sites[self.site]
        first = self.lines_with_problems.setdefault((site.phase, site.section, site.line), site.copy)
        if first == site.copy:
            problem = Problem(phase=site.phase, section=site.section, line=site.line, cause=cause, remedy=remedy)
            self.problems[problem] = None

    def border_problem(self, site: Site, cause: str, remedy: str) -> None:
        """Report the list that ends with a site."""
        self.problems[Problem(phase=site.phase, section=site.section, line=None, cause=cause, remedy=remedy)] = None


def cell_key(kind: Kind, step: Forward | Backward | Fetch | FetchBatch | Save, shard: int) -> Key:
    return Key(kind, step.job, "", shard, step.step, step.microbatch)


def gradient_key(step: Backward | SpillGradients | Update, slab: str, shard: int) -> Key:
    """Of all accumulators of a slab's gradients from one shard in one training step."""
    return Key("gradients", step.job, slab, shard, step.step)


def _words(kind: Kind) -> str:
    return kind.replace("_", " ")


def _at(place: str) -> str:
    return "in host memory" if place == HOST else f"on {place}"
