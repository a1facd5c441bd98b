"""Timelines: events happen in order, and nobody misses one."""

from __future__ import annotations

from threading import Thread

from hydraplan.runtime.devices.timelines import HostTimeline


def test_callbacks_come_in_order_of_value_once() -> None:
    timeline, called = HostTimeline(), []
    for value in (3, 1, 2, 1):
        timeline.when(value, lambda value=value: called.append(value))
    timeline.advance()
    assert called == [1, 1]
    timeline.advance()
    timeline.advance()
    assert called == [1, 1, 2, 3]
    timeline.when(2, lambda: called.append(0))
    assert called[-1] == 0


def test_two_threads_hand_over_to_each_other() -> None:
    ping, pong, seen = HostTimeline(), HostTimeline(), []

    def answer() -> None:
        for number in range(200):
            ping.wait(number + 1)
            seen.append(("answer", number))
            pong.advance()

    thread = Thread(target=answer)
    thread.start()
    for number in range(200):
        seen.append(("call", number))
        ping.advance()
        pong.wait(number + 1)
    thread.join()
    assert seen == [(who, number) for number in range(200) for who in ("call", "answer")]
