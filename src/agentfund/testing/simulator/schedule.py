"""Faults as data: what goes wrong where, as text that can be read, kept, drawn from a seed, and made smaller."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agentfund.errors import ConfigError
from agentfund.testing.simulator.faults import KINDS, Fault

if TYPE_CHECKING:
    import random

_FAULT = re.compile(r"(?P<point>\w+)#(?P<number>\d+):(?P<kind>\w+)(?:\((?P<argument>[-+.\de]+)\))?")


Schedule = tuple[Fault, ...]
_MORE = 0.65  # chance of one fault more
_CLOSE = 0.5  # chance that it comes close behind another
_WEIGHTS = {"crash_before": 4, "crash_after": 4, "cancel": 2}


def told(schedule: Sequence[Fault]) -> str:
    """Return a schedule as text, `publish#12:lost_ack,submit#1:late(40)`; `none` where nothing goes wrong."""
    return ",".join(map(str, schedule)) or "none"


def parse(text: str) -> Schedule:
    """Read a schedule that `told` wrote.

    Raises:
        ConfigError: it is no schedule; says which part is wrong.
    """
    if text.strip() in ("", "none"):
        return ()
    found = []
    for part in text.split(","):
        match = _FAULT.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"{part.strip()!r} is no fault: write point#number:kind or point#number:kind(argument)")
        argument = match["argument"]
        found.append(Fault(match["point"], int(match["number"]), match["kind"], None if argument is None else float(argument)))
    return tuple(found)


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], *, most: int = 400) -> Schedule:
    """Return a smaller schedule that still fails: faults are dropped, then arguments made simpler.

    This is delta debugging (ddmin). No single fault of the result can be left out.

    Args:
        schedule: one that fails.
        fails: runs a schedule and says whether it fails in the same way.
        most: runs after which the smallest found so far is good enough.
    """
    left = most

    def bad(one: Schedule) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(one)

    if bad(()):
        return ()
    smaller: Schedule | None = _fewer(schedule, bad)
    while smaller is not None:
        schedule = smaller
        smaller = next((one for one in _simpler(schedule) if bad(one)), None)
    return schedule


def _fewer(schedule: Schedule, bad: Callable[[Schedule], bool]) -> Schedule:
    parts = 2
    while len(schedule) > 1:
        size = -(-len(schedule) // parts)
        for start in range(0, len(schedule), size):
            rest = schedule[:start] + schedule[start + size :]
            if rest and bad(rest):
                schedule, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(schedule))
    return schedule


def _simpler(schedule: Schedule) -> Iterator[Schedule]:
    for place, fault in enumerate(schedule):
        choices = [float(one) for one in KINDS[fault.kind].arguments]
        before = choices[: choices.index(fault.seconds)] if fault.seconds in choices else choices
        for argument in before:
            yield (*schedule[:place], replace(fault, argument=argument), *schedule[place + 1 :])


def pairs(counts: Mapping[str, int], wanted: Callable[[str, str], bool]) -> list[tuple[str, str]]:
    """Return what can go wrong in a run: points, each with a kind.

    Args:
        counts: how often each point was passed.
        wanted: whether a kind is drawn at a point.
    """
    return [(point, name) for name, kind in KINDS.items() for point in kind.points if counts.get(point) and wanted(point, name)]


def draw(rng: random.Random, counts: Mapping[str, int], possible: Sequence[tuple[str, str]], *, most: int = 8) -> Schedule:
    """Draw a schedule: one fault or more, some of them close behind another, where the fund is still recovering.

    Args:
        rng: chance.
        counts: how often each point is passed when nothing goes wrong.
        possible: points and kinds to draw from.
        most: most faults.
    """
    points: dict[str, list[str]] = {}
    for point, name in possible:
        points.setdefault(name, []).append(point)
    names = [name for name in points for _ in range(_WEIGHTS.get(name, 1))]
    found: dict[tuple[str, int], Fault] = {}
    wanted = 1
    while wanted < most and rng.random() < _MORE:
        wanted += 1
    for _ in range(wanted):
        name = rng.choice(names)
        point = rng.choice(points[name])
        number = rng.randint(1, counts[point])
        before = [fault.number for fault in found.values() if fault.point == point]
        if before and rng.random() < _CLOSE:
            number = rng.choice(before) + rng.randint(1, 3)
        arguments = KINDS[name].arguments
        found[point, number] = Fault(point, number, name, float(rng.choice(arguments)) if arguments else None)
    return tuple(sorted(found.values()))


def crashes(counts: Mapping[str, int]) -> Iterator[Schedule]:
    """Give a schedule for each boundary at which a process can die: before and after each operation, one by one."""
    for point, times in counts.items():
        for number in range(1, times + 1):
            for name in ("crash_before", "crash_after"):
                if point in KINDS[name].points:
                    yield (Fault(point, number, name),)
