"""Feeds and brokers by the names that a command line gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfund.clock import SystemClock
from agentfund.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.hours import Hours
    from agentfund.protocols import Broker, Clock, Feed

FEEDS = "agentfund.feeds"
BROKERS = "agentfund.brokers"
YEAR = timedelta(days=366)
MAX_SKEW = timedelta(seconds=5)
MOST_SPEED = 1e6
"""A recording as fast as it can does not fall behind itself."""
OTHERS = ("files", "masked", "simulated")
"""Entry points that are no sources of live data."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A feed, and the clock that goes with it.

    Args:
        feed: live data.
        clock: the machine's, or that of a recording.
        real: whether it is a market of this moment, and no recording.
    """

    feed: Feed
    clock: Clock
    real: bool


def open_feed(name: str, symbols: Sequence[str], *, bar_minutes: float, back: int, data: Path | None, speed: float) -> Opened:
    """Return a live feed.

    Args:
        name: `recorded` (with a file), the name of a source such as `binance`, or `file.py:make`, which is given the symbols
            and returns a feed or a source.
        symbols: what to subscribe to.
        bar_minutes: length of a bar.
        back: bars of history at the beginning.
        data: the file of a recording: ticks, or bars.
        speed: how many times as fast as in life a recording runs; 0 for as fast as it can.

    Raises:
        ConfigError: there is no such feed, or it cannot be opened with what was given.
    """
    interval = timedelta(minutes=bar_minutes)
    if name == "recorded":
        return _recorded(symbols, interval, back, data, math.inf if speed == 0 else speed)
    if data is not None:
        raise ConfigError("--data is the file of a recording: say --feed recorded")
    if not symbols:
        raise ConfigError(f"--symbols is empty: say what to subscribe to at {name}, such as --symbols BTC/USDT")
    from agentfund.feeds.live import Live

    if ":" in name:
        from agentfund.backtest.audits.command import load, ran

        made = ran(load(name), f"--feed {name}")(list(symbols))
    else:
        found = {point.name: point for point in entry_points(group=FEEDS) if point.name not in OTHERS}
        if name not in found:
            raise ConfigError(f"--feed {name}: there is recorded, {', '.join(sorted(found))}, or file.py:name")
        crypto = any("/" in symbol for symbol in symbols)
        more: dict[str, Any] = {"interval": interval, "crypto": crypto} if name == "alpaca" else {}
        made = found[name].load()(list(symbols), **more)
    if hasattr(made, "connect"):
        made = Live(made, interval=interval, back=back)
    if not hasattr(made, "stream"):
        raise ConfigError(f"--feed {name} gives {type(made).__name__}, which is no feed and no source")
    return Opened(made, SystemClock(), True)


def _recorded(symbols: Sequence[str], interval: timedelta, back: int, data: Path | None, speed: float) -> Opened:
    from agentfund.errors import BadData
    from agentfund.feeds.history import Bars
    from agentfund.feeds.live import Live
    from agentfund.feeds.recorded import Recorded

    if data is None or not data.is_file():
        raise ConfigError(f"--feed recorded needs --data FILE, a file of ticks or bars, not {data}")
    symbol = symbols[0] if symbols else data.name.partition(".")[0].partition("_")[0]
    try:
        source = Recorded.ticks(data, symbol, speed=speed)
    except BadData as no_ticks:
        try:
            bars = Bars.from_file(data, symbol)
        except BadData as no_bars:
            raise ConfigError(f"{data} holds neither ticks ({no_ticks}) nor bars ({no_bars})") from None
        columns = bars.columns[symbol]
        # What is told at first is history, so that the fund begins with a window.
        first = min(back, max(len(columns) // 10, 1))
        start = datetime.fromtimestamp(int(columns.ends[first - 1]) / 1e6, UTC) if len(columns) > first else None
        source = Recorded(bars, start=start, speed=speed)
    # A busy machine falls behind by its own seconds, which are `speed` as many of the recording's.
    skew = MAX_SKEW * min(max(1.0, speed), MOST_SPEED)
    return Opened(Live(source, interval=interval, back=back, max_skew=skew, clock=source.clock), source.clock, False)


def open_broker(name: str, symbols: Sequence[str], *, real: bool) -> Broker:
    """Return a broker.

    Args:
        name: `alpaca`, `ccxt:binance` and the like, or `file.py:make`, which is given the symbols and returns a broker.
        symbols: what is traded.
        real: real money; otherwise the broker's own paper account or sandbox.

    Raises:
        ConfigError: there is no such broker, or its keys are missing.
    """
    if name == "alpaca":
        from agentfund.brokers.alpaca import Alpaca

        return Alpaca(paper=not real, crypto=any("/" in symbol for symbol in symbols))
    kind, _, rest = name.partition(":")
    if kind == "ccxt":
        from agentfund.brokers.ccxt import Ccxt
        from agentfund.execution.protected import Protected

        return Protected(Ccxt(rest, list(symbols), sandbox=not real))
    if rest:
        from agentfund.backtest.audits.command import load, ran

        made: Any = ran(load(name), f"--broker {name}")(list(symbols))
        if not hasattr(made, "submit"):
            raise ConfigError(f"--broker {name} gives {type(made).__name__}, which is no broker")
        return made  # type: ignore[no-any-return]
    found = {point.name for point in entry_points(group=BROKERS)} - {"paper"}
    if name in found:
        raise ConfigError(f"--broker {name} needs more than a name: write a function that makes it, --broker my.py:{name}")
    raise ConfigError(f"--broker {name}: there is alpaca, ccxt:EXCHANGE, or file.py:name")


def open_hours(calendar: str, clock: Clock) -> Hours | None:
    """Return the opening hours of a calendar from today to a year ahead, None where none is named.

    Raises:
        ConfigError: there is no such calendar.
        MissingExtra: its package is not installed.
    """
    if not calendar:
        return None
    from agentfund.feeds.calendars import hours

    today: date = clock.now().date()
    return hours(calendar, today - timedelta(days=7), today + YEAR)
