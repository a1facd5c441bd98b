"""What one device has to run in one list, as `planner.lists.dispatch` takes it: cells in order, loads by first use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hydraplan.plans.language.steps import SlabContent, Step

FAR = 1 << 60
"""A cell that never comes."""


class Token(NamedTuple):
    """Something that a load waits for: an update or a spill of a slab, or a save."""

    job: str
    step: int
    what: str


class SlabKey(NamedTuple):
    job: str
    slab: str
    what: SlabContent


@dataclass(slots=True)
class Transfer:
    """A copy to or from the device."""

    step: Step
    duration_us: int
    bytes: int
    """Device memory that it takes (a load) or frees (a spill)."""
    first: int = -1
    """A load's first and last cell."""
    last: int = -1
    after: Token | None = None
    done: Token | None = None
    slab: SlabKey | None = None
    number: int = -1
    """Of a load for a cell, in order of first use; -1: another transfer."""


@dataclass(slots=True)
class Cell:
    step: Step
    duration_us: int
    needs: list[int] = field(default_factory=list)
    """Loads, by their number."""
    refreshed: list[Token] = field(default_factory=list)
    """Residents that must have been loaded again."""
    makes: int = 0
    frees: int = 0
    spills: list[Transfer] = field(default_factory=list)
    """To start when the cell is done."""
    updates: list[Token] = field(default_factory=list)
    """Updates on the host that wait for the cell and for no gradients."""
    releases: list[tuple[SlabKey, int, int | None]] = field(default_factory=list)
    """Uses of streamed slabs that end here: (slab, bytes, first cell of the next use in this training step)."""


@dataclass(slots=True)
class Program:
    """One device's part of a list."""

    device: str
    cells: list[Cell]
    loads: list[Transfer]
    """By first use."""
    refreshes: dict[Token, Transfer]
    """Update of a resident slab on the host -> the load that brings it back."""
    gradients_due: dict[Token, int]
    """Update on the host -> spills of gradients, and saves of buffers, that it waits for."""
    resident_bytes: int
    outside_bytes: int
    """Most that kept forwards and a cell's workspace take outside of the arena."""
    lived: list[int]
    """Cell -> bytes of values and accumulators then alive, each accumulator until its last backward."""
    lagged: list[int]
    """The same, each accumulator for one group longer (while it is spilled)."""
