"""What a trade would have made: entered at an open, left at its stop, its target, a given bar or the end, costs paid.

The rules are those of the paper broker for a market order with a bracket: both sides live from the entry's fill on, the
stop is taken first where both are touched, a gap fills at the open, prices are on the tick that is worse for the trader.
Many trades are walked at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agentfund.trading import Costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentfund.market import Columns, Floats

    Ints = NDArray[np.int64]

SIGNAL, STOP, TARGET, OPEN = 0, 1, 2, 3
"""What ended a trade: the given bar, its stop, its target, or the end of the data."""
_NEAR = 1e-7


class Walked(NamedTuple):
    """Where trades ended, as arrays of one shape: the bar, the market's price there, and what ended them."""

    bar: Ints
    price: Floats
    kind: Ints


class Passage:
    """The bars of one instrument, prepared so that the first bar that touches a level is found in a few steps.

    Args:
        columns: the bars.
        count: how many of them are known; all where it is left out.
        costs: what trading costs; nothing where it is left out.
    """

    def __init__(self, columns: Columns, count: int | None = None, costs: Costs | None = None) -> None:
        self.count = len(columns) if count is None else count
        self.open, self.close = columns.open[: self.count], columns.close[: self.count]
        self._low, self._high = columns.low[: self.count], columns.high[: self.count]
        self._tick = float(columns.instrument.tick_size)
        self._lows, self._highs = [self._low], [self._high]
        costs = costs or Costs(commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0)
        self._edge = (costs.half_spread_bps + costs.slippage_bps) / 1e4
        self._rate, self._least = costs.commission_bps / 1e4, costs.commission_min

    def levels(self, price: Floats, sign: Floats, stop: Floats, target: Floats) -> tuple[Floats, Floats]:
        """Return the prices of stop and target, on the tick towards the market.

        Args:
            price: price at the decision.
            sign: 1 long, -1 short.
            stop: distance of the stop as a share of the price; NaN for none.
            target: the same of the target.
        """
        return self._on_tick(price * (1.0 - sign * stop), sign), self._on_tick(price * (1.0 + sign * target), -sign)

    def walk(self, entry: Ints, sign: Floats, stop: Floats, target: Floats, until: Ints) -> Walked:
        """Walk trades from the open of a bar to their end; all arguments are arrays of one shape.

        Args:
            entry: bar at whose open the trade begins.
            sign: 1 long, -1 short.
            stop: price of the stop, NaN for none.
            target: price of the target, NaN for none.
            until: bar at whose open the trade is left where it still lives; the number of bars for never.
        """
        stop = np.where(np.isnan(stop), -sign * np.inf, stop)
        target = np.where(np.isnan(target), sign * np.inf, target)
        floor, ceiling = np.where(sign > 0, (stop, target), (target, stop))
        until = np.clip(until, entry, self.count)
        at = entry.copy()
        self._build(int((until - entry).max(initial=0)))
        for level in range(len(self._lows) - 1, -1, -1):
            lows, highs = self._lows[level], self._highs[level]
            inside = at + (1 << level) <= until
            here = np.minimum(at, len(lows) - 1)
            at += np.where(inside & (lows[here] > floor) & (highs[here] < ceiling), 1 << level, 0)
        bar = np.minimum(at, self.count - 1)
        opened = self.open[bar]
        hit = at < until
        stopped = hit & np.where(sign > 0, self._low[bar] <= stop, self._high[bar] >= stop)
        kind = np.where(stopped, STOP, np.where(hit, TARGET, np.where(at < self.count, SIGNAL, OPEN)))
        beyond = np.where(sign > 0, np.minimum(opened, stop), np.maximum(opened, stop))
        reached = np.where(sign > 0, np.maximum(opened, target), np.minimum(opened, target))
        price = np.select([kind == STOP, kind == TARGET, kind == SIGNAL], [beyond, reached, opened], self.close[bar])
        return Walked(bar, price, kind)

    def profit(self, entry: Ints, sign: Floats, quantity: Floats, walked: Walked) -> Floats:
        """Return what trades made after commission, half spread and slippage, in the account's currency.

        A target pays neither spread nor slippage; what is open at the end is marked at the last close and pays nothing yet.
        """
        edge = np.where((walked.kind == SIGNAL) | (walked.kind == STOP), self._edge, 0.0)
        left = self._on_tick(walked.price * (1.0 - sign * edge), -sign)
        left = np.where(walked.kind == OPEN, walked.price, left)
        leaving = np.where(walked.kind == OPEN, 0.0, np.maximum(quantity * left * self._rate, self._least))
        return sign * left * quantity - leaving - self.entered(entry, sign, quantity)

    def entered(self, entry: Ints, sign: Floats, quantity: Floats) -> Floats:
        """Return what entries at the open of bars cost, commission included; below zero what a short one brings in."""
        begun = self._on_tick(self.open[entry] * (1.0 + sign * self._edge), sign)
        return sign * begun * quantity + np.maximum(quantity * begun * self._rate, self._least)

    def _on_tick(self, price: Floats, side: Floats) -> Floats:
        """Round up where `side` is above zero, else down."""
        ticks = price / self._tick
        return np.where(side > 0, np.ceil(ticks - _NEAR), np.floor(ticks + _NEAR)) * self._tick

    def _build(self, longest: int) -> None:
        """Give row k the lowest low and the highest high of each 2^k bars, as far as trades may last."""
        while (1 << len(self._lows)) <= min(longest, self.count):
            half = 1 << (len(self._lows) - 1)
            lows, highs = self._lows[-1], self._highs[-1]
            self._lows.append(np.minimum(lows[:-half], lows[half:]))
            self._highs.append(np.maximum(highs[:-half], highs[half:]))
