"""Dependencies, derived from the list: what a step has to wait for so that overlap changes nothing.

    read after write      a cell waits for the load that fills its slab
    write after read      a refreshing load waits for the readers of the old copy
    write after write     a spill waits for the spill before it
    region reuse          who takes a region of an arena waits for the last users of what lay there
    phase border          a device's engines begin a phase when all of them have finished the last one, since the
                          arena is resized there; devices do not wait for each other

Steps of one engine run in list order anyway, so those waits are implied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict

from hydraplan.plans.analysis.arena import Arenas, align
from hydraplan.plans.analysis.flow import Flow, Instance
from hydraplan.plans.language.steps import Engine, engine
from hydraplan.plans.language.workload import HOST


def dependencies(flow: Flow, arenas: Arenas) -> tuple[tuple[int, ...], ...]:
    """Site -> earlier sites that it waits for, ascending."""
    waits: list[list[int]] = [[] for _ in flow.sites]
    """With repetitions."""
    for instance in flow.instances:
        _order_accesses(instance, waits)
    _order_regions(flow, arenas, waits)
    _order_phases(flow, waits)
    return tuple(tuple(sorted(set(wait))) for wait in waits)


def _order_accesses(instance: Instance, waits: list[list[int]]) -> None:
    writer: int | None = None
    readers: list[int] = []
    for site, writes in instance.accesses:
        if writer is not None and writer != site:
            waits[site].append(writer)
        if writes:
            waits[site] += [reader for reader in readers if reader != site]
            writer, readers = site, []
        else:
            readers.append(site)


def last_users(instance: Instance) -> list[int]:
    """The accesses that the next owner of the region waits for: those since the last write, and it."""
    users: list[int] = []
    for site, writes in reversed(instance.accesses):
        users.append(site)
        if writes:
            break
    return users


def _order_phases(flow: Flow, waits: list[list[int]]) -> None:
    finished: dict[str, dict[Engine, int]] = defaultdict(dict)
    """Device -> its engines' last sites in earlier phases."""
    running: dict[str, dict[Engine, int]] = defaultdict(dict)
    phase_of: dict[str, int] = {}
    for number, site in enumerate(flow.sites):
        device, kind = site.step.device, engine(site.step)
        if device == HOST or kind is None:
            continue
        if phase_of.setdefault(device, site.phase) != site.phase:
            finished[device] |= running.pop(device)
            phase_of[device] = site.phase
        if kind not in running[device]:
            waits[number] += finished[device].values()
        running[device][kind] = number


class _Regions:
    """Who last took each region of one arena: disjoint intervals, sorted."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.owners: list[Instance] = []

    def take(self, low: int, high: int, owner: Instance) -> list[Instance]:
        first = bisect_right(self.ends, low)
        if first < len(self.ends) and (self.starts[first], self.ends[first]) == (low, high):  # as most are
            one, self.owners[first] = self.owners[first], owner
            return [one]
        last = bisect_left(self.starts, high)
        previous = self.owners[first:last]
        starts, ends, owners = [low], [high], [owner]
        if previous and self.starts[first] < low:
            starts, ends, owners = [self.starts[first], *starts], [low, *ends], [previous[0], *owners]
        if previous and self.ends[last - 1] > high:
            starts, ends, owners = [*starts, high], [*ends, self.ends[last - 1]], [*owners, previous[-1]]
        self.starts[first:last] = starts
        self.ends[first:last] = ends
        self.owners[first:last] = owners
        return previous


def _order_regions(flow: Flow, arenas: Arenas, waits: list[list[int]]) -> None:
    regions: dict[str, _Regions] = {}
    for instance in sorted(flow.instances, key=lambda each: (each.begin, each.id)):
        if not instance.in_arena or instance.bytes == 0:
            continue
        low = arenas.addresses[instance.id]
        high = low + align(instance.bytes)
        for previous in regions.setdefault(instance.place, _Regions()).take(low, high, instance):
            if previous is not instance:
                waits[instance.begin] += [site for site in last_users(previous) if site < instance.begin]
