"""From fills to equity and round trips: nothing is lost on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.backtest.trades import Execution, equity_curve, place, round_trips, time_axis
from agentfund.clock import to_micros
from agentfund.errors import BadData
from agentfund.market import Columns, Instrument, decimal
from agentfund.trading import Direction, Fill, Portfolio, Side

START = datetime(2024, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
CASH = Decimal(10_000)


def columns(*closes: float, symbol: str = "A", start: datetime = START, interval: timedelta = HOUR) -> Columns:
    close = np.asarray(closes, dtype=np.float64)
    starts = to_micros(start) + np.arange(len(close)) * (interval // timedelta(microseconds=1))
    return Columns(Instrument(symbol), interval, starts, close, close + 1, close - 1, close, np.ones(len(close)))


def fill(
    number: int,
    side: Side,
    quantity: str,
    price: str,
    hour: float = 0,
    *,
    fee: str = "0",
    reference: str | None = None,
    leg: Literal["order", "stop", "target"] = "order",
    symbol: str = "A",
) -> Fill:
    return Fill(
        f"f{number}",
        f"o{number}",
        symbol,
        side,
        Decimal(quantity),
        Decimal(price),
        Decimal(fee),
        START + hour * HOUR,
        Decimal(reference or price),
        leg,
    )


def test_a_round_trip_averages_its_entries_and_pays_its_costs() -> None:
    """10 at 100 and 30 at 104 are 40 at 103; sold at 105 that is 80, less fees of 6."""
    fills = [
        fill(1, Side.BUY, "10", "100", fee="1", reference="99"),
        fill(2, Side.BUY, "30", "104", 1, fee="2"),
        fill(3, Side.SELL, "40", "105", 2, fee="3", reference="106", leg="target"),
    ]
    (trip,) = round_trips([Execution(f, i + 1, f"d{i}") for i, f in enumerate(fills)], {}, 5)
    assert trip.entry_price == 103
    assert trip.exit_price == 105
    assert trip.profit == 80 - 6
    assert trip.cost == 6 + 10 * 1 + 40 * 1
    assert (trip.exit, trip.bars, trip.decision, trip.closed_by) == ("target", 2, "d0", "d2")


def test_a_fill_that_turns_a_position_ends_one_trip_and_begins_the_next() -> None:
    """Selling 30 of 10 held closes 10 and opens 20 short; the fee of 3 is shared one to two."""
    fills = [fill(1, Side.BUY, "10", "100"), fill(2, Side.SELL, "30", "110", 1, fee="3")]
    long, short = round_trips([Execution(f, i, "") for i, f in enumerate(fills)], {"A": Decimal(90)}, 4)
    assert (long.direction, short.direction) == (Direction.LONG, Direction.SHORT)
    assert long.profit == 10 * 10 - 1
    assert short.profit == 20 * 20 - 2
    assert (short.exit, short.closed, short.bars) == ("open", None, 3)


def test_equity_is_cash_and_positions_at_each_close() -> None:
    """Bought 10 at 100 in the second bar, 4 of them sold at 120 in the fourth."""
    market = {"A": columns(100, 105, 110, 120)}
    axis = time_axis(market)
    fills = [
        (fill(1, Side.BUY, "10", "100", 1, fee="5"), START + 2 * HOUR),
        (fill(2, Side.SELL, "4", "120", 3), START + 4 * HOUR),
    ]
    executions = [Execution(f, row, "") for f, row in place(fills, market, axis)]
    curve, book = equity_curve(market, axis, CASH, executions)
    assert curve.equity.tolist() == [10_000, 10_045, 10_095, 10_195]
    assert curve.held.tolist() == [False, True, True, True]
    assert book.quantity("A") == 6


def test_a_fill_at_the_moment_between_two_bars_belongs_to_the_bar_that_was_seen() -> None:
    """Seen at once, it happened in the bar that closed; seen an hour later, in the bar that opened."""
    market = {"A": columns(1, 2, 3)}
    axis = time_axis(market)
    at = fill(1, Side.BUY, "1", "1", 1)
    assert place([(at, at.time)], market, axis)[0][1] == 0
    assert place([(at, at.time + HOUR)], market, axis)[0][1] == 1


def test_instruments_with_other_hours_are_marked_at_their_last_known_close() -> None:
    """B has one bar of two hours; between its closes it is worth what it last was."""
    market = {"A": columns(1, 1, 1, 1), "B": columns(50, 70, symbol="B", interval=2 * HOUR)}
    axis = time_axis(market)
    assert len(axis) == 4
    bought = fill(1, Side.BUY, "1", "40", 0, symbol="B")
    executions = [Execution(f, row, "") for f, row in place([(bought, START + 2 * HOUR)], market, axis)]
    assert equity_curve(market, axis, CASH, executions)[0].equity.tolist() == [10_000, 10_010, 10_010, 10_030]


def test_a_fill_of_an_unknown_instrument_names_itself_and_the_fix() -> None:
    """The log and the bars are of different runs."""
    market = {"A": columns(1, 2)}
    with pytest.raises(BadData, match=r"fill f1 is of 'B', the history holds A: give the report"):
        place([(fill(1, Side.BUY, "1", "1", symbol="B"), START)], market, time_axis(market))


trades = st.lists(
    st.tuples(
        st.integers(0, 19),
        st.sampled_from(list(Side)),
        st.decimals("0.0001", "50", places=4),
        st.decimals("1", "500", places=2),
        st.decimals("0", "9", places=2),
        st.sampled_from("AB"),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=80)
@given(trades)
def test_money_is_neither_made_nor_lost_on_the_way(drawn: list[tuple[int, Side, Decimal, Decimal, Decimal, str]]) -> None:
    """The curve ends where the fold over the fills ends, and the round trips add up to the difference."""
    rng = np.random.default_rng(len(drawn))
    market = {name: columns(*np.round(rng.uniform(1, 500, 20), 2), symbol=name) for name in "AB"}
    axis = time_axis(market)
    fills = [
        (fill(i, side, str(quantity), str(price), bar, fee=str(fee), symbol=symbol), START + (bar + 1) * HOUR)
        for i, (bar, side, quantity, price, fee, symbol) in enumerate(sorted(drawn, key=lambda one: one[0]))
    ]
    executions = [Execution(f, row, "") for f, row in place(fills, market, axis)]
    curve, book = equity_curve(market, axis, CASH, executions)
    fold = Portfolio(CASH)
    for one, _ in fills:
        fold = fold.apply(one)
    marks = {name: decimal(float(column.close[-1])) for name, column in market.items()}
    assert book.cash == fold.cash
    assert curve.equity[-1] == pytest.approx(float(fold.equity(marks)), abs=1e-6)
    trips = round_trips(executions, marks, len(axis) - 1)
    assert CASH + sum(trip.profit for trip in trips) == pytest.approx(fold.equity(marks), abs=Decimal("1e-12"))
    assert sum(trip.cost for trip in trips) == pytest.approx(sum(f.cost for f, _ in fills), abs=Decimal("1e-12"))
