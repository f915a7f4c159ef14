"""Permit, hours, quotes, rates and other facts survive the wire, and the answer on the other side is the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from agentfund import Limits
from agentfund.core.gate import Rates, Scene, Status, check
from agentfund.hours import Blackout, Blackouts, Hours, Schedule
from agentfund.market import Quote
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.codec import Malformed, dump_order, dump_scene, load_order, load_scene, not_finite
from agentfund.trading import Level, Permit
from tests.core.gate_intents import Chance, intent, limits_of
from tests.core.test_gate_checks import CLOSING, LONG, NOW_US, ROWS, order, scene
from tests.market import START

D = Decimal


def through_bytes(view: Scene) -> Scene:
    """Return the scene that arrives."""
    return load_scene(pb.Scene.FromString(dump_scene(view).SerializeToString()))


FACTS: dict[str, Any] = {
    "live": True,
    "permit": Permit(Level.CAUTION, False, "why", "cause"),
    "status": Status.LIMIT_UP,
    "quote": Quote("SIM", 99.99, None, 0.1, START),
    "min_notional": D("10.50"),
    "volume": D("0E+2"),
    "sectors": {"SIM": "tech", "ÜBER-€": ""},
    "clusters": {},
    "buying_power": D("-1.0"),
    "margin_used": 0.0,
    "rates": Rates(1, 2, 3, 4),
    "agent_rates": Rates(5, 6, 7, 8),
    "repeats": 3,
    "day_peak_equity": D("1.10"),
    "proposed_by": ("a", "b"),
    "decided_quantity": D("1E+2"),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_survives(name: str) -> None:
    """Each on its own; one that nobody told is still told by nobody."""
    view = scene(hours=None, **{name: FACTS[name]})
    assert through_bytes(view) == view
    nobody = next(field.default for field in Scene.__dataclass_fields__.values() if field.name == name)
    if nobody is None:
        assert getattr(through_bytes(scene(hours=None, **{name: None})), name) is None


def test_hours_say_the_same_of_this_moment() -> None:
    """Only what lies around it travels, not the year; what is not covered is not known."""
    opens = tuple(NOW_US + at * 100 for at in range(-400, 400))
    year = Schedule("x", opens, tuple(one + 50 for one in opens), NOW_US - 40_000, NOW_US + 40_000)
    for moment in (0, 49, 50, 99, -40_000, -40_001, 40_000):
        view = scene(hours=Hours({"": year}), now=START + timedelta(microseconds=moment))
        arrived = through_bytes(view)
        assert view.hours is not None
        assert arrived.hours is not None
        assert arrived.hours.is_open("SIM", view.now) is view.hours.is_open("SIM", view.now)
        assert dump_scene(arrived) == dump_scene(view)
        assert len(dump_scene(view).hours.opens_us) <= 2
    other = through_bytes(scene(hours=Hours({"SIM2": year}))).hours
    assert other is not None
    assert other.is_open("SIM", START) is None


def test_the_blackout_of_this_moment_travels() -> None:
    """And until when blackouts are known."""
    now = Blackout(START, START + timedelta(seconds=1), frozenset({"SIM"}), "news")
    later = Blackout(START + timedelta(days=1), START + timedelta(days=2))
    arrived = through_bytes(scene(blackouts=Blackouts((later, now), START + timedelta(days=9)))).blackouts
    assert arrived == Blackouts((now,), START + timedelta(days=9))


@pytest.mark.parametrize("one", ROWS, ids=[f"{number}-{one.code}" for number, one in enumerate(ROWS)])
def test_a_denial_is_the_same_on_the_other_side(one: Any) -> None:
    """Or what is no order is not sent."""
    mine, view, limits = order(**one.denied[0]), scene(**one.denied[1]), Limits(**one.denied[2])
    try:
        told = dump_order(mine), dump_scene(view)
        arrived = load_order(told[0]), load_scene(told[1])
    except Malformed:
        assert one.code in ("schema", "gate_error")
        return
    denial = check(*arrived, limits)
    assert denial is not None
    assert denial.code == one.code


def test_hostile_intents_are_judged_alike_on_both_sides() -> None:
    """Allowed here is allowed there, where they can be sent at all; what cannot be is denied by the client."""
    r = Chance(3)
    sent = 0
    for number in range(4_000):
        if number % 25 == 0:
            limits = limits_of(r)
        mine, view = intent(r)
        here = check(mine, view, limits)
        try:
            arrived = load_order(dump_order(mine)), load_scene(dump_scene(view))
        except Exception:
            continue
        sent += 1
        there = check(*arrived, limits)
        if not_finite(*arrived):
            continue
        assert (here is None) is (there is None), (here, there, mine, view)
    assert sent > 1_500


@pytest.mark.parametrize("part", ["live", "blackouts", "rates", "agent_rates", "repeats", "min_notional"])
def test_what_would_look_safer_when_it_is_left_out_is_asked_for(part: str) -> None:
    """An older client that does not know that it trades live is not believed."""
    told = dump_scene(scene())
    told.ClearField(part)
    with pytest.raises(Malformed, match="missing"):
        load_scene(told)


def test_a_quote_that_is_none_stops_entries_and_not_exits() -> None:
    """Nothing that a feed says keeps a position from being closed."""
    broken = through_bytes(scene(quote=Quote("SIM", float("nan"), 100.0, None, START), portfolio=LONG))
    denial = check(order(), broken, Limits())
    assert denial is not None
    assert denial.code == "gate_error"
    assert check(order(**CLOSING), broken, Limits()) is None


NO_LEVEL = Permit(level=None)  # type: ignore[arg-type]
NO_MINUTE = Rates(minute=None)  # type: ignore[arg-type]
BENT: list[tuple[str, Any]] = [
    ("permit", 3),
    ("permit", NO_LEVEL),
    ("rates", NO_MINUTE),
    ("critical", 0),
    ("status", "halted"),
    ("quote", "100"),
    ("hours", {}),
    ("rates", 1),
    ("live", 1),
]


@pytest.mark.parametrize(("name", "value"), BENT)
def test_what_is_no_fact_is_not_sent(name: str, value: Any) -> None:
    """It would be bent on the way."""
    with pytest.raises(Malformed, match=name):
        dump_scene(replace(scene(), **{name: value}))


def test_values_of_a_later_version_mean_nothing_here() -> None:
    """A level 5, another status, hours that do not rise, a symbol twice."""
    changes: list[Any] = [
        lambda told: setattr(told.permit, "level", 5),
        lambda told: setattr(told, "status", "auction"),
        lambda told: told.hours.closes_us.append(1),
        lambda told: told.sectors.groups.add(symbol="SIM", name="x"),
        lambda told: told.quote.ClearField("time_us"),
        lambda told: setattr(told.blackouts, "until_us", 2**62),
    ]
    for change in changes:
        told = dump_scene(scene())
        change(told)
        with pytest.raises(Malformed):
            load_scene(told)
