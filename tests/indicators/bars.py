"""What the tests of indicators share: bars of many kinds, and one of every indicator."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from agentfund.indicators import (
    ADX,
    ATR,
    EMA,
    MACD,
    RSI,
    SMA,
    AnyIndicator,
    Bollinger,
    Donchian,
    Lag,
    Price,
    RealisedVol,
    ZScore,
)
from agentfund.market import Bar, Columns, Instrument, Window

if TYPE_CHECKING:
    from agentfund.market import Floats

MAKERS: dict[str, Callable[[int], AnyIndicator]] = {
    "SMA": SMA,
    "EMA": EMA,
    "RSI": RSI,
    "ATR": ATR,
    "Donchian": Donchian,
    "MACD": lambda n: MACD(n, n + 3, max(1, n // 2)),
    "Bollinger": lambda n: Bollinger(n + 1, 1.5),
    "ADX": ADX,
    "RealisedVol": lambda n: RealisedVol(n + 1, 252),
    "ZScore": lambda n: ZScore(n + 1),
    "Price": lambda n: Price("high"),
    "Lag of SMA": lambda n: Lag(SMA(n, of="volume"), n),
    "Lag of Donchian": lambda n: Lag(Donchian(n)),
}


def columns_of(close: Any, open: Any = None, high: Any = None, low: Any = None, volume: Any = None) -> Columns:
    """Make columns; what is not given follows from the closes."""
    close = np.asarray(close, dtype=np.float64)
    opened = close if open is None else np.asarray(open, dtype=np.float64)
    return Columns(
        Instrument("X"),
        timedelta(minutes=5),
        np.arange(len(close), dtype=np.int64) * 300_000_000,
        opened,
        np.maximum(opened, close) if high is None else np.asarray(high, dtype=np.float64),
        np.minimum(opened, close) if low is None else np.asarray(low, dtype=np.float64),
        close,
        np.ones(len(close)) if volume is None else np.asarray(volume, dtype=np.float64),
    )


def walk(bars: int, seed: int = 1) -> Columns:
    """Make a random walk with highs and lows beyond open and close."""
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, bars)))
    opened = np.concatenate([[100.0], close[:-1]])
    high = np.maximum(opened, close) * (1 + np.abs(random.normal(0, 0.005, bars)))
    low = np.minimum(opened, close) * (1 - np.abs(random.normal(0, 0.005, bars)))
    return columns_of(close, opened, high, low, random.integers(0, 1000, bars))


def bars_of(columns: Columns) -> list[Bar]:
    """Give the bars one by one, as a feed does."""
    window = Window(columns, len(columns))
    return [window.bar(i) for i in range(len(columns))]


def first(columns: Columns, count: int) -> Columns:
    """Cut everything after the first `count` bars."""
    names = ("start", "open", "high", "low", "close", "volume")
    return Columns(columns.instrument, columns.interval, *(getattr(columns, name)[:count] for name in names))


def rows(found: Any) -> Floats:
    """Lay what an indicator gives side by side: one row for each of its fields."""
    return np.atleast_2d(np.asarray(found, dtype=np.float64))


def one_by_one(indicator: AnyIndicator, columns: Columns) -> Floats:
    """Send bar after bar, and lay the answers out as `rows` does."""
    answers = [np.atleast_1d(np.asarray(indicator.update(bar))) for bar in bars_of(columns)]
    return np.array(answers, dtype=np.float64).T


def same_bits(a: Floats, b: Floats) -> bool:
    """Compare with every bit, but for which NaN a NaN is."""
    known = ~np.isnan(a)
    return a.shape == b.shape and np.array_equal(known, ~np.isnan(b)) and a[known].tobytes() == b[known].tobytes()


PRICE = st.one_of(
    st.floats(min_value=1.0, max_value=1000.0),
    st.sampled_from([1.0, 0.1, 100.0, 5e-324, 1e-300, 1e-9, 1e9, 1e300, 1.7e308]),
)


@st.composite
def any_columns(draw: st.DrawFn) -> Columns:
    """Draw bars: smooth, flat for a while, with gaps, huge and tiny."""
    size = draw(st.integers(1, 60))
    if draw(st.booleans()):
        price = draw(PRICE)
        steps = draw(st.lists(st.sampled_from([1.0, 1.0, 1.0, 1.01, 0.99, 2.0, 0.5]), min_size=size, max_size=size))
        closes = [min(max(price * float(np.prod(steps[: i + 1])), 5e-324), 1.7e308) for i in range(size)]
    else:
        closes = draw(st.lists(PRICE, min_size=size, max_size=size))
    opens = draw(st.lists(st.sampled_from(closes), min_size=size, max_size=size)) if draw(st.booleans()) else closes
    volumes = draw(st.lists(st.floats(0, 1e12), min_size=size, max_size=size))
    return columns_of(closes, opens, volume=volumes)
