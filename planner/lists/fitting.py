"""Fitting one device's list into its budget: which order of cells, and how much room for the arena.

A list that is dispatched within some room may still need a larger arena, since regions leave gaps between
them. Then it is dispatched again with less room, then in the next order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hydraplan.planner.lists.cells import Builder
from hydraplan.planner.lists.orders import Group, balanced, in_turn
from hydraplan.planner.lists.views import JobView
from hydraplan.plans.language.errors import InfeasibleError
from hydraplan.plans.language.quantities import format_bytes

ORDERS = ("balanced", "in turn")
"""Orders of a device's cells: `planner.lists.orders`."""
GAPS = 48
"""Part of a budget that is first left for gaps between the arena's regions."""
LEAST_STEP = 128
"""Part of a budget by which room is lowered at least."""
ROOM_TRIES = 4
"""How often a device's room is lowered before another order is taken."""


class Fit(NamedTuple):
    """What made a device's list fit."""

    variant: int
    """Which of its orders."""
    room: int
    """Bytes for its arena."""


class Attempt:
    """One device's order and room, while its list does not fit."""

    def __init__(
        self, name: str, views: Sequence[JobView], budget: int, orders: Sequence[tuple[str, bool]], fit: Fit | None
    ) -> None:
        """`orders`: (order of the cells, whether activations go to host memory), the best first. `fit`: where to
        begin."""
        self.name = name
        self.views = views
        self.budget = budget
        self.orders = orders
        self._begin(fit.variant if fit is not None else 0)
        if fit is not None:
            self.room = fit.room

    def _begin(self, variant: int) -> None:
        self.variant = variant
        order, offload = self.orders[variant]
        self.program = Builder(self.name, self.views, groups_of(order, self.views), offload).build()
        self.most = self.budget - self.program.outside_bytes
        self.room = self.most - self.budget // GAPS
        self.tries = 0
        self.failed: int | None = None
        """Smallest room of this order that was too much."""

    def lower(self, missing_bytes: int) -> None:
        """Try with less room, each time less by more. Raises InfeasibleError where no order is left."""
        self.tries += 1
        self.failed = self.room
        if self.tries <= ROOM_TRIES:
            self.room -= max(missing_bytes, self.budget // LEAST_STEP) * self.tries
        else:
            self._next(missing_bytes)

    def give_up(self, error: InfeasibleError) -> None:
        """No list has that little room. Raises InfeasibleError where no order is left."""
        if self.tries == 0 and self.room < self.most:
            self.room = self.most
        else:
            self._next(error.missing_bytes)

    def _next(self, missing_bytes: int) -> None:
        if self.variant + 1 < len(self.orders):
            self._begin(self.variant + 1)
            return
        jobs = ", ".join(view.name for view in self.views)
        raise InfeasibleError(
            f"{jobs} on {self.name}: {missing_bytes:,} bytes short of what the decisions need there; "
            f"give {self.name} more than its {format_bytes(self.budget)}, or make fewer slabs resident",
            device=self.name,
            missing_bytes=missing_bytes,
        )


def groups_of(order: str, views: Sequence[JobView]) -> list[Group]:
    steps = [view.placement.steps for view in views]
    return balanced(views, steps) if order == "balanced" else in_turn(views, steps)
