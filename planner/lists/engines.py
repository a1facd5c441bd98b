"""The state of one device while its list is written: engines, memory, what is loaded and for how long."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hydraplan.planner.lists.programs import Program, SlabKey, Token, Transfer


class DeviceState:
    """The state of one device's engines and memory."""

    def __init__(self, program: Program, room: int) -> None:
        self.program = program
        self.room = room
        self.used = program.resident_bytes
        self.peak = self.used
        self.cell = 0
        """Next cell to start, or the one that runs."""
        self.running = False
        self.loading = False
        self.spilling = False
        self.waiting: list[Transfer] = list(program.loads)
        """Loads not yet granted, by first use."""
        self.arrived: list[bool] = [False] * len(program.loads)
        self.spills: deque[Transfer] = deque()
        self.refreshes: list[tuple[int, int, Transfer]] = []
        """Heap of the residents that may be loaded again, by first use."""
        self.active: dict[SlabKey, int] = {}
        """Streamed slabs that are loaded, or on their way -> last cell that they are granted for."""
        self.promised: dict[SlabKey, deque[Transfer]] = defaultdict(deque)
        """Later uses that an active slab stays for."""
        self.cached: dict[SlabKey, tuple[int, int]] = {}
        """Streamed slabs present but not in use -> (cell of the next use, bytes)."""
        self.tokens: set[Token] = set()
        self.fresh: set[Token] = set()
        """Updates after which a resident slab has been loaded again."""
        self.ahead: dict[SlabKey, bool] = {}
        """Slabs held over the cycle's border -> whether they have been loaded for the next one."""
        base = program.resident_bytes
        self.lived: npt.NDArray[np.int64] = np.array(program.lived, dtype=np.int64) + base
        self.lagged: npt.NDArray[np.int64] = np.array(program.lagged, dtype=np.int64) + base
        self.following: npt.NDArray[np.int64] = self.lagged.copy()
        """The same for the next cycle, with what was loaded ahead for it."""
        self.firsts = list({load.slab: load for load in reversed(program.loads) if load.slab is not None}.values())
        """First load of each streamed slab, the first needed first."""
        self.firsts.reverse()

    def begin_with(self, keys: Sequence[SlabKey]) -> None:
        """Have slabs on the device from the start."""
        for load in self.firsts:
            if load.slab in keys and load.slab is not None:
                self.ahead[load.slab] = False
                self.active[load.slab] = load.last
                self.arrived[load.number] = True
                self.waiting.remove(load)
                self.take(load.bytes)
                self.hold(load.last, load.bytes)

    @property
    def stalled(self) -> bool:
        """Nothing goes on that would free memory."""
        return not (self.running or self.loading or self.spilling or self.spills)

    @property
    def done(self) -> bool:
        return self.cell == len(self.program.cells)

    def most(self, last: int, first: int | None = None) -> int:
        """Most bytes of values, residents and granted loads from a cell (the next) to a cell."""
        profile = self.lived if self.stalled else self.lagged
        return int(profile[self.cell if first is None else first : last + 1].max())

    def take(self, size: int) -> None:
        self.used += size
        self.peak = max(self.peak, self.used)

    def hold(self, last: int, size: int, first: int | None = None) -> None:
        begin = self.cell if first is None else first
        self.lived[begin : last + 1] += size
        self.lagged[begin : last + 1] += size
