"""Leaks in agents, strategies, indicators and brokers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from agentfund import Abstain, Agent, Direction, MemoryBus, Orchestrator, PaperBroker, Proposal, Verdict, agent
from agentfund.clock import to_micros
from agentfund.feeds import Bars
from agentfund.indicators import SMA, Indicator
from agentfund.strategies import SmaCross, Strategy
from agentfund.trading import Fill
from tests.backtest.audits.leaks import data
from tests.backtest.audits.leaks.data import only
from tests.backtest.audits.leaks.planted import LEAKS, TWINS


def small() -> Bars:
    """Return fewer bars: a fund takes its time."""
    return data.market(110, 8)


def short() -> Bars:
    """Return fewer bars for a strategy, which is also run in a fund."""
    return data.market(250, 5)


@agent(reads=(Proposal,))
def yes(context: Any) -> Verdict:
    """Approve everything."""
    return Verdict(approved=True, reason="why not")


class Rule(Agent[Proposal]):
    """Proposes what a function of the context says: long, flat, or nothing."""

    def __init__(self, wants: Any) -> None:
        super().__init__()
        self.wants = wants

    def rule(self, context: Any) -> Proposal | Abstain:
        long = self.wants(context)
        held = context.portfolio.direction(context.bars.symbol) is Direction.LONG
        if bool(long) == held:
            return Abstain("nothing to change")
        return Proposal(direction=Direction.LONG if long else Direction.FLAT, thesis="a rule", stop_pct=3.0)


@LEAKS(small)
def look_behind_the_window(bars: Bars) -> Any:
    """The array of a window is a view of the whole: its base holds what follows."""

    def wants(context: Any) -> bool:
        window = context.bars.close
        return bool(window.base[len(window)] > window[-1])

    return [Rule(wants), yes]


@TWINS(small)
def look_at_the_window(bars: Bars) -> Any:
    return [Rule(lambda context: context.bars.close[-1] > context.bars.close[-5:].mean()), yes]


@LEAKS(small)
def signals_computed_before_the_run(bars: Bars) -> Any:
    c = only(bars)
    mean = float(c.close.mean())
    signal = dict(zip(c.ends.tolist(), (c.close < mean).tolist(), strict=True))
    return [Rule(lambda context: signal[to_micros(context.now)]), yes]


@TWINS(small)
def signals_computed_before_the_run_bar_by_bar(bars: Bars) -> Any:
    c = only(bars)
    mean = np.cumsum(c.close) / np.arange(1, len(c) + 1)
    signal = dict(zip(c.ends.tolist(), (c.close < mean).tolist(), strict=True))
    return [Rule(lambda context: signal[to_micros(context.now)]), yes]


@LEAKS(small)
def the_feed_kept_by_the_agent(bars: Bars) -> Any:
    def wants(context: Any) -> bool:
        whole = only(bars)
        now = len(context.bars)
        return now < len(whole) and bool(whole.close[now] > whole.close[now - 1])

    return [Rule(wants), yes]


@LEAKS(small)
def gate_that_knows_the_outcome(bars: Bars) -> Any:
    """The proposal is honest; the agent that judges it has seen how it ends."""
    c = only(bars)
    best = dict(zip(c.ends.tolist(), (np.append(c.close[4:], np.repeat(c.close[-1], 4)) > c.close).tolist(), strict=True))

    @agent(reads=(Proposal,), veto=True)
    def judge(context: Any) -> Verdict:
        return Verdict(approved=best[to_micros(context.now)], reason="it ends well or it does not")

    return Orchestrator([Rule(lambda context: len(context.bars) % 6 < 3), judge], bus=MemoryBus())


class Ahead(Indicator[float, Any]):
    """The close of the next bar, where whole arrays are given: off by one."""

    parameters: ClassVar[tuple[str, ...]] = ()
    nothing = float("nan")

    def __init__(self) -> None:
        self.reset()

    @property
    def warm_up(self) -> int:
        return 1

    def batch(self, columns: Any, compiled: bool | None = None) -> Any:
        return np.append(columns.close[1:], columns.close[-1])

    def _steps(self) -> Any:
        bar = yield float("nan")
        while True:
            bar = yield float(bar.close)


class Centred(Ahead):
    """A mean around each bar, where whole arrays are given."""

    def batch(self, columns: Any, compiled: bool | None = None) -> Any:
        return np.convolve(columns.close, np.ones(7) / 7, mode="same")


class Standing(Ahead):
    """How far the close stands from the mean of all bars."""

    def batch(self, columns: Any, compiled: bool | None = None) -> Any:
        return columns.close / columns.close.mean() - 1


class Uses(Strategy):
    """Long while the close is above an indicator."""

    def __init__(self, indicator: Any, **options: Any) -> None:
        super().__init__(**options)
        self._indicator = indicator

    def indicators(self) -> Any:
        return {"line": self._indicator}

    def enter(self, now: Any) -> Any:
        return now.close > now.line

    def leave(self, now: Any) -> Any:
        return now.close < now.line


@LEAKS()
def indicator_off_by_one(bars: Bars) -> Any:
    return Uses(Ahead())


@LEAKS()
def indicator_in_the_middle(bars: Bars) -> Any:
    return Uses(Centred())


@LEAKS()
def indicator_of_all_bars(bars: Bars) -> Any:
    return Uses(Standing())


@TWINS(short)
def indicator(bars: Bars) -> Any:
    return Uses(SMA(9))


class Rolled(SmaCross):
    """A condition that looks at the next bar."""

    def enter(self, now: Any) -> Any:
        return np.roll(now.close, -1) > now.close


class Averaged(SmaCross):
    """A condition that looks at all bars."""

    def enter(self, now: Any) -> Any:
        return now.close < np.mean(now.close)


@LEAKS()
def condition_that_looks_at_the_next_bar(bars: Bars) -> Any:
    return Rolled(5, 20)


@LEAKS()
def condition_that_looks_at_all_bars(bars: Bars) -> Any:
    return Averaged(5, 20)


@LEAKS(short)
def parameters_tuned_inside(bars: Bars) -> Any:
    close = only(bars).close
    change = np.diff(close)

    def gain(n: int) -> float:
        mean = np.convolve(close, np.ones(n) / n)[: len(close)]
        return float(((close > mean)[n:-1] * change[n:]).sum())

    return SmaCross(max(range(3, 40), key=gain), 50)


@TWINS(short)
def parameters_as_they_are(bars: Bars) -> Any:
    return SmaCross(7, 50)


class Generous(PaperBroker):
    """A broker that fills at the close on which the decision was made."""

    def advance(self, market: Any) -> Any:
        before = self._market  # the test's broker cheats with what the real one keeps
        return tuple(self._cheated(fill, before) for fill in super().advance(market))

    def _cheated(self, fill: Fill, before: Any) -> Fill:
        if before is None or fill.leg != "order":
            return fill
        price = before[fill.symbol].last
        return replace(fill, reference=replace_decimal(price.low), price=replace_decimal(price.low))


def replace_decimal(price: float) -> Any:
    """Return a price for the book."""
    from agentfund.market import decimal

    return decimal(price)


@LEAKS(small, "execution", broker=Generous)
def filled_at_the_low_of_the_decisions_bar(bars: Bars) -> Any:
    return SmaCross(3, 8)
