"""Strategies that look at nothing but the past, as many as one likes: kinds, parameters and conditions by seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from agentfund import Direction, MemoryBus, Orchestrator
from agentfund.feeds import Bars
from agentfund.feeds.facts import Facts
from agentfund.indicators import ADX, ATR, EMA, MACD, RSI, SMA, Bollinger, Donchian, Lag, Price, RealisedVol, ZScore
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross, Strategy
from tests.backtest.audits.leaks import data
from tests.backtest.audits.leaks.agents import Rule, yes
from tests.backtest.audits.leaks.data import closes, frame, only
from tests.backtest.audits.leaks.planted import Make, Planted
from tests.backtest.audits.leaks.series import above

Rng = np.random.Generator
BARS = 160


def _line(rng: Rng) -> Any:
    """Return an indicator that gives one number near the price."""
    n = int(rng.integers(3, 40))
    kinds: list[Callable[[], Any]] = [
        lambda: SMA(n),
        lambda: EMA(n),
        lambda: Lag(Price("close"), n),
        lambda: Lag(SMA(n), 3),
        lambda: SMA(n, of="high"),
        lambda: EMA(n, of="low"),
    ]
    return kinds[int(rng.integers(len(kinds)))]()


class Composed(Strategy):
    """Conditions put together of random indicators; the same line is one decision and all of them."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.seed = seed
        rng = np.random.default_rng(seed)
        self._n = int(rng.integers(5, 25))
        self._lines = {"one": _line(rng), "two": _line(rng)}
        self._level = float(rng.uniform(35, 65))
        self._kind = int(rng.integers(6))

    def indicators(self) -> Any:
        n = self._n
        more: list[dict[str, Any]] = [
            {"more": RSI(n)},
            {"more": Bollinger(n, 2.0)},
            {"more": Donchian(n), "before": Lag(Donchian(n))},
            {"more": ATR(n), "usual": Lag(ATR(n), 5)},
            {"more": MACD()},
            {"more": ADX(n), "scored": ZScore(n), "moved": RealisedVol(n, bars_per_year=6552.0)},
        ]
        return self._lines | more[self._kind]

    def enter(self, now: Any) -> Any:
        base = now.close > now.one
        return [
            lambda: base & (now.more > self._level),
            lambda: base & (now.close > now.more.middle),
            lambda: base & (now.close > now.before.upper * 0.999),
            lambda: base & (now.more > now.usual),
            lambda: base | (now.volume > 10_000),
            lambda: base & (now.scored > -1.0) & (now.moved > 0.0),
        ][self._kind]()

    def leave(self, now: Any) -> Any:
        return (now.close < now.two) & (now.open >= now.low)


class Patient(SmaCross):
    """Counts the bars since its last trade: it must be asked bar by bar."""

    def __init__(self, rest: int, **options: Any) -> None:
        super().__init__(**options)
        self.rest = rest
        self._since = 0

    def reset(self) -> None:
        self._since = 0

    def decide(self, now: Any, held: bool) -> Direction | None:
        self._since += 1
        if self._since < self.rest:
            return None
        wanted = super().decide(now, held)
        if wanted is not None:
            self._since = 0
        return wanted


def shipped(rng: Rng) -> Make:
    kind, n = int(rng.integers(3)), int(rng.integers(3, 15))
    made: Callable[[], Strategy] = [
        lambda: SmaCross(n, 3 * n),
        lambda: RsiReversion(n, below=40.0),
        lambda: DonchianBreakout(n),
    ][kind]
    return lambda _: made()


def composed(rng: Rng) -> Make:
    seed = int(rng.integers(10**6))
    return lambda bars: Composed(seed)


def patient(rng: Rng) -> Make:
    rest, n = int(rng.integers(2, 9)), int(rng.integers(2, 6))
    return lambda bars: Patient(rest, fast=n, slow=3 * n)


def windows(rng: Rng) -> Make:
    n, m, name = int(rng.integers(2, 20)), int(rng.integers(20, 50)), str(rng.choice(["mean", "median", "max", "min", "std"]))
    weight = float(rng.uniform(0.9, 1.1))

    def make(bars: Bars) -> Any:
        f = frame(bars)
        long = getattr(f["close"].rolling(m), name)() * (weight if name != "std" else 60.0)
        return above(f["close"].ewm(span=n).mean(), long) - above(f["volume"], f["volume"].rolling(n).quantile(0.8).shift(1))

    return make


def sizes(rng: Rng) -> Make:
    """Sizes as floats, which must be the same to the last bit."""
    n, kind = int(rng.integers(5, 40)), int(rng.integers(4))

    def make(bars: Bars) -> Any:
        close = only(bars).close
        change = np.diff(np.log(close), prepend=np.log(close[:1]))
        weights = np.exp(-np.arange(n) / n)
        kinds: list[Callable[[], Any]] = [
            lambda: np.convolve(change, weights)[: len(change)],
            lambda: np.cumsum(change * change) / np.arange(1, len(change) + 1),
            lambda: 0.01 / pd.Series(change).rolling(n).std().to_numpy(),
            lambda: pd.Series(change).ewm(halflife=n).std().to_numpy(),
        ]
        return kinds[kind]()

    return make


def machine(rng: Rng) -> Make:
    """A trailing stop and a threshold with two levels: what it holds depends on all that was."""
    stop, enter = float(rng.uniform(0.002, 0.01)), float(rng.uniform(0.0005, 0.003))

    def make(bars: Bars) -> Any:
        held, peak, low, wanted = False, 0.0, np.inf, []
        for price in only(bars).close.tolist():
            low, peak = min(low, price), max(peak, price)
            if held and price < peak * (1 - stop):
                held, low = False, price
            elif not held and price > low * (1 + enter):
                held, peak = True, price
            wanted.append(float(held))
        return np.array(wanted)

    return make


def dice(rng: Rng) -> Make:
    seed, mixed = int(rng.integers(10**6)), bool(rng.integers(2))

    def make(bars: Bars) -> Any:
        own = np.random.default_rng(seed)
        close = only(bars).close
        rolls = np.array([own.random() for _ in close])
        return above(rolls, 0.5) if not mixed else above(rolls, 0.5) * above(close, np.append(close[:1], close[:-1]))

    return make


def calendar(rng: Rng) -> Make:
    hour, day = int(rng.integers(14, 20)), int(rng.integers(5))

    def make(bars: Bars) -> Any:
        index: Any = frame(bars).index
        return np.where((index.hour == hour) | (index.day_of_week == day), 1.0, 0.0)

    return make


def longer(rng: Rng) -> Make:
    rule, n = str(rng.choice(["1h", "2h", "1D"])), int(rng.integers(2, 5))

    def make(bars: Bars) -> Any:
        close = frame(bars)["close"]
        slow = close.resample(rule, label="right", closed="right").last().dropna().rolling(n).mean()
        return above(close, slow[slow.index <= close.index[-1]].reindex(close.index, method="ffill"))

    return make


def refitted(rng: Rng) -> Make:
    every, warm, quantile = int(rng.integers(10, 40)), int(rng.integers(30, 60)), float(rng.uniform(0.3, 0.7))

    def make(bars: Bars) -> Any:
        change = frame(bars)["close"].pct_change().fillna(0.0).to_numpy()
        wanted = np.zeros(len(change))
        for at in range(warm, len(change), every):
            past = change[: at + 1]
            slope = float(past[1:] @ past[:-1]) / max(float(past[:-1] @ past[:-1]), 1e-12)
            level = float(np.quantile(past, quantile))
            wanted[at : at + every] = above(slope * change[at : at + every], slope * level)
        return wanted

    return make


def informed(rng: Rng) -> Make:
    """Reads facts from the time on at which they were known."""
    name, level, n = str(rng.choice(["news", "eps"])), float(rng.normal(0.3, 0.3)), int(rng.integers(1, 4))

    def make(bars: Bars, facts: Facts) -> Any:
        known = pd.Series(
            {fact.known_time: fact.value for fact in facts.records if fact.name == name}, dtype=float
        ).sort_index()
        return above(known.rolling(n).mean().reindex(frame(bars).index, method="ffill"), level)

    return make


def crosswise(rng: Rng) -> Make:
    n, kind = int(rng.integers(3, 30)), int(rng.integers(3))

    def make(bars: Bars) -> Any:
        table = closes(bars)
        if kind == 0:
            gain = table / table.shift(n) - 1
            wanted = (gain.rank(axis=1, ascending=False) <= 2).astype(float)
        elif kind == 1:
            wanted = table.gt(table.rolling(n).mean()).mul(table.pct_change().gt(0).mean(axis=1) > 0.5, axis=0).astype(float)
        else:
            spread = table["AAA"] / table["BBB"]
            score = np.sign(spread.rolling(n).mean() - spread).fillna(0.0)
            wanted = pd.DataFrame({"AAA": score, "BBB": -score})
        return {symbol: wanted[symbol].reindex(frame(bars, symbol).index) for symbol in wanted.columns}

    return make


def at_the_open(rng: Rng) -> Make:
    n, gap = int(rng.integers(3, 30)), float(rng.uniform(0.998, 1.002))

    def make(bars: Bars) -> Any:
        f = frame(bars)
        return above(f["open"], gap * f["close"].rolling(n).mean().shift(1))

    return make


def asked(rng: Rng) -> Make:
    """Agents that look at their window, at facts that are known, and at what they remember of earlier bars."""
    n, level = int(rng.integers(3, 12)), float(rng.normal(0, 0.3))

    def make(bars: Bars, facts: Facts) -> Any:
        seen: list[float] = []

        def wants(context: Any) -> bool:
            seen.append(context.bars.price)
            fact = context.market.facts.latest("news")
            return seen[-1] > sum(seen[-n:]) / len(seen[-n:]) and (fact is None or fact.value > level)

        return Orchestrator([Rule(wants), yes], bus=MemoryBus())

    return make


def _market() -> Bars:
    return data.market(BARS, 11)


def _several() -> Bars:
    return data.several(BARS, 17)


def _facts() -> tuple[Bars, Facts]:
    return data.with_facts(BARS, 11)


def _asked() -> tuple[Bars, Facts]:
    bars, facts = data.with_facts(60, 13)
    return bars.with_facts(facts), facts


KINDS: tuple[tuple[Callable[[Rng], Make], Callable[[], Any], dict[str, Any]], ...] = (
    (windows, _market, {}),
    (composed, _market, {}),
    (sizes, _market, {}),
    (machine, _market, {}),
    (shipped, _market, {}),
    (dice, _market, {}),
    (longer, _market, {}),
    (refitted, _market, {}),
    (informed, _facts, {}),
    (crosswise, _several, {}),
    (at_the_open, _market, {"at": "open"}),
    (calendar, _market, {}),
    (composed, _market, {}),
    (windows, _market, {}),
    (patient, lambda: data.market(70, 11), {}),
    (asked, _asked, {}),
)


def honest(seed: int) -> Planted:
    """Return the strategy of a seed."""
    kind, on, options = KINDS[seed % len(KINDS)]
    rng = np.random.default_rng(seed)
    made = kind(rng)
    return Planted(f"{kind.__name__} {seed}", lambda _: made, on, (), lambda: dict(options))
