"""Markets and funds that the tests are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from agentfund import Agent, Direction, Limits, MemoryBus, Orchestrator, PaperBroker, Proposal, Verdict, View, agent
from agentfund.clock import to_micros
from agentfund.core.limits import OFF
from agentfund.core.permission import UNWATCHED
from agentfund.feeds import Bars
from agentfund.market import Columns, Instrument, Market, Window

START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)


def bars(close: Sequence[float], *, symbol: str = "SIM", spread: float = 0.5, minutes: int = 15) -> Bars:
    """Return a feed whose closes are given; each bar opens at the close before it and reaches `spread` beyond both."""
    closes = np.array(close, dtype=np.float64)
    opens = np.concatenate([closes[:1], closes[:-1]])
    interval = timedelta(minutes=minutes)
    start = to_micros(START) + np.arange(len(closes), dtype=np.int64) * (interval // timedelta(microseconds=1))
    high, low = np.maximum(opens, closes) + spread, np.minimum(opens, closes) - spread
    columns = Columns(Instrument(symbol), interval, start, opens, high, low, closes, np.zeros(len(closes)))
    return Bars({symbol: columns}, source="made for a test")


def last(feed: Bars) -> Market:
    """Return the market at the end of a feed."""
    windows = {symbol: Window(columns, len(columns)) for symbol, columns in feed.columns.items()}
    return Market(max(window.now for window in windows.values()), windows, tuple(windows))


def wave(count: int, *, seed: int = 1, drift: float = 0.0002) -> list[float]:
    """Return `count` prices of a random walk, to the cent."""
    steps = np.random.default_rng(seed).normal(drift, 0.004, count)
    return [round(float(price), 2) for price in 100 * np.exp(np.cumsum(steps))]


@agent
def buyer(context: Any) -> Proposal | None:
    """Propose to be long on every fifth bar."""
    if context.state.cycle % 5:
        return None
    return Proposal(direction=Direction.LONG, thesis="it is the fifth bar", stop_pct=2.0, target_pct=4.0)


@agent(reads=(Proposal,))
def yes(context: Any) -> Verdict:
    """Approve everything."""
    return Verdict(approved=True, reason="why not")


@agent(reads=(Proposal,), name="no", veto=True)
def no(context: Any) -> Verdict:
    """Veto everything."""
    return Verdict(approved=False, reason="not today")


@agent(when=(Proposal,), name="blind")
def blind(context: Any) -> View:
    """Would always be long."""
    return View(direction=Direction.LONG)


def fund(*agents: Agent[Any], bus: Any = None, **options: Any) -> Orchestrator:
    """Return a fund of these agents, autonomous and in memory unless said otherwise."""
    options.setdefault("mode", "autonomous")
    options.setdefault("permission", UNWATCHED)
    options.setdefault("settle", timedelta(0))
    # Bars are all that these markets have.
    options["limits"] = replace(options.get("limits") or Limits(), require_hours=False, require_quote=False, max_volume_pct=OFF)
    return Orchestrator(list(agents) or [buyer, yes, blind], bus=bus or MemoryBus(), **options)


def broker(cash: int = 100_000, **options: Any) -> PaperBroker:
    """Return a paper broker."""
    return PaperBroker(cash=Decimal(cash), **options)
