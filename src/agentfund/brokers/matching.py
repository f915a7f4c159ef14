"""When an order meets a bar, and at which price: the rules of the paper broker's market, without any money."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Literal, NamedTuple

from agentfund.market import Bar, Instrument, Window, decimal
from agentfund.trading import ZERO, Order, OrderType, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

LegName = Literal["order", "stop", "target"]


class Leg(NamedTuple):
    """Something that can trade: an order, or one side of a bracket. No level means at any price."""

    line: Line
    name: LegName
    kind: OrderType
    side: Side
    level: Decimal | None


class Turn(NamedTuple):
    """A leg that meets a bar, and the price at which it does, before spread and slippage."""

    leg: Leg
    bar: Bar
    price: Decimal
    at_open: bool

    def precedence(self) -> tuple[int, float, int]:
        """Exits before entries, stops before targets, then what lies nearer to the open, then what came first."""
        leg = self.leg
        entry = leg.name == "order" and not leg.line.order.reduce_only
        rank = 3 if entry else (OrderType.MARKET, OrderType.STOP, OrderType.LIMIT).index(leg.kind)
        return rank, 0.0 if self.at_open else abs(float(self.price) - self.bar.open), leg.line.number

    def paid(self, edge: Decimal, instrument: Instrument) -> Decimal:
        """Return the price after spread and slippage, on the tick that is worse for the trader.

        Args:
            edge: half spread and slippage as a share of the price; a limit pays neither.
            instrument: what is traded.
        """
        leg = self.leg
        rounding = ROUND_CEILING if leg.side is Side.BUY else ROUND_FLOOR
        share = ZERO if leg.kind is OrderType.LIMIT else edge * leg.side.sign
        return instrument.round_price(self.price * (1 + share), rounding)


class Line:
    """An order in the book: how much of it still works, and how much of its fills its bracket still protects."""

    __slots__ = ("count", "left", "number", "order", "protected")

    def __init__(self, order: Order, number: int) -> None:
        self.order = order
        self.number = number
        self.left = order.quantity
        self.protected = ZERO
        self.count = 0

    def legs(self) -> Iterator[Leg]:
        """Give what of it can trade now; a stop order that has begun to fill goes on as a market order."""
        order = self.order
        if self.left:
            if order.type is OrderType.LIMIT:
                yield Leg(self, "order", OrderType.LIMIT, order.side, order.limit_price)
            elif order.type is OrderType.STOP and not self.count:
                yield Leg(self, "order", OrderType.STOP, order.side, order.stop_price)
            else:
                yield Leg(self, "order", OrderType.MARKET, order.side, None)
        if self.protected and order.stop_loss is not None:
            yield Leg(self, "stop", OrderType.STOP, order.side.opposite, order.stop_loss)
        if self.protected and order.take_profit is not None:
            yield Leg(self, "target", OrderType.LIMIT, order.side.opposite, order.take_profit)


class Desk:
    """What works in one symbol. A bar that stays between floor and ceiling concerns none of it."""

    __slots__ = ("ceiling", "floor", "lines")

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.floor = -math.inf
        self.ceiling = math.inf

    def concerned(self, window: Window) -> bool:
        """Return whether the newest bar can matter to what works here: cheap, because it is asked on every bar."""
        return bool(window.low[-1] <= self.floor or window.high[-1] >= self.ceiling)

    def measure(self) -> None:
        """Find floor and ceiling again, after the lines have changed."""
        self.floor, self.ceiling = -math.inf, math.inf
        for line in self.lines:
            for leg in line.legs():
                if leg.level is None:
                    self.floor = math.inf
                elif (leg.kind is OrderType.STOP) == (leg.side is Side.BUY):
                    self.ceiling = min(self.ceiling, float(leg.level))
                else:
                    self.floor = max(self.floor, float(leg.level))


def meet(leg: Leg, bar: Bar) -> Turn | None:
    """Return how a leg meets a bar, None where it does not: the conventions are those `PaperBroker` states."""
    if leg.level is None:
        return Turn(leg, bar, decimal(bar.open), at_open=True)
    # A sell is a buy in the mirror.
    sign = leg.side.sign
    first, level = bar.open * sign, float(leg.level) * sign
    low, high = (bar.low, bar.high) if sign > 0 else (-bar.high, -bar.low)
    if leg.kind is OrderType.STOP:
        at_open, reached = first >= level, high >= level
    else:
        at_open, reached = first <= level, low < level or (leg.name == "target" and low == level)
    if at_open:
        return Turn(leg, bar, decimal(bar.open), at_open=True)
    return Turn(leg, bar, leg.level, at_open=False) if reached else None
