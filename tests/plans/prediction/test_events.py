"""Tasks that wait for each other and share servers, against a simulation that looks at all of them at every moment."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hydraplan.plans.prediction.events import NO_SERVER, Tasks

Drawn = tuple[int, int, list[int]]
"""(duration, server, waits)."""
Held = tuple[int, int, int]
"""(server, from, until)."""


def naive(tasks: list[Drawn], places: list[int], held: list[Held], earlier: list[tuple[int, int]]) -> list[int]:
    """When each task starts. `earlier`: (start, finish) of the first ones, which ran before: places that they take are
    in `held`. At each moment: whoever needs no server starts where it can, and again until nobody does; then
    free places are given out, by number; and so on until nothing changes."""
    start = [begin for begin, _ in earlier] + [-1] * (len(tasks) - len(earlier))
    first, now, last = len(earlier), 0, sum(duration for duration, _, _ in tasks)
    last += max((finish for _, finish in earlier), default=0) + max((end for _, _, end in held), default=0)

    def finish(task: int) -> int:
        return earlier[task][1] if task < first else start[task] + tasks[task][0]

    def is_ready(task: int) -> bool:
        return start[task] < 0 and all(start[other] >= 0 and finish(other) <= now for other in tasks[task][2])

    for now in range(last + 1):
        changed = True
        while changed:
            changed = False
            for task in range(first, len(tasks)):
                if tasks[task][1] == NO_SERVER and is_ready(task):
                    start[task], changed = now, True
            waiting = [task for task in range(first, len(tasks)) if tasks[task][1] != NO_SERVER and is_ready(task)]
            for server, number in enumerate(places) if not changed else ():
                running = sum(
                    tasks[task][1] == server and start[task] >= 0 and finish(task) > now
                    for task in range(first, len(tasks))
                )
                taken = sum(one == server and begin <= now < end for one, begin, end in held)
                for task in [task for task in waiting if tasks[task][1] == server][: max(0, number - running - taken)]:
                    start[task], changed = now, True
    return start


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_task_starts_when_a_simulation_moment_by_moment_says(data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(1, 2), min_size=1, max_size=2))
    drawn: list[Drawn] = []
    simulated = Tasks(places)
    for size in (data.draw(st.integers(0, 8)), data.draw(st.integers(1, 10))):
        held: list[Held] = []
        earlier = list(zip(simulated.start_us, simulated.finish_us, strict=True))
        for task in range(len(earlier)):
            if data.draw(st.booleans()):
                simulated.shift(task, data.draw(st.integers(0, 4)))
                earlier[task] = simulated.start_us[task], simulated.finish_us[task]
                held.append((drawn[task][1], *earlier[task]))
        for _ in range(size):
            waits = st.sets(st.integers(0, len(drawn) - 1), max_size=3) if drawn else st.just(set[int]())
            server = st.integers(NO_SERVER, len(places) - 1)
            drawn.append((data.draw(st.integers(0, 3)), data.draw(server), sorted(data.draw(waits))))
            simulated.add(*drawn[-1])
        simulated.run()
        assert simulated.start_us == naive(drawn, places, held, earlier)
        assert simulated.finish_us[len(earlier) :] == [
            start + duration
            for start, (duration, _, _) in list(zip(simulated.start_us, drawn, strict=True))[len(earlier) :]
        ]
