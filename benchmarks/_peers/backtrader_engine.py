"""backtrader: orders fill at the next open; brackets sleep on the entry bar; one broker for all instruments."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import backtrader as bt
import pandas as pd

from benchmarks._peers.serve import Done, serve
from benchmarks._peers.walk import walk


class Rule(bt.Strategy):  # type: ignore[misc]
    """Buys an equal share of equity in each instrument, with a bracket of 1 % and 2 % around the close."""

    def __init__(self) -> None:
        self.share = 0.98 / len(self.datas)
        self.round_trips = 0
        self.brackets: list[Any] = [None] * len(self.datas)
        self.looks = [self.look(data) for data in self.datas]

    def look(self, data: Any) -> Any:
        raise NotImplementedError

    def enter(self, data: Any, look: Any) -> Any:
        raise NotImplementedError

    def leave(self, data: Any, look: Any) -> Any:
        return not self.enter(data, look)

    def next(self) -> None:
        for at, data in enumerate(self.datas):
            position, bracket = self.getposition(data).size, self.brackets[at]
            if position:
                if self.leave(data, self.looks[at]):
                    self.close(data)
                    if bracket:
                        self.cancel(bracket[1])
                    self.brackets[at] = None
            elif (bracket is None or not bracket[0].alive()) and self.enter(data, self.looks[at]):
                price = data.close[0]
                size = int(self.broker.getvalue() * self.share / price)
                self.brackets[at] = self.buy_bracket(
                    data, size=size, exectype=bt.Order.Market, stopprice=price * 0.99, limitprice=price * 1.02
                )

    def notify_trade(self, trade: Any) -> None:
        self.round_trips += trade.isclosed


class Sma(Rule):
    def look(self, data: Any) -> Any:
        return bt.ind.SMA(data.close, period=20), bt.ind.SMA(data.close, period=50)

    def enter(self, data: Any, look: Any) -> Any:
        fast = look[0][0]
        return fast > look[1][0] and data.close[0] > fast


class Rsi(Rule):
    def look(self, data: Any) -> Any:
        return bt.ind.RSI(data.close, period=14, safediv=True)

    def enter(self, data: Any, look: Any) -> Any:
        return look[0] < 30

    def leave(self, data: Any, look: Any) -> Any:
        return look[0] >= 50


class DonchianChannel(Rule):
    def look(self, data: Any) -> Any:
        high, low = bt.ind.Highest(data.high, period=20), bt.ind.Lowest(data.low, period=20)
        return high, (high + low) / 2

    def enter(self, data: Any, look: Any) -> Any:
        return data.close[0] > look[0][-1]

    def leave(self, data: Any, look: Any) -> Any:
        return data.close[0] < look[1][0]


class Idle(bt.Strategy):  # type: ignore[misc]
    round_trips = 0

    def next(self) -> None:
        pass


KINDS = {"sma": Sma, "rsi": Rsi, "donchian": DonchianChannel, "noop": Idle}


@lru_cache(maxsize=128)
def rows(bars: int, seed: int) -> list[tuple[float, ...]]:
    """Return a bar a row, its time in days since the year 1, as backtrader counts them."""
    w = walk(bars, seed)
    days = w.start / 86_400e6 + 719_163
    return list(zip(*(each.tolist() for each in (w.open, w.high, w.low, w.close, w.volume, days)), strict=True))


class Rows(bt.feed.DataBase):  # type: ignore[misc]
    """A feed out of a list; backtrader's own feed from pandas takes three quarters of a run that does nothing."""

    params = (("rows", ()),)

    def start(self) -> None:
        super().start()
        self.left = iter(self.p.rows)

    def _load(self) -> bool:
        row = next(self.left, None)
        if row is None:
            return False
        line = self.lines
        line.open[0], line.high[0], line.low[0], line.close[0], line.volume[0], line.datetime[0] = row
        return True


@lru_cache(maxsize=128)
def frame(bars: int, seed: int) -> Any:
    w = walk(bars, seed)
    columns = {"open": w.open, "high": w.high, "low": w.low, "close": w.close, "volume": w.volume}
    return pd.DataFrame(columns, index=pd.DatetimeIndex(w.start.astype("M8[us]")))


def prepare(case: str, bars: int, symbols: int = 1, feed: str = "rows") -> Callable[[], Done]:
    """Return a run on one account; backtrader reads its feed in the run: "rows" of a list, or its own feed from "pandas"."""
    cerebro = bt.Cerebro(stdstats=False, runonce=True, preload=True)
    cerebro.broker.setcash(100_000)
    for seed in range(1, symbols + 1):
        given = (
            Rows(rows=rows(bars, seed))
            if feed == "rows"
            else bt.feeds.PandasData(dataname=frame(bars, seed), openinterest=None)
        )
        cerebro.adddata(given)
    cerebro.addstrategy(KINDS[case])

    def run() -> Done:
        (strategy,) = cerebro.run()
        return int(strategy.round_trips), float(cerebro.broker.getvalue())

    return run


if __name__ == "__main__":
    serve("backtrader", prepare)
