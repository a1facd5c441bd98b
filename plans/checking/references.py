"""Whether everything that a plan names exists, and is named once. Only then can its lists be followed.

workload     devices, links, profiles, jobs; values that can be                   plans.checking.workload
facts        graphs, layouts and what binds jobs to them fit together
decisions    cuts, placements
lists        devices, jobs, slabs, shards, microbatches of every step
predictions, fingerprints    one of each device, of each job; none of others   plans.checking.predicted
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hydraplan.plans.analysis.objects import gradient_tree
from hydraplan.plans.checking.findings import Findings
from hydraplan.plans.checking.predicted import check_predicted
from hydraplan.plans.checking.workload import check_workload
from hydraplan.plans.language.errors import Finding, WorkloadError
from hydraplan.plans.language.facts import Graph, Layout
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.plan import Cuts, Plan
from hydraplan.plans.language.steps import (
    Drop,
    Load,
    Spill,
    SpillGradients,
    Step,
    Update,
)
from hydraplan.plans.language.workload import HOST, Job

PLAN_FROM = "run hydraplan plan --from on this file"


def reference_findings(plan: Plan) -> list[Finding]:
    """All names that lead nowhere, in workload, facts, decisions and lists."""
    found = Findings()
    check_workload(plan.workload, found)
    _check_state(plan, found)
    _check_facts(plan, found)
    if found.findings:
        return found.findings
    layouts = _check_cuts(plan, found)
    _check_placements(plan, layouts, found)
    _check_lists(plan, layouts, found)
    check_predicted(plan, found)
    return found.findings


def replan_findings(plan: Plan) -> list[Finding]:
    """Names that lead nowhere in what new lists are made from: workload, decisions, and the graphs of the jobs.

    Sizes and allowed cuts are derived anew, and old lists do not matter."""
    found = Findings()
    check_workload(plan.workload, found)
    _check_bindings(plan, found)
    jobs = [job.name for job in plan.workload.jobs]
    _check_cut_jobs(plan, jobs, found)
    _check_placements(plan, {}, found)
    return found.findings


# -- the workload -------------------------------------------------------------------------------------


def _check_state(plan: Plan, found: Findings) -> None:
    """What updates keep, by the jobs' optimizers and by the facts; and lists that may hold all microbatches."""
    copies = {job.job: job.state_copies for job in plan.facts.jobs}
    lines = sum(len(phase.prologue) + len(phase.cycle) + len(phase.epilogue) for phase in plan.phases)
    for number, job in enumerate(plan.workload.jobs):
        at = f"/workload/jobs/{number}"
        if job.microbatches > max(1, lines):
            found.add(
                f"{at}/microbatches",
                f"{job.microbatches} microbatches; all lists together have {lines} steps",
                "write what the lists were made for, or plan the changed workload again",
            )
        try:
            expected = state_of(job.optimizer, job.precision).copies
        except WorkloadError as error:
            found.add(f"{at}/optimizer", str(error), "name an optimizer and arguments that hydraplan knows")
            continue
        if copies.get(job.name, expected) != expected:
            found.add(
                f"{at}/optimizer",
                f"{job.optimizer.path} in {job.precision} keeps {expected} copies of state; "
                f"the facts say {copies[job.name]}",
                "plan the changed workload again",
            )


# -- facts --------------------------------------------------------------------------------------------


def _check_facts(plan: Plan, found: Findings) -> None:
    _check_bindings(plan, found)
    graphs = [graph.name for graph in plan.facts.graphs]
    profiles = {device.profile for device in plan.workload.cluster.devices}
    twice = Counter((layout.graph, layout.cuts) for layout in plan.facts.layouts)
    for number, layout in enumerate(plan.facts.layouts):
        at = f"/facts/layouts/{number}"
        found.known(f"{at}/graph", "graph", layout.graph, graphs)
        if twice[layout.graph, layout.cuts] > 1:
            found.add(at, "another layout has the same graph and cuts", "delete one of the two")
        for pointer, cause in _layout_faults(at, layout, profiles):
            found.add(pointer, cause, f"restore it, or {PLAN_FROM}")


def _check_bindings(plan: Plan, found: Findings) -> None:
    """Each job has one graph, and that exists."""
    graphs = [graph.name for graph in plan.facts.graphs]
    jobs = [job.name for job in plan.workload.jobs]
    found.once("/facts/graphs", "graph", graphs)
    bound = [job.job for job in plan.facts.jobs]
    found.once("/facts/jobs", "job", bound, "job")
    for number, fact in enumerate(plan.facts.jobs):
        found.known(f"/facts/jobs/{number}/job", "job", fact.job, jobs)
        found.known(f"/facts/jobs/{number}/graph", "graph", fact.graph, graphs)
    for name in jobs:
        if name not in bound:
            found.add("/facts/jobs", f'there are no facts of job "{name}"', "plan the workload again")


def _layout_faults(at: str, layout: Layout, profiles: set[str]) -> Iterable[tuple[str, str]]:
    """(pointer, cause) of all that does not fit together within one layout."""
    slabs = {slab.name: slab for slab in layout.slabs}
    if len(slabs) != len(layout.slabs):
        yield f"{at}/slabs", "two slabs of one name"
    if len(layout.shards) != len(layout.cuts) + 1:
        yield f"{at}/shards", f"{len(layout.shards)} shards of {len(layout.cuts)} cuts"
    for number, shard in enumerate(layout.shards):
        here = f"{at}/shards/{number}"
        for slab in shard.slabs:
            if slab not in slabs or number not in slabs[slab].readers:
                yield f"{here}/slabs", f'shard {number} reads slab "{slab}", which does not name it as a reader'
        for slab, _ in shard.gradient_bytes:
            if slab not in shard.slabs:
                yield (
                    f"{here}/gradient_bytes/{slab}",
                    f'shard {number} makes gradients of slab "{slab}" and does not read it',
                )
        if any(producer not in range(number) for producer in shard.reads) or list(shard.reads) != sorted(
            set(shard.reads)
        ):
            yield f"{here}/reads", f"shard {number} can read from shards 0 to {number - 1}, each once, ascending"
        if not set(shard.gradients_to) <= set(shard.reads):
            yield f"{here}/gradients_to", "gradients to a shard whose activations are not read"
        timed = Counter(times.profile for times in shard.times)
        missing = profiles - set(timed)
        if missing:
            yield f"{here}/times", f"no times for profile {', '.join(sorted(missing))}"
        for profile in sorted(name for name, count in timed.items() if count > 1):
            yield f"{here}/times", f"times for profile {profile} a second time"
        for what, names in (
            ("slab", list(shard.slabs)),
            ("gradients of slab", [name for name, _ in shard.gradient_bytes]),
        ):
            for name in sorted(name for name, count in Counter(names).items() if count > 1):
                yield here, f'{what} "{name}" a second time'
    for number, facts in enumerate(layout.slabs):
        here = f"{at}/slabs/{number}"
        for reader in facts.readers:
            if reader not in range(len(layout.shards)) or facts.name not in layout.shards[reader].slabs:
                yield f"{here}/readers", f'slab "{facts.name}" names shard {reader}, which does not read it'
        if facts.updated_bytes > facts.parameter_bytes:
            yield f"{here}/trainable_bytes", "more bytes are trained or updated than there are"


# -- decisions ----------------------------------------------------------------------------------------


def _check_cuts(plan: Plan, found: Findings) -> dict[str, Layout]:
    """Job -> its layout, for those that have one."""
    jobs = [job.name for job in plan.workload.jobs]
    graphs: dict[str, Graph] = {graph.name: graph for graph in plan.facts.graphs}
    graph_of = {job.job: graphs[job.graph] for job in plan.facts.jobs}
    layouts = {(layout.graph, layout.cuts): layout for layout in plan.facts.layouts}
    _check_cut_jobs(plan, jobs, found)
    result: dict[str, Layout] = {}
    for number, cut in enumerate(plan.decisions.cuts):
        at = f"/decisions/cuts/{number}"
        if cut.job not in jobs:
            continue
        graph = graph_of[cut.job]
        if _check_positions(f"{at}/cuts", cut, graph, found):
            layout = layouts.get((graph.name, cut.cuts))
            if layout is None:
                found.add(
                    f"{at}/cuts", f"the facts hold no shards of graph {graph.name} cut at {_list(cut.cuts)}", PLAN_FROM
                )
            else:
                result[cut.job] = layout
    return result


def _check_cut_jobs(plan: Plan, jobs: Sequence[str], found: Findings) -> None:
    """Each job has its cuts, once."""
    found.once("/decisions/cuts", "job", [cut.job for cut in plan.decisions.cuts], "job")
    for number, cut in enumerate(plan.decisions.cuts):
        found.known(f"/decisions/cuts/{number}/job", "job", cut.job, jobs)
    for name in jobs:
        if name not in {cut.job for cut in plan.decisions.cuts}:
            found.add("/decisions/cuts", f'there are no cuts of job "{name}"', "add them; an empty list is one shard")


def _check_positions(at: str, cut: Cuts, graph: Graph, found: Findings) -> bool:
    if list(cut.cuts) != sorted(set(cut.cuts)):
        found.add(at, f"the cuts of {cut.job} do not ascend", "write them in ascending order, each once")
        return False
    allowed = set(graph.cut_positions)
    wrong = [position for position in cut.cuts if position not in allowed]
    for position in wrong:
        near = sorted(allowed, key=lambda each: (abs(each - position), each))[:2]
        nearest = " and ".join(str(each) for each in sorted(near)) or "none"
        found.add(at, f"graph {graph.name} cannot be cut at {position}", f"the nearest positions allowed: {nearest}")
    return not wrong


def _check_placements(plan: Plan, layouts: Mapping[str, Layout], found: Findings) -> None:
    devices = [device.name for device in plan.workload.cluster.devices]
    jobs = [job.name for job in plan.workload.jobs]
    for phase, decision in enumerate(plan.decisions.phases):
        placed = f"/decisions/phases/{phase}/placements"
        found.once(placed, "job", [placement.job for placement in decision.placements], "job")
        for number, placement in enumerate(decision.placements):
            at = f"{placed}/{number}"
            found.known(f"{at}/device", "device", placement.device, devices)
            if not found.known(f"{at}/job", "job", placement.job, jobs) or placement.job not in layouts:
                continue
            layout = layouts[placement.job]
            slabs = [slab.name for slab in layout.slabs]
            for field in ("resident", "device_updates"):
                names: tuple[str, ...] = getattr(placement, field)
                found.once(f"{at}/{field}", "slab", names, "")
                for index, slab in enumerate(names):
                    found.known(f"{at}/{field}/{index}", f"slab of {placement.job}", slab, slabs)
            for index, shard in enumerate(placement.keep):
                if shard not in range(len(layout.shards)):
                    found.add(
                        f"{at}/keep/{index}",
                        f"{placement.job} has no shard {shard}",
                        f"its shards are 0 to {len(layout.shards) - 1}",
                    )
                elif not layout.shards[shard].has_backward:
                    found.add(
                        f"{at}/keep/{index}",
                        f"shard {shard} of {placement.job} has no backward to keep activations for",
                        "take it out",
                    )
    for name, planned, steps in _decided_steps(plan):
        if planned != steps:
            found.add(
                "/decisions/phases",
                f"the placements of {name} train {planned} steps; its job says {steps}",
                'change "steps" of a placement',
            )


def _decided_steps(plan: Plan) -> Iterable[tuple[str, int, int]]:
    """(job, steps of its placements, steps of the job)."""
    planned: Counter[str] = Counter()
    for decision in plan.decisions.phases:
        for placement in decision.placements:
            planned[placement.job] += placement.steps
    return [(job.name, planned[job.name], job.steps) for job in plan.workload.jobs]


# -- lists --------------------------------------------------------------------------------------------


def _check_lists(plan: Plan, layouts: Mapping[str, Layout], found: Findings) -> None:
    devices = [device.name for device in plan.workload.cluster.devices]
    jobs = {job.name: job for job in plan.workload.jobs}
    fine: set[tuple[Step, int]] = set()
    for number, phase in enumerate(plan.phases):
        if phase.repeat < 1:
            found.add(f"/phases/{number}/repeat", f"a cycle cannot run {phase.repeat} times", "write 1 or more")
        for section in ("prologue", "cycle", "epilogue"):
            steps: tuple[Step, ...] = getattr(phase, section)
            for index, step in enumerate(steps):
                if (step, len(steps)) in fine:
                    continue
                before = len(found.findings)
                _check_step(f"/phases/{number}/{section}/{index}", step, len(steps), devices, jobs, layouts, found)
                if len(found.findings) == before:
                    fine.add((step, len(steps)))


def _check_step(
    at: str,
    step: Step,
    length: int,
    devices: Sequence[str],
    jobs: Mapping[str, Job],
    layouts: Mapping[str, Layout],
    found: Findings,
) -> None:
    places = [*devices, HOST] if isinstance(step, Update) else devices
    found.known(f"{at}/device", "device", step.device, places)
    training_step = 0 if isinstance(step, Load | Spill | Drop) else step.step
    if not 0 <= training_step < length:
        found.add(f"{at}/step", f"training step {training_step} of a list of {length} lines", "count them from 0")
    if not found.known(f"{at}/job", "job", step.job, jobs) or step.job not in layouts:
        return
    layout, job = layouts[step.job], jobs[step.job]
    if isinstance(step, Load | Spill | Drop | Update | SpillGradients):
        known = [slab.name for slab in layout.slabs]
        if not found.known(f"{at}/slab", f"slab of {step.job}", step.slab, known):
            return
    if isinstance(step, Load | Spill | Drop | Update):
        return
    if step.shard not in range(len(layout.shards)):
        remedy = f"its shards are 0 to {len(layout.shards) - 1}"
        found.add(f"{at}/shard", f"{step.job} has no shard {step.shard}", remedy)
    elif isinstance(step, SpillGradients):
        _check_gradients(at, step, job, layout, found)
    elif step.microbatch not in range(job.microbatches):
        remedy = f"its microbatches are 0 to {job.microbatches - 1}"
        found.add(f"{at}/microbatch", f"{step.job} has no microbatch {step.microbatch}", remedy)


def _check_gradients(at: str, step: SpillGradients, job: Job, layout: Layout, found: Findings) -> None:
    made = [slab for slab, _ in layout.shards[step.shard].gradient_bytes]
    if step.slab not in made:
        listed = ", ".join(f'"{slab}"' for slab in made) or "none"
        found.add(
            f"{at}/slab",
            f'shard {step.shard} of {step.job} makes no gradients of slab "{step.slab}"',
            f"it makes {listed}",
        )
    whole = (0, job.microbatches)
    nodes = {whole, *gradient_tree(job.microbatches)}
    if step.microbatches not in nodes:
        first = step.microbatches[0]
        near = sorted((node for node in nodes if node[0] == first), key=lambda node: node[1]) or [whole]
        found.add(
            f"{at}/microbatches",
            f"microbatches {_list(step.microbatches)} are no node of the tree in which gradients are summed",
            f"write one of {', '.join(_list(node) for node in near)}",
        )


def _list(numbers: Sequence[int]) -> str:
    return f"[{', '.join(str(number) for number in numbers[:8])}{', ...' if len(numbers) > 8 else ''}]"
