"""The trades of a report or of a simulated result, as the nulls need them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from agentfund.backtest.log import stated_costs
from agentfund.backtest.nulls import Taken, stacked
from agentfund.backtest.passage import OPEN, SIGNAL, STOP, TARGET
from agentfund.errors import ConfigError
from agentfund.trading import Direction

if TYPE_CHECKING:
    from agentfund.backtest.report import Report
    from agentfund.backtest.result import Result
    from agentfund.backtest.trades import RoundTrip
    from agentfund.market import Columns
    from agentfund.trading import Costs

    Found: TypeAlias = tuple[Mapping[str, Columns], Mapping[str, int], Mapping[str, Taken], float, Costs | None]

_KINDS = {"order": SIGNAL, "stop": STOP, "target": TARGET, "open": OPEN}


def of_report(report: Report) -> Found:
    """Take the round trips of a report; a stop's distance is that of the first entry's order from the decision's price."""
    prices = {decision.id: decision.price for decision in report.log.decisions}
    rows: dict[str, list[tuple[float, ...]]] = {symbol: [] for symbol in report.columns}
    axis = report.curve.ends
    known = {symbol: column.closed_by(int(axis[-1])) for symbol, column in report.columns.items()}
    for trip in report.round_trips:
        column = report.columns[trip.symbol]
        bars = column.closed_by(int(axis[trip.exit_bar])) - column.closed_by(int(axis[trip.entry_bar]))
        sign = 1.0 if trip.direction is Direction.LONG else -1.0
        notional = float(trip.quantity * trip.entry_price)
        stop, target = _distances(report, trip, prices.get(trip.decision))
        rows[trip.symbol].append((sign, notional, stop, target, float(bars), float(_KINDS[trip.exit]), float(trip.profit)))
    taken = {symbol: stacked(found) for symbol, found in rows.items()}
    return report.columns, known, taken, float(report.cash), report.trading_costs


def _distances(report: Report, trip: RoundTrip, price: float | None) -> tuple[float, float]:
    order = report.log.orders.get(report.log.fills[trip.fills[0]][0].order_id)
    base = price or float(trip.entry_price)
    if order is None:
        return math.nan, math.nan
    levels = (order.stop_loss, order.take_profit)
    stop, target = (math.nan if level is None else abs(float(level) / base - 1.0) for level in levels)
    return stop, target


def of_result(result: Result, stop_pct: float | None = None, target_pct: float | None = None) -> Found:
    """Take the trades of a simulated result.

    Args:
        result: what `simulate` gave.
        stop_pct: distance of every stop in percent, for a result whose trades do not say.
        target_pct: the same of the targets; left out for none.

    Raises:
        ConfigError: nobody says how far the stops were.
    """
    t = result.trades
    stops, targets = getattr(t, "stop_pct", None), getattr(t, "target_pct", None)
    if stops is None:
        if stop_pct is None:
            raise ConfigError("the trades do not say how far their stops were: give stop_pct=..., and target_pct=... if any")
        stops = np.full(len(t), stop_pct)
        targets = np.full(len(t), math.nan if target_pct is None else target_pct)
    taken = {}
    for number, symbol in enumerate(result.symbols):
        mine = t.symbol == number
        bars = (t.exit_bar - t.entry_bar)[mine]
        columns = (t.sign, t.quantity * t.entry_price, np.asarray(stops) / 100.0, np.asarray(targets) / 100.0)
        sign, notional, stop, target = (column[mine] for column in columns)
        taken[symbol] = Taken(sign, notional, stop, target, bars, t.exit[mine].astype(np.int64), t.profit[mine])
    known = {symbol: len(column) for symbol, column in result.columns.items()}
    return result.columns, known, taken, result.cash, stated_costs({"costs": result.described.get("costs", {})})
