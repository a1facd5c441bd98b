"""When each step of a plan runs: an event simulation of its lists, and the predictions made from it.

Each device's compute, load and spill engines take their own steps in list order; a link's direction
carries one copy at a time, whatever devices share it; the host's update workers take the first ready
update. A step starts when what it depends on (`plans.analysis.hazards`) has finished. Lists follow each other by
these dependencies alone: neither a cycle's nor a phase's border is a barrier.

The flow unrolls a cycle at most twice. Copy k > 1 waits like copy 1, one cycle later: its state at the
start is the same. Of many copies a few are simulated; each line of the last stands for that of the last
cycle, later by its own period for every copy left out, and not before what it waits for:

    prologue | copy 0 | copy 1 | copy 2 | copy 3 | ~~~ (repeat - 4) periods ~~~ | epilogue

Exact where all copies are simulated, or their times are periodic from then on and no other list's copies
contend with the last cycles' for a shared link.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hydraplan.plans.analysis.arena import Arenas, allocate
from hydraplan.plans.analysis.flow import Flow, Section, trace
from hydraplan.plans.analysis.hazards import dependencies, last_users
from hydraplan.plans.analysis.memory import device_memory, host_peak_bytes
from hydraplan.plans.language.errors import InvalidPlanError
from hydraplan.plans.language.plan import DevicePrediction, JobPrediction, Plan, Predictions
from hydraplan.plans.language.steps import Engine, Step, engine
from hydraplan.plans.language.workload import HOST, Cluster
from hydraplan.plans.prediction.bounds import lower_bound_us
from hydraplan.plans.prediction.durations import Durations
from hydraplan.plans.prediction.events import NO_SERVER, Tasks

FEW_COPIES = 4
"""Copies of a cycle that are simulated at first."""
MANY_COPIES = 16
"""Copies of a cycle that are simulated where a few show no steady period."""
NO_TASK = -1
"""A drop is no task."""
MANY_SITES = 60_000
"""More steps than this are not simulated for the sake of a steadier period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTimes:
    """Busy time of a device's engines over the whole plan."""

    device: str
    compute_us: int
    load_us: int
    spill_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    start_us: int
    finish_us: int
    period_us: int
    """From one cycle to the next in steady state; 0 where the cycle runs at most once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """Times in microseconds from the plan's start."""

    flow: Flow
    arenas: Arenas
    start_us: tuple[int, ...]
    """Site of the flow -> start; of a cycle, its first two copies."""
    finish_us: tuple[int, ...]
    makespan_us: int
    phases: tuple[PhaseTimes, ...]
    jobs: tuple[tuple[str, int], ...]
    """(job, when its last step finishes), in the workload's order."""
    devices: tuple[DeviceTimes, ...]
    host_update_us: int
    """Update workers' busy time, summed."""
    steady: bool
    """Whether every cycle that was not simulated to its end showed one period."""


def simulate(plan: Plan) -> Simulation:
    """Simulate a plan whose references hold. Raises InvalidPlanError where its lists cannot be run."""
    flow = trace(plan)
    if flow.problems:
        raise InvalidPlanError([problem.finding() for problem in flow.problems])
    return simulate_flow(plan, flow, allocate(plan, flow))


def simulate_flow(plan: Plan, flow: Flow, arenas: Arenas) -> Simulation:
    """The same, of a plan that was traced and whose arenas are laid out."""
    waits = dependencies(flow, arenas)
    most = max((phase.repeat for phase in plan.phases), default=1)
    result = _Simulator(plan, flow, arenas, waits, FEW_COPIES if most > 2 * FEW_COPIES else most).run()
    size = sum(min(phase.repeat, MANY_COPIES) * len(phase.cycle) for phase in plan.phases)
    if not result.steady and size <= MANY_SITES:
        result = _Simulator(plan, flow, arenas, waits, MANY_COPIES).run()
    return result


def predict(plan: Plan, simulation: Simulation | None = None) -> Predictions:
    """What the simulator and the liveness analysis say of a plan's lists. `simulation`: of these lists, where there is
    one already.

    Raises InvalidPlanError where its lists cannot be run.
    """
    simulation = simulate(plan) if simulation is None else simulation
    memory = device_memory(plan, simulation.flow, simulation.arenas)
    bound_us = lower_bound_us(plan.workload, plan.facts)
    makespan_us = simulation.makespan_us
    return Predictions(
        makespan_us=makespan_us,
        lower_bound_us=bound_us,
        gap=round(makespan_us / bound_us - 1, 6) if bound_us else 0.0,
        host_peak_bytes=host_peak_bytes(plan, simulation.arenas),
        host_update_us=simulation.host_update_us,
        devices=tuple(
            DevicePrediction(
                device=times.device,
                arena_bytes=memory[times.device].arena_bytes,
                workspace_bytes=memory[times.device].workspace_bytes,
                kept_bytes=memory[times.device].kept_bytes,
                peak_bytes=memory[times.device].peak_bytes,
                compute_us=times.compute_us,
                load_us=times.load_us,
                spill_us=times.spill_us,
            )
            for times in simulation.devices
        ),
        jobs=tuple(JobPrediction(job=job, finish_us=finish) for job, finish in simulation.jobs),
    )


class _Servers:
    """Which server a step needs: a link's direction that devices share, or the host's update workers."""

    def __init__(self, cluster: Cluster) -> None:
        self.places = [cluster.update_workers]
        self._of: dict[tuple[str, Engine], int] = {}
        for link in cluster.links:
            devices = [device.name for device in cluster.devices if device.link == link.name]
            directions: tuple[Engine, ...] = ("load", "spill")
            for direction in directions if len(devices) > 1 else ():
                self._of.update({(device, direction): len(self.places) for device in devices})
                self.places.append(1)

    def of(self, step: Step, runs_on: Engine | None) -> int:
        if step.device == HOST:
            return 0
        return NO_SERVER if runs_on is None else self._of.get((step.device, runs_on), NO_SERVER)


def _latest(flow: Flow, engines: Sequence[Engine | None], waits: Sequence[Sequence[int]]) -> list[list[int]]:
    """Site -> the sites that it waits for: of each engine of a device, which finishes its steps in list order, the
    latest alone; of its own, the one before, which comes first."""
    first_on: dict[tuple[str, Engine], int] = {}
    first: list[int] = []
    """Site -> the first one of its engine; of the host and of drops, itself."""
    before: dict[int, int] = {}
    result: list[list[int]] = []
    for number, (site, runs_on, ascending) in enumerate(zip(flow.sites, engines, waits, strict=True)):
        device = site.step.device
        own = number if device == HOST or runs_on is None else first_on.setdefault((device, runs_on), number)
        latest = {first[wait]: wait for wait in ascending}
        latest.pop(own, None)
        result.append([before[own], *latest.values()] if own in before else [*latest.values()])
        before[own] = number
        first.append(own)
    return result


class _Simulator:
    """One simulation; `tasks_of[site]` is the task that stands for a site of the flow by now."""

    def __init__(
        self, plan: Plan, flow: Flow, arenas: Arenas, waits: Sequence[Sequence[int]], most_copies: int
    ) -> None:
        self.plan = plan
        self.flow = flow
        self.arenas = arenas
        self.most_copies = most_copies
        self.durations = Durations(plan).of_sites(flow.sites)
        self.engines = [engine(site.step) for site in flow.sites]
        self.waits = _latest(flow, self.engines, waits)
        servers = _Servers(plan.workload.cluster)
        self.servers = [servers.of(site.step, runs_on) for site, runs_on in zip(flow.sites, self.engines, strict=True)]
        self.tasks = Tasks(servers.places)
        self.tasks_of = [NO_TASK] * len(flow.sites)
        self.first_tasks_of = [NO_TASK] * len(flow.sites)
        self.steady = True
        self.periods: dict[int, int] = {}

    def run(self) -> Simulation:
        lists: dict[tuple[int, Section, int], range] = {}
        first = 0
        for position, site in enumerate(self.flow.sites):
            if site[:3] != self.flow.sites[first][:3]:
                first = position
            lists[site[:3]] = range(first, position + 1)
        nothing = range(0)
        copies: list[list[list[int]]] = []
        for number in range(len(self.plan.phases)):
            self.add(lists.get((number, "prologue", 0), nothing))
            one, two = (lists.get((number, "cycle", copy), nothing) for copy in range(2))
            copies.append(self.add_cycles(number, one, two))
            self.add(lists.get((number, "epilogue", 0), nothing))
        self.tasks.run()
        for number, simulated in enumerate(copies):
            if number not in self.periods:
                back = self.period_of(simulated)[0] if len(simulated) > 2 else 1
                self.periods[number] = self.period_us(simulated, back) if len(simulated) > 1 else 0
        return self.result()

    # -- the tasks --------------------------------------------------------------------------------

    def add(self, sites: range) -> None:
        """Append a list. Its tasks replace those that stood for the same sites."""
        tasks_of = self.tasks_of
        for number in sites:
            if self.engines[number] is None:
                continue
            waits = [tasks_of[wait] for wait in self.waits[number]]
            tasks_of[number] = task = self.tasks.add(self.durations[number], self.servers[number], waits)
            if self.first_tasks_of[number] == NO_TASK:
                self.first_tasks_of[number] = task

    def add_cycles(self, phase: int, one: range, two: range) -> list[list[int]]:
        """Append the copies of a phase's cycle; returns the tasks of each that is simulated."""
        repeat = self.plan.phases[phase].repeat
        copies: list[list[int]] = []
        for copy in range(min(repeat, self.most_copies)):
            if copy > 1:
                self.tasks_of[one.start : one.stop] = copies[-1]
            part = two if copy else one
            self.add(part)
            copies.append(self.tasks_of[part.start : part.stop])
        if one and repeat > len(copies):
            self.skip(phase, copies, repeat - len(copies))
        return copies

    def skip(self, phase: int, copies: list[list[int]], left_out: int) -> None:
        """Simulate, then let the last two copies stand for the phase's last two."""
        self.tasks.run()
        back, steady = self.period_of(copies)
        self.steady &= steady
        self.periods[phase] = self.period_us(copies, back)
        before = [[0 if task == NO_TASK else self.tasks.finish_us[task] for task in copy] for copy in copies]
        for number in (len(copies) - 2, len(copies) - 1):
            # The simulated copy that lies a whole number of repetitions before the copy stood for.
            like = len(copies) - 1 - (len(copies) - 1 - number - left_out) % back
            times = (number + left_out - like) // back
            for line, task in enumerate(copies[number]):
                if task != NO_TASK:
                    growth = before[-1][line] - before[-1 - back][line]
                    self.tasks.shift(task, before[like][line] + times * growth - before[number][line])

    def period_of(self, copies: list[list[int]]) -> tuple[int, bool]:
        """After how many copies the times repeat, and whether they do."""
        finish = self.tasks.finish_us
        times = [[finish[task] for task in copy if task != NO_TASK] for copy in copies]
        longest = max(1, (len(copies) - 1) // 2)
        for back in range(1, longest + 1):
            growths = [
                [late - early for early, late in zip(times[copy - back], times[copy], strict=True)]
                for copy in range(len(copies) - 1 - back, len(copies))
            ]
            if all(growth == growths[0] for growth in growths):
                return back, True
        return longest, False

    # -- the result -------------------------------------------------------------------------------

    def result(self) -> Simulation:
        sites = self.flow.sites
        start, finish = self.tasks.start_us, self.tasks.finish_us
        begins: dict[int, int] = {}
        ends: dict[int, int] = {}
        jobs = {job.name: 0 for job in self.plan.workload.jobs}
        for site, early, late in zip(sites, self.first_tasks_of, self.tasks_of, strict=True):
            if early != NO_TASK:
                begins[site.phase] = min(begins.get(site.phase, start[early]), start[early])
                ends[site.phase] = max(ends.get(site.phase, 0), finish[late])
                jobs[site.step.job] = max(jobs[site.step.job], finish[late])
        starts = [0 if task == NO_TASK else start[task] for task in self.first_tasks_of]
        finishes = [0 if task == NO_TASK else finish[task] for task in self.first_tasks_of]
        for instance in self.flow.instances:
            if instance.dropped is not None:
                freed = max(finishes[site] for site in last_users(instance))
                starts[instance.dropped] = finishes[instance.dropped] = freed
        busy = self.busy()
        return Simulation(
            flow=self.flow,
            arenas=self.arenas,
            start_us=tuple(starts),
            finish_us=tuple(finishes),
            makespan_us=max(ends.values(), default=0),
            phases=tuple(
                PhaseTimes(
                    start_us=begins.get(number, 0),
                    finish_us=ends.get(number, 0),
                    period_us=self.periods[number],
                )
                for number in range(len(self.plan.phases))
            ),
            jobs=tuple(jobs.items()),
            devices=tuple(
                DeviceTimes(
                    device=device.name,
                    compute_us=busy[device.name, "compute"],
                    load_us=busy[device.name, "load"],
                    spill_us=busy[device.name, "spill"],
                )
                for device in self.plan.workload.cluster.devices
            ),
            host_update_us=busy[HOST, "compute"],
            steady=self.steady,
        )

    def busy(self) -> dict[tuple[str, Engine], int]:
        """(place, engine) -> busy time over the whole plan."""
        busy: dict[tuple[str, Engine], int] = defaultdict(int)
        for site, runs_on, duration in zip(self.flow.sites, self.engines, self.durations, strict=True):
            if runs_on is not None:
                later_copies = site.section == "cycle" and site.copy == 1
                times = self.plan.phases[site.phase].repeat - 1 if later_copies else 1
                busy[site.step.device, runs_on] += times * duration
        return busy

    def period_us(self, copies: list[list[int]], back: int) -> int:
        """Growth of the slowest line, a cycle."""
        finish = self.tasks.finish_us
        pairs = zip(copies[-1 - back], copies[-1], strict=True)
        growth = max((finish[late] - finish[early] for early, late in pairs if late != NO_TASK), default=0)
        return -(-growth // back)
