"""Faults as data: written, read, drawn from a seed, and made smaller."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.errors import ConfigError
from agentfund.testing.simulator.faults import KINDS, POINTS, Fault
from agentfund.testing.simulator.schedule import Schedule, crashes, draw, pairs, parse, shrink, told

COUNTS = dict.fromkeys(POINTS, 30)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    """Give any fault that can be."""
    name = draw(st.sampled_from(list(KINDS)))
    kind = KINDS[name]
    argument = draw(st.sampled_from(kind.arguments)) if kind.arguments else None
    return Fault(draw(st.sampled_from(kind.points)), draw(st.integers(1, 99)), name, argument)


@given(st.lists(faults(), max_size=6))
@settings(deadline=None)
def test_what_is_told_is_read_back(schedule: list[Fault]) -> None:
    """Every schedule fits into a line, and the line is the schedule."""
    assert parse(told(schedule)) == tuple(schedule)


def test_an_argument_that_is_left_out_is_the_simplest() -> None:
    """So that a schedule can be written by hand."""
    assert told(parse("publish#12:lost_ack, submit#1:late")) == "publish#12:lost_ack,submit#1:late(20)"
    assert parse("none") == parse("") == ()
    assert told(()) == "none"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("publish:fails", "is no fault"),
        ("lunch#1:fails", "there is no point"),
        ("publish#1:boredom", "there is no fault"),
        ("publish#1:reject", "does not happen at publish"),
        ("publish#0:fails", "count from 1"),
        ("publish#1:fails(3)", "takes no argument"),
    ],
)
def test_what_cannot_happen_is_refused(text: str, why: str) -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match=why):
        parse(text)


def test_a_seed_draws_one_schedule_and_seeds_draw_everything() -> None:
    """All kinds that are drawn, at all their points, and nothing that is not."""
    possible = pairs(COUNTS, lambda point, kind: KINDS[kind].drawn)

    def one(seed: int) -> Schedule:
        return draw(random.Random(seed), COUNTS, possible)

    assert one(5) == one(5)
    drawn = [one(seed) for seed in range(4000)]
    assert {(fault.point, fault.kind) for schedule in drawn for fault in schedule} == set(possible)
    sizes = Counter(map(len, drawn))
    assert min(sizes) == 1
    assert max(sizes) == 8
    assert all(len({fault.where for fault in schedule}) == len(schedule) for schedule in drawn)
    assert not [kind for _, kind in possible if not KINDS[kind].drawn]


def test_faults_come_close_behind_each_other() -> None:
    """Where the fund is still recovering from the first."""
    possible = [("publish", "crash_before")]
    close = 0
    for seed in range(200):
        numbers = [fault.number for fault in draw(random.Random(seed), {"publish": 1000}, possible)]
        close += any(0 < b - a <= 3 for a in numbers for b in numbers)
    assert close > 50


def test_every_boundary_is_among_the_crashes() -> None:
    """Before and after each operation, once."""
    every = [str(schedule[0]) for schedule in crashes({"publish": 2, "start": 1, "ask": 1})]
    expected = ["publish#1", "publish#2", "ask#1"]
    assert every == [f"{where}:crash_{when}(5)" for where in expected for when in ("before", "after")]


def test_a_failing_schedule_shrinks_to_the_faults_that_matter() -> None:
    """Eight faults, two of which are needed together, with the simplest arguments that still fail."""
    schedule = parse(
        "ask#1:hang,bar#2:gap(3),orders#4:stale(1000),publish#3:lost_ack,publish#9:crash_after(700),"
        "read#2:fails,submit#1:late(50),submit#2:partial(5)"
    )
    tried = 0

    def fails(one: Schedule) -> bool:
        nonlocal tried
        tried += 1
        kinds = {fault.kind: fault.seconds for fault in one}
        return "late" in kinds and kinds.get("crash_after", 0) > 5

    assert told(shrink(schedule, fails)) == "publish#9:crash_after(100),submit#1:late(20)"
    assert tried < 60


def test_what_fails_without_any_fault_shrinks_to_nothing() -> None:
    """Then it is not the faults."""
    assert shrink(parse("ask#1:hang,bar#2:gap"), lambda schedule: True) == ()


def test_shrinking_ends_when_it_has_tried_enough() -> None:
    """What it has found by then is good enough."""
    schedule = tuple(Fault("publish", number, "fails") for number in range(1, 60))
    tried = 0

    def fails(one: Schedule) -> bool:
        nonlocal tried
        tried += 1
        return len(one) >= 50

    assert len(shrink(schedule, fails, most=20)) >= 50
    assert tried <= 20
