"""Each check alone: what it sees, and what it has against it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentfund.core.pulse import Pulse
from agentfund.errors import ConfigError
from agentfund.messages import Call, Called, Filled, Intended, Levelled
from agentfund.trading import Level, OrderType, Resting, Side
from agentfund.watchdog import Beat, Caps
from agentfund.watchdog.checks import CHECKS, find
from agentfund.watchdog.judge import remember
from agentfund.watchdog.seen import Memory, Seen
from agentfund.watchdog.told import Told
from tests.watchdog.scenes import FILL, ORDER, START, D, begun, book, message, stop

PULSE = Pulse("fund", "limits", "asking", progress=7, heard=START)
MEMORY = Memory("fund", "limits", began=0.0, alive=True, progress=("asking", 0, 7, 1), progress_at=100.0, book_seen=True)
HELD = {"AAA": 10}


def told(*more: Any) -> Told:
    """Return the log of a fund that holds ten, and what came after."""
    found = Told()
    for number, one in enumerate([*begun(), *more], 1):
        found.add(one.at(number))
    return found


def seen(**more: Any) -> Seen:
    """Return what is seen when all is well."""
    beat = Beat(more.pop("pulse", PULSE), 1, more.pop("beat_boot", "b"), more.pop("beat_at", 99.9), 1)
    base: dict[str, Any] = {
        "now": 100.0,
        "wall": START,
        "boot": "b",
        "beat": beat,
        "book": book(100_000, HELD, stop(entry="o1")),
        "book_at": 99.8,
        "book_wall": START,
        "told": told(),
        "told_at": 99.9,
        "disk_mb": 10_000.0,
    }
    return Seen(**{**base, **more})


def memory(**more: Any) -> Memory:
    """Return what is remembered when all is well."""
    return replace(
        MEMORY, peak=D(100_000), day="2024-03-05", day_equity=D(100_000), clock=START - timedelta(seconds=100), **more
    )


def intents(count: int) -> list[Any]:
    return [message(Intended(replace(ORDER, id=f"x{n}")), n) for n in range(count)]


def spent(usd: int) -> Any:
    return message(Called(Call("a", "r", "l", "ok", billed_usd=D(usd))))


def rest(id: str, side: Side, quantity: int, **more: Any) -> Resting:
    return Resting(id, more.pop("symbol", "AAA"), side, D(quantity), OrderType.LIMIT, D(100), **more)


TABLE: dict[str, tuple[dict[str, Any], list[tuple[str, Level]]]] = {
    "all is well": ({}, []),
    "no heartbeat": ({"beat": None}, [("heartbeat", Level.HALT), ("no_heartbeat", Level.NORMAL)]),
    "heartbeat of an earlier boot": ({"beat_boot": "a"}, [("heartbeat", Level.HALT), ("no_heartbeat", Level.NORMAL)]),
    "late heartbeat": ({"beat_at": 98.0}, [("late_heartbeat", Level.NORMAL)]),
    "lost heartbeat": ({"beat_at": 94.9}, [("late_heartbeat", Level.NORMAL), ("heartbeat", Level.HALT)]),
    "heartbeat of the future": ({"beat_at": 200.0}, [("late_heartbeat", Level.NORMAL), ("heartbeat", Level.HALT)]),
    "another fund": ({"pulse": replace(PULSE, fund="x")}, [("fund", Level.NORMAL)]),
    "other limits": ({"pulse": replace(PULSE, config="x")}, [("config", Level.REDUCE_ONLY)]),
    "ended": ({"pulse": replace(PULSE, stage="ended"), "beat_at": 10.0}, [("ended", Level.NORMAL)]),
    "no feed for a while": ({"pulse": replace(PULSE, heard=START - timedelta(seconds=61))}, [("feed", Level.CAUTION)]),
    "no feed": ({"pulse": replace(PULSE, heard=START - timedelta(seconds=301))}, [("feed", Level.REDUCE_ONLY)]),
    "drawdown": ({"book": book(80_000, HELD, stop(entry="o1"))}, [("drawdown", Level.HALT), ("day_loss", Level.HALT)]),
    "daily loss, soft": ({"book": book(97_000, HELD, stop(entry="o1"))}, [("day_loss_soft", Level.REDUCE_ONLY)]),
    "no equity": ({"book": book(None, HELD, stop(entry="o1"))}, [("equity", Level.REDUCE_ONLY)]),
    "equity is NaN": ({"book": book("NaN", HELD, stop(entry="o1"))}, [("equity", Level.HALT)]),
    "equity is gone": ({"book": book(0, HELD, stop(entry="o1"))}, [("equity", Level.HALT)]),
    "margin": ({"book": book(100_000, HELD, stop(entry="o1"), margin_used=0.81)}, [("margin", Level.HALT)]),
    "margin is NaN": ({"book": book(100_000, HELD, stop(entry="o1"), margin_used=float("nan"))}, [("margin", Level.HALT)]),
    "no stop": ({"book": book(100_000, HELD)}, [("stop", Level.HALT)]),
    "a stop too small": ({"book": book(100_000, HELD, stop(quantity=9, entry="o1"))}, [("stop", Level.HALT)]),
    "a stop on the wrong side": ({"book": book(100_000, HELD, stop(price=103, entry="o1"))}, [("stop", Level.HALT)]),
    "a stop that adds": ({"book": book(100_000, HELD, stop(side=Side.BUY, entry="o1"))}, [("stop", Level.HALT)]),
    "a stop too far": ({"book": book(100_000, HELD, stop(price=82, entry="o1"))}, [("stop", Level.HALT)]),
    "a stop without a price": (
        {"book": book(100_000, HELD, replace(stop(entry="o1"), price=None))},
        [("stop", Level.HALT)],
    ),
    "two whole stops": (
        {"book": book(100_000, HELD, stop(entry="o1", quantity=6), stop(id="s2", quantity=10))},
        [("stop_excess", Level.REDUCE_ONLY)],
    ),
    "mismatch": ({"book": book(100_000, {"AAA": 5}, stop(entry="o1", quantity=5))}, [("mismatch", Level.REDUCE_ONLY)]),
    "a foreign position": (
        {"book": book(100_000, {"AAA": 10, "ZZZ": -3}, stop(entry="o1"), stop("ZZZ", 3, 105, Side.BUY))},
        [("foreign_position", Level.HALT)],
    ),
    "a foreign order": (
        {"book": book(100_000, HELD, stop(entry="o1"), rest("who", Side.BUY, 5))},
        [("foreign_order", Level.REDUCE_ONLY)],
    ),
    "an order larger than meant": (
        {"book": book(100_000, HELD, stop(entry="o1"), rest("o1", Side.BUY, 11))},
        [("conservation", Level.HALT)],
    ),
    "legs larger than their entry": (
        {"book": book(100_000, HELD, stop(entry="o1"), stop(id="s2", quantity=1, entry="o1"))},
        [("stop_excess", Level.REDUCE_ONLY), ("conservation", Level.HALT)],
    ),
    "more fills than were meant": (
        {
            "told": told(message(Filled(replace(FILL, id="f2", quantity=D(1))), 2)),
            "book": book(100_000, {"AAA": 11}, stop(quantity=11)),
        },
        [("conservation", Level.HALT)],
    ),
    "a fill of no order": (
        {
            "told": told(message(Filled(replace(FILL, id="f2", order_id="who")), 2)),
            "book": book(100_000, {"AAA": 20}, stop(quantity=20)),
        },
        [("conservation", Level.HALT)],
    ),
    "order rate by the log": ({"told": told(*intents(30))}, [("order_rate", Level.HALT)]),
    "order rate by the broker": ({"book": book(100_000, HELD, stop(entry="o1"), sent=31)}, [("order_rate", Level.HALT)]),
    "spending": ({"told": told(spent(21))}, [("spending", Level.REDUCE_ONLY)]),
    "spending, soft": ({"told": told(spent(17))}, [("spending", Level.CAUTION)]),
    "blind": ({"book_at": 94.0}, [("late_blind", Level.NORMAL)]),
    "blind for long": ({"book_at": 60.0}, [("late_blind", Level.NORMAL), ("blind", Level.HALT)]),
    "never saw the broker": ({"book": None}, [("no_blind", Level.NORMAL), ("blind", Level.HALT)]),
    "log cannot be read": ({"told_at": 94.0}, [("late_log_blind", Level.NORMAL)]),
    "log goes backwards": ({"rewound": "9 was 8"}, [("log_rewound", Level.HALT)]),
    "no log is watched": ({"told": None, "log": False}, []),
    "broker's clock": (
        {"book": book(100_000, HELD, stop(entry="o1"), time=START - timedelta(seconds=6))},
        [("clock", Level.REDUCE_ONLY)],
    ),
    "disk low": ({"disk_mb": 499.0}, [("disk", Level.CAUTION)]),
    "disk full": ({"disk_mb": 99.0}, [("disk", Level.REDUCE_ONLY)]),
    "disk cannot be told": ({"disk_mb": None}, [("disk", Level.REDUCE_ONLY)]),
    "a forgotten halt": ({"told": told(message(Levelled(3, True, "x", "c9")))}, [("forgotten_halt", Level.HALT)]),
    "a halt that is known": ({"told": told(message(Levelled(3, True, "x", "c9"))), "known": frozenset({"c9"})}, []),
}


@pytest.mark.parametrize("what", TABLE)
def test_each_check_finds_what_it_should_and_nothing_else(what: str) -> None:
    """One deviation at a time from a fund that is well."""
    changed, expected = TABLE[what]
    found = find(seen(**changed), memory(), Caps())
    assert [(one.code, one.level) for one in found] == expected
    assert all(one.reason for one in found)


def test_alive_but_stuck_counts_as_dead() -> None:
    """Outside of waiting something has to get done; asking may take longer."""
    for stage, still, stuck in (
        ("ordering", 59, False),
        ("ordering", 61, True),
        ("asking", 299, False),
        ("asking", 301, True),
        ("waiting", 9999, False),
    ):
        found = find(seen(pulse=replace(PULSE, stage=stage)), memory(progress_at=100.0 - still), Caps())
        assert [one.code for one in found] == ["stuck"] * stuck, (stage, still)


def test_progress_is_what_the_counter_says() -> None:
    """A heart that beats on is none."""
    kept = memory()
    for now in (100.0, 130.0, 200.0):
        remember(seen(now=now, beat_at=now - 0.1), kept)
    assert kept.progress_at == 100.0
    remember(seen(now=201.0, beat_at=201.0, pulse=replace(PULSE, progress=8)), kept)
    assert kept.progress_at == 201.0


def test_a_check_that_fails_is_a_finding() -> None:
    """A book that is none, or a caps that lacks a number, is not well."""
    broken = replace(book(), account=None)  # type: ignore[arg-type]
    found = find(seen(book=broken), memory(), Caps())
    assert {one.code for one in found if one.about == "failed"} >= {"equity", "margin", "stops", "books"}
    assert all(one.level is Level.HALT for one in found if one.about == "failed")


def test_a_wall_clock_that_is_moved_moves_no_trading_day() -> None:
    """It is believed where the broker agrees."""
    kept = memory()
    ahead = START + timedelta(days=1)
    remember(seen(wall=ahead), kept)
    assert (kept.day, kept.jump_s) == ("2024-03-05", 86_400.0)
    assert "clock_jump" in [one.code for one in find(seen(wall=ahead), kept, Caps())]
    remember(seen(wall=ahead, book_wall=ahead, book=book(90_000, time=ahead)), kept)
    assert (kept.day, kept.day_equity) == ("2024-03-06", D(90_000))


def test_a_short_position_wants_its_stop_above() -> None:
    """The other way round."""
    short = book(100_000, {"ZZZ": -4}, stop("ZZZ", 4, 120, Side.BUY))
    log = replace(told(), held={"ZZZ": D(-4)}, prices={"ZZZ": D(110)})
    assert "stop" not in [one.code for one in find(seen(book=short, told=log), memory(), Caps())]
    wrong = book(100_000, {"ZZZ": -4}, stop("ZZZ", 4, 100, Side.BUY))
    assert "stop" in [one.code for one in find(seen(book=wrong, told=log), memory(), Caps())]


def test_caps_that_cannot_work_are_refused() -> None:
    """And changed ones have another digest."""
    assert Caps().digest == Caps().digest != Caps(drawdown_pct=19).digest
    for wrong in ({"drawdown_pct": 0}, {"feed_s": float("nan")}, {"day_loss_soft_pct": 6}, {"blind_s": float("inf")}):
        with pytest.raises(ConfigError):
            Caps(**wrong)


def test_every_check_is_in_the_table() -> None:
    """One that nobody tests finds nothing."""
    assert len(CHECKS) == 15


def test_the_guide_has_every_code() -> None:
    """One that is not explained cannot be understood in a record."""
    text = (Path(__file__).parents[2] / "docs/guides/watchdog.md").read_text(encoding="utf-8")
    table = text.partition("| code | level |")[2].partition("\n\n")[0]
    told = {code for row in table.splitlines()[1:] for code in re.findall(r"`(\w+)`", row.split("|")[1])}
    found = {code for _, expected in TABLE.values() for code, _ in expected}
    assert told == found | {"stuck", "clock_jump", "drawdown_soft", "no_log_blind", "log_blind", "tampering"}
