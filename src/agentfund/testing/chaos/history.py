"""What the rounds write to a bus, and what its log must then hold."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from agentfund.testing.bus import faults, message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentfund.messages import Message

WORK, EFFECTS = "work", "effects"
HALVES = "ab"


def key(line: int, half: str) -> str:
    """Return one of the two keys of a line."""
    return f"{line}{half}"


@cache
def task(of: str, number: int) -> Message:
    """Return a message of a key; the same arguments give equal messages."""
    return message(number, key=of, stream=WORK, writer="p")


@cache
def _effect(of: str, number: int) -> Message:
    return replace(message(number, key=of, stream=EFFECTS, writer="c"), cause=task(of, number).id)


def batch(line: int, number: int) -> list[Message]:
    """Return a batch of a line: one message for each of its keys."""
    return [task(key(line, half), number) for half in HALVES]


def effect(one: Message) -> Message:
    """Return what a message brings about: a message whose id follows from its own, so that it takes effect once."""
    return _effect(one.key, one.cycle)


def wrong(
    log: Sequence[Message], before: Sequence[Message], acked: Sequence[int], done: Mapping[str, int], meant: Sequence[int]
) -> list[str]:
    """Return what is wrong with a log, one sentence each; an empty list is good.

    Args:
        log: every message, in the order of a reading.
        before: what the reading before this one gave.
        acked: for each line, how many of its batches were acknowledged before the reading began.
        done: for each key, how many of its effects were.
        meant: for each line, how many batches its producers may have begun to publish when the reading had ended.
    """
    found = []
    if [one.offset for one in log] != list(range(1, len(log) + 1)):
        found.append("offsets do not count from 1 without a gap")
    if list(log[: len(before)]) != list(before):
        found.append(f"the first {len(before)} messages are not those that were read before")
    work = [one for one in log if one.stream == WORK]
    effects = [one for one in log if one.stream != WORK]
    published = []
    for line, (least, most) in enumerate(zip(acked, meant, strict=True)):
        one, two = ({each.cycle for each in work if each.key == key(line, half)} for half in HALVES)
        found += [f"batch {number} of line {line} is there by half" for number in sorted(one ^ two)]
        for number in range(max([least, *(each + 1 for each in one | two if each < most)])):
            published += batch(line, number)
    found += faults(published, work)
    there = {one.id for one in effects}
    due = [effect(one) for one in published if one.cycle < done[one.key] or effect(one).id in there]
    found += faults(due, effects)
    written = {one.id: one for one in (*published, *due)}
    found += [
        f"{one.id} is not as it was written" for one in log if one.id in written and one != written[one.id].at(one.offset)
    ]
    places = {one.id: one.offset for one in work}
    found += [f"{one.id} came before its cause" for one in effects if places.get(one.cause or "", one.offset) >= one.offset]
    return found
