"""The markets and the facts that the planted leaks read: small, seeded, and plain."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from agentfund.clock import from_micros
from agentfund.feeds import Bars, SimulatedMarket
from agentfund.feeds.facts import Fact, Facts
from agentfund.market import Columns

SYMBOLS = ("AAA", "BBB", "CCC", "DDD")


@cache
def market(bars: int = 520, seed: int = 5) -> Bars:
    """One instrument, quarter hours of twenty days."""
    return SimulatedMarket(bars=bars, seed=seed)


@cache
def several(bars: int = 240, seed: int = 3) -> Bars:
    """Four instruments on one clock; the last one ends after two thirds: it was delisted."""
    found = {}
    for number, symbol in enumerate(SYMBOLS):
        each = next(
            iter(
                SimulatedMarket(
                    symbol, bars=bars, seed=seed + number, interval=timedelta(hours=1), sessions="24h"
                ).columns.values()
            )
        )
        found[symbol] = each if symbol != SYMBOLS[-1] else part(each, 2 * bars // 3)
    return Bars(found, source="made for a test")


def part(each: Columns, count: int) -> Columns:
    """Return the first bars."""
    rows: dict[str, Any] = {n: getattr(each, n)[:count] for n in ("start", "open", "high", "low", "close", "volume")}
    return replace(each, **rows)


@cache
def with_facts(bars: int = 520, seed: int = 5) -> tuple[Bars, Facts]:
    """One instrument, with headlines that become known hours after the event, and earnings that are revised days later."""
    feed = market(bars, seed)
    each = only(feed)
    rng = np.random.default_rng(seed)
    records = []
    for at in range(8, len(each), 7):
        happened = from_micros(int(each.start[at])) + timedelta(minutes=4)
        score = float(rng.normal())
        records.append(Fact("news", happened, happened + timedelta(hours=6, minutes=3), score))
    for at in range(5, len(each) - 1, 60):
        event = from_micros(int(each.start[at]))
        first = float(rng.normal(1.0, 0.5))
        known = event + timedelta(days=1)
        records.append(Fact("eps", event, known, first))
        records.append(Fact("eps", event, known + timedelta(days=4), first + float(rng.normal(0, 1.0)), revision=1))
    return feed, Facts(records)


def only(bars: Bars) -> Columns:
    """Return the columns of the first instrument."""
    return next(iter(bars.columns.values()))


def frame(bars: Bars, symbol: str = "") -> pd.DataFrame:
    """Return the bars as a frame, by the time at which each closes."""
    each = bars.columns[symbol] if symbol else only(bars)
    index = pd.to_datetime(each.ends, unit="us", utc=True)
    return pd.DataFrame({n: getattr(each, n) for n in ("open", "high", "low", "close", "volume")}, index=index)


def closes(bars: Bars) -> pd.DataFrame:
    """Return the closes of all instruments side by side."""
    return pd.DataFrame({symbol: frame(bars, symbol)["close"] for symbol in bars.columns})
