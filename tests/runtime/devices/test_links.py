"""Pacing on a clock of our own: a link carries its bytes per second, whoever wakes late."""

from __future__ import annotations

import pytest

from hydraplan.plans.language.workload import Link
from hydraplan.runtime.devices import links
from hydraplan.runtime.devices.links import PacedLink, Pacer

MS = 1_000_000


class Clock:
    """Time that passes only by sleeping, each sleep `late_ns` too long."""

    def __init__(self) -> None:
        self.now_ns = 10**12
        self.late_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9) + (self.late_ns if seconds else 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(links, "time", clock)
    return clock


def carry(pacer: Pacer, size: int, clock: Clock) -> tuple[int, int]:
    """Carry so many bytes; (asked, over) in nanoseconds."""
    asked = clock.now_ns
    pacer.carry(size, lambda: None)
    return asked, clock.now_ns


def test_a_copy_takes_bytes_over_bandwidth(clock: Clock) -> None:
    asked, over = carry(Pacer(1_000_000_000), 5_000_000, clock)
    assert over - asked == pytest.approx(5 * MS, rel=0.01)


@pytest.mark.parametrize("late_ns", [0, MS // 10, 2 * MS])
def test_waking_late_does_not_slow_the_link(clock: Clock, late_ns: int) -> None:
    pacer, clock.late_ns = Pacer(1_000_000_000), late_ns
    spans = [carry(pacer, 5_000_000, clock) for _ in range(50)]
    assert spans[-1][1] - spans[0][0] == pytest.approx(250 * MS + late_ns, rel=0.01)


def test_an_idle_link_gives_nothing_away(clock: Clock) -> None:
    pacer = Pacer(1_000_000_000)
    carry(pacer, 5_000_000, clock)
    clock.now_ns += 20 * MS
    asked, over = carry(pacer, 5_000_000, clock)
    assert over - asked >= 5 * MS


def test_copies_queue_in_the_order_in_which_they_were_asked_for(clock: Clock) -> None:
    pacer = Pacer(1_000_000_000)
    first, second = pacer.reserve(3_000_000), pacer.reserve(1_000_000)
    assert second == (first[1], first[1] + MS)


def test_each_direction_has_its_own_bandwidth() -> None:
    paced = PacedLink.of(Link(name="l", load_bytes_per_s=7, spill_bytes_per_s=None))
    assert paced.load is not None
    assert paced.load.bytes_per_s == 7
    assert paced.spill is None
