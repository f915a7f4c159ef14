"""The watchdog's own fold of a fund's log, and the book that is made of it."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agentfund import Backtest, Orchestrator, PaperBroker, SqliteBus
from agentfund.buses.memory import MemoryBus
from agentfund.core.standard_views import StateView
from agentfund.core.views import see
from agentfund.errors import BrokerUnavailable, BusError, BusUnavailable
from agentfund.feeds import SimulatedMarket
from agentfund.messages import Answered, Busted, Filled, Intended, Led
from agentfund.protocols import Watched
from agentfund.strategies import SmaCross
from agentfund.trading import OrderStatus, OrderType, Side
from agentfund.watchdog import LogBook, LogReader
from agentfund.watchdog.told import Told
from tests.watchdog.scenes import FILL, ORDER, START, D, begun, message


def folded(*more: object) -> Told:
    told = Told()
    for number, one in enumerate([*begun(), *more], 1):
        told.add(one.at(number))  # type: ignore[attr-defined]
    return told


async def test_it_agrees_with_the_funds_own_fold(tmp_path: Path) -> None:
    """Positions, cash and open orders of a whole run, after every message."""
    bus = SqliteBus(tmp_path / "fund.db")
    Backtest(
        Orchestrator([SmaCross(fast=5, slow=20)], bus=bus, name="fund"), SimulatedMarket(bars=600, seed=4), PaperBroker()
    ).run()
    newest = await bus.last("fund")
    assert newest is not None
    told, state, view = Told(), StateView().start(), StateView()
    trades = 0
    async for one in bus.read("fund"):
        told.add(one)
        state = view.apply(state, one)
        trades += one.type == "Filled"
        assert told.held == {symbol: held.quantity for symbol, held in state.portfolio.positions.items()}
        assert told.cash == state.portfolio.cash
    assert trades > 10
    assert told.offset == newest.offset
    assert (await see(bus, "fund", view)).value.portfolio.cash == told.cash
    assert told.excess == {}
    await bus.close()


def test_a_bracket_protects_what_has_filled() -> None:
    """Its stop and its target rest for as much as is held."""
    book = folded().book()
    assert book.account.positions == {"AAA": D(10)}
    assert book.account.equity == D(99_999)
    assert [(one.id, one.side, one.quantity, one.type, one.price, one.entry) for one in book.resting] == [
        ("o1.stop", Side.SELL, D(10), OrderType.STOP, D(95), "o1"),
        ("o1.target", Side.SELL, D(10), OrderType.LIMIT, D(110), "o1"),
    ]
    other = replace(ORDER, id="o2", side=Side.SELL, quantity=D(4), stop_loss=None, take_profit=None, reduce_only=True)
    less = replace(FILL, id="f2", order_id="o2", side=Side.SELL, quantity=D(4))
    resting = folded(message(Intended(other), 2), message(Filled(less), 2)).book().resting
    assert [one.quantity for one in resting] == [D(6), D(6)]
    closed = replace(FILL, id="f3", leg="stop", side=Side.SELL)
    assert folded(message(Filled(closed), 3)).book().resting == ()


def test_an_intent_rests_until_it_is_over() -> None:
    """Refused and cancelled orders do not; a part that filled is protected all the same."""
    two = message(Intended(replace(ORDER, id="o2", symbol="BBB")), 2)
    assert [one.id for one in folded(two).book().resting if not one.entry] == ["o2"]
    for status in (OrderStatus.REJECTED, OrderStatus.CANCELLED):
        assert not [one.id for one in folded(two, message(Answered("o2", status))).book().resting if not one.entry]
    part = message(Filled(replace(FILL, id="f2", order_id="o2", symbol="BBB", quantity=D(3))), 2)
    found = folded(two, part, message(Answered("o2", OrderStatus.CANCELLED)))
    assert [(one.id, one.quantity) for one in found.book().resting if one.symbol == "BBB"] == [
        ("o2.stop", D(3)),
        ("o2.target", D(3)),
    ]


def test_a_fill_counts_once_and_one_that_was_taken_back_not_at_all() -> None:
    """In either order."""
    assert folded(message(Filled(FILL), 9)).held == {"AAA": D(10)}
    gone = folded(message(Busted("f1")))
    assert (gone.held, gone.cash) == ({}, D(100_000))
    assert folded(message(Busted("f2")), message(Filled(replace(FILL, id="f2")), 2)).held == {"AAA": D(10)}


def test_what_a_leader_of_the_past_writes_does_not_count() -> None:
    """Its token is smaller."""
    led = message(Led("b", 2, START + timedelta(minutes=1)), token=2)
    late = message(Filled(replace(FILL, id="f2")), 2, token=1)
    assert folded(led, late).held == {"AAA": D(10)}


async def test_the_log_is_read_on_and_going_backwards_is_found(tmp_path: Path) -> None:
    """Cut, and written anew: offsets or ids tell."""
    bus = SqliteBus(tmp_path / "fund.db")
    reader = LogReader(lambda: SqliteBus(tmp_path / "fund.db", read_only=True), "fund")
    await bus.publish(begun())
    assert (await reader.read()).offset == 4
    await bus.publish([message(Intended(replace(ORDER, id="o2")), 2)])
    assert (await reader.read()).offset == 5
    assert not reader.rewound
    await reader.close()
    await bus.close()
    with sqlite3.connect(tmp_path / "fund.db") as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("DELETE FROM messages WHERE offset = 5")
    db.close()
    await reader.read()
    assert "went to 5 and now ends at 4" in reader.rewound
    await reader.close()


async def test_a_message_that_cannot_be_read_is_never_passed_over() -> None:
    """It is an error each time: the watchdog goes blind and says so."""
    bus = MemoryBus()
    wrong = replace(message(Filled(FILL), 7), payload={"fill": "none"}, _event=None)
    await bus.publish([*begun(), wrong, message(Intended(replace(ORDER, id="o2")), 2)])
    reader = LogReader(bus, "fund")
    for _ in range(3):
        with pytest.raises(ValueError, match="Filled"):
            await reader.read()
        assert reader.told.offset == 4


async def test_a_log_that_rested_when_it_was_opened_is_opened_again(tmp_path: Path) -> None:
    """A file that nobody wrote to is read as it is; once a fund begins, that is not enough."""
    path = tmp_path / "fund.db"
    bus = SqliteBus(path)
    await bus.publish(begun())
    await bus.close()

    def resting() -> SqliteBus:
        found = SqliteBus(path, read_only=True)
        found._file._immutable = len(opened) == 0  # as for a user who may not write beside the file
        opened.append(found)
        return found

    opened: list[SqliteBus] = []
    reader = LogReader(resting, "fund")
    again = SqliteBus(path)
    await again.publish([message(Intended(replace(ORDER, id="o2")), 2)])
    with pytest.raises(BusUnavailable, match="open it again"):
        await reader.read()
    assert "o2" in (await reader.read()).orders
    await reader.close()
    await again.close()


async def test_a_log_that_is_not_there_is_an_error_and_never_empty(tmp_path: Path) -> None:
    """A failed query is no empty book."""
    reader = LogReader(lambda: SqliteBus(tmp_path / "none.db", read_only=True), "fund")
    with pytest.raises(BusError):
        await reader.read()
    with pytest.raises(BusUnavailable, match="nobody knows yet which fund"):
        await LogReader(MemoryBus(), "").read()
    broken = MemoryBus()
    book = LogBook(broken, "")
    with pytest.raises(BrokerUnavailable, match="stands in for the broker"):
        await book.book()
    with pytest.raises(BrokerUnavailable, match="has no run yet"):
        await LogBook(broken, "fund").book()
    assert isinstance(book, Watched)
    assert book.word == "log"
