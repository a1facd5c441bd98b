"""Mutations of a plan's text, as people, programs and disks make them: each a function of text and a seeded Random.

lines        deleted, doubled, swapped, moved to another place
values       another type, huge, negative, nudged, another of the same key, mistyped
keys         renamed, deleted, doubled
names        a job, device or slab renamed in one place, or everywhere
facts        a size or a cost, as the planner measured it
lists        a step moved, two steps swapped, a step's device changed, all of a job's
bytes        cut off, overwritten
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random

Mutation = Callable[[str, Random], str]

_VALUE = re.compile(r'(?<=: )("(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|\[[^\[\]{}]*\])')
_NUMBER = re.compile(r"(?<=[ \[])-?\d+(?=[,}\]\n])")
_KEY = re.compile(r'"(\w+)": ')
_STEP = re.compile(r'\s*\{"device": ')
STRANGE = (
    "null", "true", "0", "-1", "1.5", "1e308", "1e999", "NaN", '""', '"x"', '".."', "[]", "[1]", "{}", '"a/b"',
    "[[[]]]",
    str(2**31), str(2**63 - 1), str(2**63), "9" * 400, "9" * 5000, f'"{"n" * 101}"', '"\\u0000"', '"\\ud800"', '"é"',
)  # fmt: skip


def _replace_at(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def strange_value(text: str, random: Random) -> str:
    found = random.choice(list(_VALUE.finditer(text)))
    return _replace_at(text, *found.span(), random.choice(STRANGE))


def nudged_number(text: str, random: Random) -> str:
    found = random.choice(list(_NUMBER.finditer(text)))
    value = int(found[0])
    return _replace_at(text, *found.span(), str(random.choice([value + 1, value - 1, 2 * value, value // 2, -value])))


def fact_changed(text: str, random: Random) -> str:
    """A size, a cost, or which shard reads what, as the planner measured it."""
    first, last = text.index('"layouts": ['), text.index('"facts_digest"')
    part = text[first:last]
    found = random.choice(list(re.finditer(r'": (\d+)(?=[,}])|(?<=[\[ ])\d+(?=[,\]])', part)))
    start, end = found.span(1) if found[1] is not None else found.span()
    new = str(random.choice([0, 1, int(part[start:end]) // 2, 2 * int(part[start:end]), 10**9]))
    return text[:first] + _replace_at(part, start, end, new) + text[last:]


def borrowed_value(text: str, random: Random) -> str:
    """The value of another place with the same key."""
    key = random.choice(sorted(set(_KEY.findall(text))))
    places = [found for found in _VALUE.finditer(text) if text[: found.start()].endswith(f'"{key}": ')]
    if len(places) < 2:
        return nudged_number(text, random)
    one, other = random.sample(places, 2)
    return _replace_at(text, *one.span(), other[0])


def mistyped(text: str, random: Random) -> str:
    """A character of a text or of a key."""
    found = random.choice(list(re.finditer(r'"([^"\\\n]{2,40})"', text)))
    place = random.randrange(found.start(1), found.end(1))
    return _replace_at(text, place, place + 1, random.choice(["", "x", "_", text[place] * 2, " "]))


def renamed_everywhere(text: str, random: Random) -> str:
    name = random.choice(sorted(set(re.findall(r'"(?:name|job|device|slab)": "([^"]+)"', text))))
    return text.replace(f'"{name}"', f'"{random.choice(["renamed", name + "2", name.upper(), "host"])}"')


def key_changed(text: str, random: Random) -> str:
    found = random.choice(list(_KEY.finditer(text)))
    new = random.choice(["", f'"{found[1]}x": ', '"note": ', found[0] + "0, " + found[0]])
    return _replace_at(text, *found.span(), new)


def pair_deleted(text: str, random: Random) -> str:
    found = random.choice(list(re.finditer(r'"\w+": (?:"[^"]*"|-?[\d.]+|true|false)(?:, |(?=\}))', text)))
    return _replace_at(text, *found.span(), "")


def line_deleted(text: str, random: Random) -> str:
    lines = text.split("\n")
    del lines[random.randrange(len(lines))]
    return "\n".join(lines)


def step_deleted(text: str, random: Random) -> str:
    lines, steps = _steps(text)
    number = random.choice(steps)
    if not lines[number].endswith(","):
        lines[number - 1] = lines[number - 1].rstrip(",")
    del lines[number]
    return "\n".join(lines)


def step_doubled(text: str, random: Random) -> str:
    lines, steps = _steps(text)
    number = random.choice(steps)
    lines.insert(number, lines[number].rstrip(",") + ",")
    return "\n".join(lines)


def steps_swapped(text: str, random: Random) -> str:
    lines, steps = _steps(text)
    place = random.randrange(len(steps) - 1)
    one = steps[place]
    other = steps[place + 1] if random.random() < 0.7 else random.choice(steps)
    a, b = lines[one].rstrip(","), lines[other].rstrip(",")
    lines[one], lines[other] = b + lines[one][len(a) :], a + lines[other][len(b) :]
    return "\n".join(lines)


def step_moved(text: str, random: Random) -> str:
    """A little up or down: a prefetch, a late drop."""
    lines, steps = _steps(text)
    place = random.randrange(len(steps))
    other = steps[max(0, min(len(steps) - 1, place + random.randint(-6, 6)))]
    if not lines[steps[place]].endswith(",") or not lines[other].endswith(","):
        return steps_swapped(text, random)
    line = lines.pop(steps[place])
    lines.insert(other, line)
    return "\n".join(lines)


def device_moved(text: str, random: Random) -> str:
    """All steps of a job that name a device name another; or one step."""
    lines, steps = _steps(text)
    devices = sorted({device for number in steps for device in re.findall(r'"device": "([^"]+)"', lines[number])})
    jobs = sorted({job for number in steps for job in re.findall(r'"job": "([^"]+)"', lines[number])})
    job, device = random.choice(jobs), random.choice(devices)
    other = random.choice([each for each in devices if each != device])
    chosen = [number for number in steps if f'"job": "{job}"' in lines[number]]
    if random.random() < 0.4:
        chosen = [random.choice(chosen)]
    for number in chosen:
        lines[number] = lines[number].replace(f'"device": "{device}"', f'"device": "{other}"')
    return "\n".join(lines)


def keep_changed(text: str, random: Random) -> str:
    """A forward keeps its activations, or no longer."""
    lines, steps = _steps(text)
    forwards = [number for number in steps if '"op": "forward"' in lines[number]]
    number = random.choice(forwards)
    line = lines[number]
    kept = ', "keep": true'
    lines[number] = line.replace(kept, "") if kept in line else line.replace("}", f"{kept}}}", 1)
    return "\n".join(lines)


def cut_off(text: str, random: Random) -> str:
    return text[: random.randrange(len(text))]


def overwritten(text: str, random: Random) -> str:
    place = random.randrange(len(text))
    return _replace_at(
        text, place, place + random.randint(1, 4), random.choice(["\x00", "{", "]", ",", '"', "\\", "9", "\n"])
    )


def noted(text: str, random: Random) -> str:
    """A note, which changes nothing."""
    lines, steps = _steps(text)
    number = random.choice(steps)
    note = json.dumps(random.choice(["why not", "é" * 50, "x" * 3_000, "\\", "\n"]))
    lines[number] = lines[number].replace("}", f', "note": {note}}}', 1)
    return "\n".join(lines)


MUTATIONS: tuple[Mutation, ...] = (
    strange_value, nudged_number, borrowed_value, mistyped, renamed_everywhere, key_changed, pair_deleted, line_deleted,
    step_deleted, step_doubled, steps_swapped, step_moved, device_moved, keep_changed, cut_off, overwritten, noted,
)  # fmt: skip
GENTLE: tuple[Mutation, ...] = (steps_swapped, step_moved, keep_changed, device_moved, noted)
"""Those after which a plan holds more often."""


def _steps(text: str) -> tuple[list[str], list[int]]:
    """The text's lines, and the numbers of those that are steps."""
    lines = text.split("\n")
    return lines, [number for number, line in enumerate(lines) if _STEP.match(line) and '"op": ' in line]
