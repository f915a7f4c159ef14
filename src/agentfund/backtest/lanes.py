"""Run rule strategies over history as fast as it goes: the array lane, the event lane, and which of them is used."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from datetime import timedelta
from fractions import Fraction
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from agentfund import compiled as machine
from agentfund.backtest import events, leaps
from agentfund.backtest import walk as walk_module
from agentfund.backtest.result import Flows, Result, Trades
from agentfund.backtest.signals import NotElementwise, looked_at, ours, signals
from agentfund.backtest.trades import bar_ends, time_axis
from agentfund.backtest.walk import DONE, IN_PARTS, OPEN, slotted, smallest, terms, walk
from agentfund.brokers.paper import PaperBroker
from agentfund.clock import from_micros
from agentfund.core.gate import Limits
from agentfund.core.sizing import Sizing
from agentfund.errors import ConfigError
from agentfund.market import CENT
from agentfund.strategies.strategy import Strategy
from agentfund.trading import Direction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentfund.backtest.result import Ints
    from agentfund.backtest.walk import Terms
    from agentfund.feeds.history import Bars
    from agentfund.market import Columns, Floats

Lane: TypeAlias = Literal["auto", "event", "array"]

_FIELDS = 9
_compiled_walk: Any = machine.jit(walk)

# The plain walk is the same code over helpers that look at many bars in one call.
_plain_walk: Any = FunctionType(walk.__code__, {**vars(walk_module), **leaps.HELPERS}, "walk")


class OutOfLane(ConfigError):
    """The fast lanes do not know what happens here; the fund's own cycle (`Backtest`) does."""


def simulate(
    strategy: Strategy | Mapping[str, Strategy],
    bars: Bars,
    broker: PaperBroker | None = None,
    *,
    sizing: Sizing | None = None,
    limits: Limits | None = None,
    lane: Lane = "auto",
    sized_at: Literal["decision", "fill"] = "decision",
    compiled: bool | None = None,
    looked: Mapping[str, Any] | None = None,
) -> Result:
    """Run rule strategies over history, without a log: for research, sweeps and null tests.

    Prices, costs, sizing and limits are those of a fund with the same arguments, and so are the trades, to the cent. The
    array lane takes whole series and jumps from trade to trade; the event lane goes from bar to bar, with many instruments
    on one clock and one book.

    Args:
        strategy: one for all instruments of the bars, or one for each symbol.
        bars: the history.
        broker: a paper broker, for its cash, costs and settings; it is not touched. 100,000 in cash by default.
        sizing: how much to trade.
        limits: hard limits, as of the gate.
        lane: "array" or "event"; or "auto": the array lane where the strategy allows it, and the fund's own cycle, which is
            slow, where neither knows what happens (an order that fills in parts).
        sized_at: "decision": an order has its quantity when it leaves, as it must live; "fill": the quantity follows from the
            price of the fill, commission included, as many backtest engines have it.
        compiled: whether the array lane runs in machine code (extra `fast`); by itself where there is enough to do.
        looked: indicators that were computed before, by name, for one instrument; whoever gives them has checked that they
            see no future.

    Raises:
        OutOfLane: the lane that was asked for does not know what happens; or none, with many instruments on one book.
        ConfigError: the arguments cannot work.
        LookaheadError: a condition mixes bars, or an indicator of one's own changes when the future is cut off.
    """
    broker, sizing, limits = broker or PaperBroker(), sizing or Sizing(), limits or Limits()
    if lane not in get_args(Lane):
        raise ConfigError(f"lane={lane!r}: there is {', '.join(get_args(Lane))}")
    chosen = _by_symbol(strategy, bars)
    columns = {symbol: bars.columns[symbol] for symbol in chosen}
    cash = broker.cash.quantize(CENT)  # as a fund counts it
    money = smallest(tuple(c.instrument for c in columns.values()), cash)
    terms_of = [terms(each.instrument, broker, sizing, limits, money, at_fill=sized_at == "fill") for each in columns.values()]
    units = float(Fraction(cash) / money)
    described = {
        "strategies": {symbol: repr(each) for symbol, each in chosen.items()},
        "digests": {symbol: each.digest for symbol, each in chosen.items()},
        "cash": str(broker.cash),
        "costs": str(broker.costs),
        "broker": {name: str(value) for name, value in broker.settings.items()},
        "sizing": {each.name: getattr(sizing, each.name) for each in fields(sizing)} | {"sized_at": sized_at},
        "limits": limits.digest,
    }
    single = len(chosen) == 1
    if looked is not None and not single:
        raise ConfigError("looked holds the indicators of one instrument; leave it out where there are more")
    first = next(iter(chosen.values()))
    if lane == "array" and not (single and first.elementwise):
        why = "it has a decide of its own" if single else "many instruments share one book"
        raise ConfigError(f"the array lane cannot do this: {why}; use lane='event' or 'auto'")
    rows: Sequence[Floats] | None = None
    used = "event"
    try:
        for symbol, each in chosen.items():
            if told := obstacle(each, columns[symbol], limits, len(bars.columns), alone=single):
                raise OutOfLane(f"{each.name} on {symbol}: {told}")
        if lane != "event" and single and first.elementwise:
            with suppress(*([NotElementwise] if lane == "auto" else [])):
                rows, noes = _array(first, next(iter(columns.values())), terms_of[0], units, compiled, looked)
                used = "array"
        if rows is None:
            rows, noes = _events(list(chosen.values()), list(columns.values()), terms_of, units, limits, looked)
    except OutOfLane:
        if lane != "auto" or not single or sized_at != "decision":
            raise
        from agentfund.backtest.cycle import by_cycle  # imports the whole fund

        return by_cycle(first, next(iter(chosen)), bars, broker, sizing, limits, described)
    more = {"described": described, "lane": used, "fingerprint": bars.fingerprint}
    return _result(rows, noes, columns, terms_of, float(cash), units, **more)


KNOWN = frozenset(
    {
        "symbols",
        "restricted",
        "allow_short",
        "max_quote_age_s",
        "max_order_pct",
        "max_position_pct",
        "max_leverage",
        "max_positions",
        "max_open_orders",
        "max_orders_per_hour",
        "max_daily_loss_pct",
        "max_drawdown_pct",
        "require_stop",
        "max_stop_pct",
        "duplicate_window_s",
        "max_decision_age_s",
        "max_critical_per_day",
        "collar_pct",
        # Asked for in live trading alone.
        "require_hours",
        "require_status",
        "require_quote",
        "max_volume_pct",
        "max_spread_pct",
        "max_jump_pct",
        "haircut_pct",
        "max_margin_pct",
        "max_risk_pct",
    }
)
"""Limits that the fast lanes hold, or that a simulation never meets."""
_UNKNOWN = [(each.name, each.default) for each in fields(Limits) if each.name not in KNOWN]


def obstacle(strategy: Strategy, columns: Columns, limits: Limits, instruments: int = 1, *, alone: bool = True) -> str:
    """Return why only the fund's own cycle can run this, empty where the fast lanes can.

    Args:
        strategy: the strategy.
        columns: what it trades.
        limits: hard limits.
        instruments: how many the bars hold.
        alone: whether it is the only strategy; many on one book have their orders an hour counted.
    """
    symbol = columns.instrument.symbol
    if any(getattr(type(strategy), name) is not getattr(Strategy, name) for name in ("run", "rule", "due")):
        return "it answers by a rule of its own"
    if instruments > 1 and strategy.every != 1:
        return "it is asked at every so many moments of all instruments"
    if (columns.start[1:] < columns.ends[:-1]).any():
        return "its bars overlap, so the next one may begin before a decision is made"
    if symbol in limits.restricted or (limits.symbols and symbol not in limits.symbols):
        return "the limits do not allow this instrument"
    if other := [name for name, default in _UNKNOWN if getattr(limits, name) != default]:
        return f"only the fund's own cycle knows {', '.join(other)}"
    if limits.max_risk_pct < limits.max_order_pct * strategy.stop_pct / 100:
        return "only the fund's own cycle knows what is lost when a stop is hit"
    interval = columns.interval
    if columns.end is not None and len(columns) > 1:
        interval = timedelta(microseconds=int(np.diff(columns.ends).min()))
    if interval * limits.max_orders_per_hour < timedelta(hours=1) and alone:
        return f"more than {limits.max_orders_per_hour} bars an hour may pass the limit of orders an hour"
    if interval < timedelta(seconds=limits.duplicate_window_s):
        return "bars are shorter than the window in which equal orders are duplicates"
    return ""


def _by_symbol(strategy: Strategy | Mapping[str, Strategy], bars: Bars) -> dict[str, Strategy]:
    if isinstance(strategy, Strategy):
        wanted = [strategy.symbol] if strategy.symbol else list(bars.columns)
        given: Mapping[str, Strategy] = dict.fromkeys(wanted, strategy)
    else:
        given = strategy
    for symbol, each in given.items():
        if symbol not in bars.columns:
            raise ConfigError(f"there are no bars of {symbol!r}; there is {', '.join(bars.columns)}")
        if not isinstance(each, Strategy):
            raise ConfigError(f"{symbol}: {each!r} is no strategy; agents that are none run in a Backtest")
        if each.symbol not in ("", symbol):
            raise ConfigError(
                f"the strategy given for {symbol} trades {each.symbol}: leave out its symbol=, or give it for {each.symbol}"
            )
    if not given:
        raise ConfigError("there is no strategy to run")
    if len(given) > 1 and len({bars.columns[symbol].instrument.currency for symbol in given}) > 1:
        raise ConfigError("instruments on one book must have one currency; run them apart, and mix the results")
    return {symbol: given[symbol] for symbol in bars.columns if symbol in given}


def _array(
    strategy: Strategy, columns: Columns, t: Terms, units: float, compiled: bool | None, looked: Mapping[str, Any] | None
) -> tuple[Sequence[Floats], Ints]:
    fast, own = machine.choose(compiled, len(columns)), ours(strategy)
    found = signals(strategy, columns, looked_at(strategy, columns, fast) if looked is None else looked, own)
    if looked is None and not own:
        from agentfund.backtest.audits.signals import causal

        causal(strategy, columns)
    sign = 1.0 if strategy.direction is Direction.LONG else -1.0
    against, favour = (columns.low, columns.high) if sign > 0 else (-columns.high, -columns.low)
    dated = t.max_daily_loss_pct < 100.0
    days = events.day_starts(bar_ends(columns))[0] if dated else np.empty(0, np.int64)
    m = int(np.count_nonzero(found.enter))
    prices = (columns.open, against, favour, columns.close, columns.volume, days, found.stops, found.targets)
    out, refused, codes = np.empty((_FIELDS, m)), np.empty(m, np.int64), np.empty(m, np.int64)
    if fast:
        how, bar, trades, count = _compiled_walk(
            found.enter, found.leave, *map(np.ascontiguousarray, prices), sign, units, t, out, refused, codes
        )
    else:
        # Prices are looked up rarely: to turn all of them into Python objects would cost more.
        marks = (found.enter.tobytes(), found.leave.tobytes())
        lists = [np.ascontiguousarray(each).data for each in prices]
        filled = ([row.data for row in out], refused.data, codes.data)
        how, bar, trades, count = _plain_walk(*marks, *lists, sign, units, slotted(t), *filled)
    _complain(how, bar, columns)
    noes = np.array([np.zeros(count), refused[:count], codes[:count]], dtype=np.int64)
    made = out[:, :trades]
    decided = made[0].astype(np.int64)
    distances = (found.stop_at(decided), found.target_at(decided))
    return (np.zeros(trades), *made[:3], np.full(trades, sign), *made[3:], *distances), noes


def _events(
    strategies: list[Strategy],
    columns: list[Columns],
    t: list[Terms],
    units: float,
    limits: Limits,
    looked: Mapping[str, Any] | None,
) -> tuple[Sequence[Floats], Ints]:
    t = [slotted(each) for each in t]
    book = events.Book(units, t[0].mark)
    for each in strategies:
        each.reset()
    seen = [looked_at(s, c) if looked is None else looked for s, c in zip(strategies, columns, strict=True)]
    if len(strategies) == 1:
        how, bar = events.one(strategies[0], columns[0], seen[0], t[0], book)
    else:
        how, bar = events.many(strategies, columns, seen, t, book, limits)
    _complain(how, bar, columns[0])
    rows = np.frombuffer(book.rows) if book.rows else np.empty(0)
    return tuple(np.ascontiguousarray(rows.reshape(-1, events.ROW).T)), np.array(book.noes, dtype=np.int64).reshape(-1, 3).T


def _complain(how: int, bar: int, columns: Columns) -> None:
    """Raise where a walk had to stop."""
    if how == DONE:
        return
    where = f"{columns.instrument.symbol}, bar {bar} ({from_micros(columns.start[bar]).isoformat()})"
    if how == IN_PARTS:
        raise OutOfLane(
            f"{where}: an order is larger than the share of the bar's volume that it may take, so it fills in parts."
            " Use Backtest, trade less, or PaperBroker(max_volume_pct=...)"
        )
    raise OutOfLane(f"{where}: the broker's leverage would cut an order. Use Backtest, or PaperBroker(max_leverage=...)")


def _result(
    rows: Sequence[Floats],
    noes: Ints,
    columns: Mapping[str, Columns],
    t: Sequence[Terms],
    cash: float,
    units: float,
    **more: Any,
) -> Result:
    """Turn whole steps into money, and lay the fills onto the clock of all instruments."""
    which = rows[0].astype(np.int64)
    decided, began, ended = (each.astype(np.int64) for each in rows[1:4])
    sign, lots, ticks_in, ticks_out, fee_in, fee_out, kind, stop_pct, target_pct = rows[4:]
    series = list(columns.values())
    ends, unit = time_axis(columns), t[0].unit
    per_tick, per_lot, deal = (np.array([getattr(each, name) for each in t]) for name in ("per_tick", "per_lot", "deal"))
    order: Any = slice(None)  # as it is
    rows_in, rows_out = began, ended
    if len(series) > 1:
        per_tick, per_lot, deal = per_tick[which], per_lot[which], deal[which]
        closes = [bar_ends(each) for each in series]
        rows_in, rows_out = (
            ends.searchsorted(np.array([closes[i][b] for i, b in zip(which, bars, strict=True)], dtype=np.int64))
            for bars in (began, ended)
        )
        order = np.lexsort((which, rows_in))
    exit_price = ticks_out / per_tick
    still = kind == OPEN
    for at in np.flatnonzero(still):
        exit_price[at] = series[which[at]].close[-1]
    paid_in = -(sign * lots * ticks_in * deal + fee_in)
    flows = Flows(
        np.concatenate([rows_in, rows_out[~still]]),
        np.concatenate([paid_in, (sign * lots * ticks_out * deal - fee_out)[~still]]),
        units,
        unit,
    )
    trades = Trades(
        symbol=which[order],
        decided=decided[order],
        entry_bar=began[order],
        exit_bar=ended[order],
        sign=sign[order],
        quantity=(lots / per_lot)[order],
        entry_price=(ticks_in / per_tick)[order],
        exit_price=exit_price[order],
        entry_fee=(fee_in / unit)[order],
        exit_fee=(fee_out / unit)[order],
        exit=kind.astype(np.int64)[order],
        stop_pct=stop_pct[order],
        target_pct=target_pct[order],
    )
    return Result(columns=columns, cash=cash, ends=ends, trades=trades, flows=flows, refusals=noes, **more)
