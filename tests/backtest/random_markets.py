"""Random markets, strategies, costs and limits, from a number."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund import PaperBroker
from agentfund.core.gate import Limits
from agentfund.core.sizing import Sizing
from agentfund.feeds import Bars
from agentfund.market import Columns, Instrument
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy
from agentfund.trading import Costs, Direction

if TYPE_CHECKING:
    from agentfund.market import Floats


class ShortCross(SmaCross):
    """The mirror of the cross."""

    direction = Direction.SHORT

    def enter(self, now: Any) -> Any:
        return (now.fast < now.slow) & (now.close < now.fast)

    def leave(self, now: Any) -> Any:
        return (now.fast >= now.slow) | (now.close >= now.fast)


class ByRange(DonchianBreakout):
    """Its stop and target follow from the channel."""

    def stop(self, now: Any) -> Any:
        return (now.close - now.channel.lower) / now.close * 100

    def target(self, now: Any) -> Any:
        return 1.5 * self.stop(now)


@dataclass(frozen=True)
class Case:
    """A run, all of it."""

    strategy: Strategy
    bars: Bars
    broker: PaperBroker
    sizing: Sizing
    limits: Limits


def case(seed: int) -> Case:
    """Return the run of a number."""
    r = random.Random(seed)
    fast = r.randint(1, 6)
    slow = fast + r.randint(1, 10)
    low = r.randint(0, 15)
    stops: dict[str, Any] = {"stop_pct": r.choice([0.5, 1, 2, 5]), "target_pct": r.choice([None, 0.5, 2, 4])}
    strategy: Strategy = r.choice(
        [
            SmaCross(fast, slow, **stops),
            ShortCross(fast, slow, **stops),
            RsiReversion(fast + 1, 30 + low, 55 + low, **stops),
            DonchianBreakout(slow, **stops),
            ByRange(slow, **stops),
        ]
    )
    strategy.every = r.choice([1, 1, 1, 3])
    costs = Costs(
        commission_bps=r.choice([0, 1, 10]),
        commission_min=r.choice([0, 0, 1.5]),
        half_spread_bps=r.choice([0, 1]),
        slippage_bps=r.choice([0, 2.5]),
    )
    sizing = Sizing(risk_pct=r.choice([0.5, 1, 2]), max_leverage=r.choice([0.5, 1]), headroom_pct=r.choice([2, 5, 0]))
    limits = Limits(
        allow_short=r.random() < 0.9, max_daily_loss_pct=r.choice([1, 3, 50]), max_drawdown_pct=r.choice([3, 20, 90])
    )
    return Case(strategy, market(r), PaperBroker(r.choice([10_000, 100_000, 12_345.67]), costs=costs), sizing, limits)


def market(r: random.Random, symbol: str = "RND", bars: int = 0) -> Bars:
    """Return a random walk, most of the time on the tick."""
    count = bars or r.choice([40, 60, 90])
    instrument = Instrument(
        symbol,
        Decimal(r.choice(["0.01", "0.01", "0.05", "0.0001", "0.25", "1"])),
        Decimal(r.choice(["0.0001", "1", "0.01", "1e-6"])),
    )
    noise, spread = np.random.default_rng(r.randrange(2**32)), r.choice([0.002, 0.01, 0.03])
    close = r.choice([20, 100, 5000]) * np.exp(np.cumsum(noise.normal(0, spread, count)))
    opens = np.append(close[0], close[:-1]) * np.exp(noise.normal(0, spread / 3, count))
    high = np.maximum(opens, close) * np.exp(np.abs(noise.normal(0, spread / 2, count)))
    low = np.minimum(opens, close) * np.exp(-np.abs(noise.normal(0, spread / 2, count)))
    if r.random() < 0.7:
        opens, high, low, close = (_on_tick(each, instrument) for each in (opens, high, low, close))
    interval = r.choice([timedelta(minutes=5), timedelta(hours=1), timedelta(hours=4), timedelta(days=1)])
    start = 1_600_000_200_000_000 + np.arange(count, dtype=np.int64) * (interval // timedelta(microseconds=1))
    high, low = np.maximum(high, np.maximum(opens, close)), np.minimum(low, np.minimum(opens, close))
    return Bars(Columns(instrument, interval, start, opens, high, low, close, np.zeros(count)), source="a random walk")


def _on_tick(prices: Floats, instrument: Instrument) -> Floats:
    return np.array([float(max(instrument.round_price(float(price)), instrument.tick_size)) for price in prices])
