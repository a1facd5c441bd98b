"""How many training steps of each job one cycle holds, and how often it runs: small whole numbers.

steps 100, 60   ->  20 x (5, 3)
steps 100, 99   ->  99 x (1, 1), then 1 x (1, 0)
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_PER_CYCLE = 8
"""Steps of one job in one cycle, at most (but for a last cycle that runs once)."""
LENGTH_WEIGHT = 0.1
"""What a training step in the cycle costs, in parts of a job's steps left over to another phase."""


def split(steps: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Parts (repeat, steps of each job per cycle) whose sums are the jobs' steps; remainders form later parts."""
    parts: list[tuple[int, tuple[int, ...]]] = []
    left = list(steps)
    while any(left):
        repeat = _repeat(left)
        rates = tuple(each // repeat for each in left)
        parts.append((repeat, rates))
        left = [each - repeat * rate for each, rate in zip(left, rates, strict=True)]
    return parts


def _repeat(steps: Sequence[int]) -> int:
    """The number of cycles that leaves least over, at short cycles; the larger where equal."""
    running = [each for each in steps if each]
    candidates = {each // rate for each in running for rate in range(1, MOST_PER_CYCLE + 1) if each // rate}
    best = (float("inf"), 0)
    for repeat in sorted(candidates):
        rates = [each // repeat for each in running]
        if max(rates) > MOST_PER_CYCLE:
            continue
        left = sum((each - repeat * rate) / each for each, rate in zip(running, rates, strict=True))
        best = min(best, (round(left + LENGTH_WEIGHT * sum(rates), 9), -repeat))
    return -best[1] if best[1] else max(candidates)
