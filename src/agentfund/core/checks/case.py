"""What several checks need to know of one order: worked out once, exactly, or not at all."""

from __future__ import annotations

from datetime import datetime
from decimal import Clamped, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, Subnormal, Underflow
from typing import TYPE_CHECKING, NamedTuple

from agentfund.hours import Hours
from agentfund.market import Quote
from agentfund.trading import ZERO, Level, OrderState, OrderType, Permit, Side

if TYPE_CHECKING:
    from agentfund.core.limits import Limits
    from agentfund.core.scene import Scene
    from agentfund.trading import Order

EXACT = Context(prec=400, traps=[InvalidOperation, DivisionByZero, Overflow, Underflow, Subnormal, Clamped, Inexact])
"""No result is rounded: what would have to be is an error, and an error is a denial."""

MOST = Decimal("1e24")
"""No price, quantity or amount of money reaches it."""

LEAST = -MOST

ONE = Decimal(1)

BUY, SELL = Side.BUY, Side.SELL
MARKET, LIMIT, STOP = OrderType.MARKET, OrderType.LIMIT, OrderType.STOP
"""Members of an enum by a short way: the gate asks for them a hundred times an order."""

TWICE = 2
"""Sizes are counted so often at level 1, against the usual limits."""


class Unfit(ValueError):
    """A fact that nothing can be judged by."""


def amount(value: object, what: str) -> Decimal:
    """Return a number as it is.

    Raises:
        Unfit: it is no Decimal, no number, or larger than any amount of money.
    """
    if isinstance(value, Decimal) and LEAST < value < MOST:  # a NaN raises here, by the context
        return value
    raise Unfit(f"{what} is {value!r}, which is no amount")


def price_of(value: object, what: str) -> Decimal:
    """Return a number above zero.

    Raises:
        Unfit: it is none.
    """
    if isinstance(value, Decimal) and ZERO < value < MOST:  # a NaN raises here, by the context
        return value
    raise Unfit(f"{what} is {value!r}, which is no price")


def moment(value: object, what: str) -> datetime:
    """Return a moment.

    Raises:
        Unfit: it is none, or its zone is not told.
    """
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Unfit(f"{what} is {value!r}, which is no moment")
    return value


def count(value: object, what: str) -> int:
    """Return a whole number from zero up.

    Raises:
        Unfit: it is none.
    """
    if type(value) is not int or value < 0:
        raise Unfit(f"{what} is {value!r}, which counts nothing")
    return value


def quoted(value: object) -> Decimal | None:
    """Return a price of a quote, None where the source has none.

    Raises:
        Unfit: it is no price.
    """
    if value is None:
        return None
    if type(value) is float and 0.0 < value < _MOST:
        return Decimal(repr(value))  # as `price_of` would have it: what is printed lies between the same bounds
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit(f"a price of the quote is {value!r}, which is no number")
    return price_of(Decimal(str(value)), "a price of the quote")


_MOST = float(MOST)


def left_of(state: OrderState) -> Decimal:
    """Return how much of an order can still fill, by the fills that the portfolio holds."""
    quantity = price_of(state.order.quantity, "the quantity of an open order")
    filled = state.filled
    if filled is ZERO:
        return quantity
    if amount(filled, "what has filled of an open order") < 0:
        raise Unfit(f"{filled} has filled of order {state.order.id}")
    return max(quantity - filled, ZERO)


def _worse(told: object, unit: Decimal, other: Order) -> Decimal:
    if isinstance(told, Decimal) and unit < told < MOST:
        return told
    raise Unfit(f"a price of order {other.id} is {told!r}, which is none")


class Exposure(NamedTuple):
    """What is at risk after all open orders and this one, at their worst, in the account's currency.

    Args:
        parts: gross exposure of each position, each open order and this one, with its instrument's symbol.
        gross: the sum over all instruments.
        net: value of the positions, with their signs.
        buys: what open purchases can add; this order is among them where it is one.
        sells: the same of sales.
        pending: gross exposure of the open orders alone.
        same_side: units that open orders here, on the order's side, can still fill.
    """

    parts: list[tuple[str, Decimal]]
    gross: Decimal
    net: Decimal
    buys: Decimal
    sells: Decimal
    pending: Decimal
    same_side: Decimal


class Quoted:
    """A quote in Decimals.

    Args:
        quote: the quote.

    Attributes:
        symbol: what is quoted.
        time: when it was so.
        bid: best price to sell at, None where the source has none.
        ask: best price to buy at, None where the source has none.
        last: last traded price, None where the source has none, and where bid and ask leave no need of it.
        to_buy: the price at which one can buy, or was traded last.
        to_sell: the price at which one can sell, or was traded last.

    Raises:
        Unfit: it is none, or a price in it is none.
    """

    __slots__ = ("ask", "bid", "last", "symbol", "time", "to_buy", "to_sell")

    def __init__(self, quote: object) -> None:
        if not isinstance(quote, Quote):
            raise Unfit(f"{quote!r} is no quote")
        self.time = moment(quote.time, "the time of the quote")
        self.symbol = quote.symbol
        self.bid, self.ask = quoted(quote.bid), quoted(quote.ask)
        needless = self.bid is not None and self.ask is not None and type(quote.last) is float and 0.0 < quote.last < _MOST
        self.last = None if needless else quoted(quote.last)
        self.to_buy = self.last if self.ask is None else self.ask
        self.to_sell = self.last if self.bid is None else self.bid


class Case:
    """An order in its scene, under limits.

    Args:
        order: the order.
        scene: the scene.
        limits: the limits.

    Attributes:
        exact: the numbers of the limits as Decimals.
        share: those in percent, as shares.
        equity: cash plus positions; the check `equity` is the first to need it, and lets only an amount above zero pass.
        reduces: whether the order only makes a position smaller, together with what is on its way already.
        held: what is held of the instrument, with its sign.
        sign: 1 of a purchase, -1 of a sale.
        shares: 2 where sizes are halved (caution), else 1: sizes are multiplied by it before they are compared, see `weighed`.

    Raises:
        Unfit: a fact is of the wrong kind, so that nothing can be judged.
    """

    __slots__ = (
        *("_entry", "_exposure", "_is_open", "_notional", "_quoted", "_unit"),
        *("equity", "exact", "held", "limits", "order", "permit", "reduces", "scene", "share", "shares", "sign"),
    )

    def __init__(self, order: Order, scene: Scene, limits: Limits) -> None:
        self.order, self.scene, self.limits, self.exact, self.share = order, scene, limits, limits.exact, limits.share
        self.equity = scene.equity
        self._exposure: Exposure | None = None
        self._is_open: bool | None = None
        self._quoted: Quoted | None = None
        self._unit: Decimal | None = None
        self._entry: Decimal | None = None
        self._notional: Decimal | None = None
        for name, flag in (("live", scene.live), ("critical", scene.critical), ("degraded", scene.degraded)):
            if flag is not True and flag is not False:
                raise Unfit(f"{name} is {flag!r}, and must be True or False")
        if not isinstance(scene.blind, str):
            raise Unfit(f"blind is {scene.blind!r}, and must be words")
        moment(scene.now, "now")
        self.sign = 1 if order.side is BUY else -1
        self.permit = self._permitted(scene.permit)
        self.shares = TWICE if self.permit is not None and self.permit.level is Level.CAUTION else 1
        self.held = amount(scene.portfolio.quantity(order.symbol), "the position")
        self.reduces = self._reduces()

    @staticmethod
    def _permitted(permit: object) -> Permit | None:
        if permit is None:
            return None
        if not isinstance(permit, Permit) or not isinstance(permit.level, Level) or not isinstance(permit.lease, bool):
            raise Unfit(f"{permit!r} is no permit")
        return permit

    def _reduces(self) -> bool:
        order = self.order
        quantity = order.quantity
        held = self.held
        symbol, side = order.symbol, order.side
        if not held or not isinstance(side, Side) or (held > ZERO) == (side is BUY):
            return False
        if not isinstance(quantity, Decimal) or not quantity.is_finite() or not ZERO < quantity < MOST:
            return False
        for state in self.scene.orders:
            if state.order.symbol == symbol and state.order.side is side:
                quantity += left_of(state)
        return quantity <= abs(held)

    @property
    def is_open(self) -> bool | None:
        """Whether the market is open, None where that is not known."""
        if self._is_open is None and self.scene.hours is not None:
            if not isinstance(self.scene.hours, Hours):
                raise Unfit(f"{self.scene.hours!r} are no hours")
            self._is_open = self.scene.hours.is_open(self.order.symbol, self.scene.now)
        return self._is_open

    @property
    def quote(self) -> Quoted | None:
        """Bid and ask of the instrument, None where there is no quote."""
        if self._quoted is None and self.scene.quote is not None:
            self._quoted = Quoted(self.scene.quote)
        return self._quoted

    @property
    def unit(self) -> Decimal:
        """The worst price at which a unit of the order counts."""
        if self._unit is None:
            order = self.order
            unit = price_of(self.scene.price, "the price")
            if order.type is LIMIT and order.side is BUY:
                assert order.limit_price is not None
                unit = order.limit_price
            else:
                quote = self.quote
                for told in (order.limit_price, order.stop_price, None if quote is None else quote.to_buy):
                    if told is not None and told > unit:
                        unit = told
            self._unit = unit
        return self._unit

    @property
    def notional(self) -> Decimal:
        """What the order is worth at the worst price."""
        if self._notional is None:
            self._notional = self.order.quantity * self.unit
        return self._notional

    def weighed(self, size: Decimal) -> Decimal:
        """Return a size as it is compared with a limit that is halved at level 1."""
        return size if self.shares == 1 else size * self.shares

    @property
    def entry(self) -> Decimal:
        """The price at which the order is expected to fill."""
        if self._entry is None:
            order, price = self.order, self.scene.price
            told = order.limit_price if order.type is LIMIT else order.stop_price
            if order.type is MARKET or told is None:
                self._entry = price
            else:
                # A limit fills at its price or better, a stop at its price or worse.
                lower = (order.type is LIMIT) == (order.side is BUY)
                self._entry = min(told, price) if lower else max(told, price)
        return self._entry

    @property
    def exposure(self) -> Exposure:
        """What is at risk after all open orders and this one, at their worst."""
        if self._exposure is None:
            self._exposure = self._exposed()
        return self._exposure

    def _exposed(self) -> Exposure:
        order, scene = self.order, self.scene
        symbol, side, prices = order.symbol, order.side, scene.prices
        zero, least, most, decimal, buy, sell = ZERO, LEAST, MOST, Decimal, BUY, SELL  # asked for a hundred times
        parts: list[tuple[str, Decimal]] = []
        units: dict[str, Decimal] = {}
        # Each value is added to one sum alone, all others follow from these: a sum of Decimals is what costs here.
        long = short = buys = sells = same_side = zero
        for name, position in scene.portfolio.positions.items():
            quantity, price = position.quantity, prices[name]
            if name != position.symbol:
                raise Unfit(f"the position in {position.symbol} is kept under {name}")
            is_long = isinstance(quantity, decimal) and zero <= quantity < most
            if not is_long and not (isinstance(quantity, decimal) and least < quantity < zero):
                raise Unfit(f"the position in {name} is {quantity!r}, which is no amount")
            if not (isinstance(price, decimal) and zero < price < most):
                raise Unfit(f"the price of {name} is {price!r}, which is none")
            units[name] = price
            value = quantity * price
            if is_long:
                long += value
            else:
                value = -value
                short += value
            parts.append((name, value))
        for state in scene.orders:
            other = state.order
            name, quantity, filled = other.symbol, other.quantity, state.filled
            if not (isinstance(quantity, decimal) and zero < quantity < most):
                raise Unfit(f"the quantity of order {other.id} is {quantity!r}, which is none")
            if filled is not zero:
                quantity = left_of(state)
            buying = other.side is buy
            if (not buying and other.side is not sell) or not isinstance(name, str) or not isinstance(other.reduce_only, bool):
                raise Unfit(f"order {other.id} has no symbol or no side, or does not say whether it only reduces")
            if other.side is side and name == symbol:
                same_side += quantity
            if other.reduce_only:
                continue
            if (unit := units.get(name)) is None:
                unit = units[name] = price_of(prices[name], "a price")  # without a price there is no worst case: deny
            # Most prices of a resting order are no worse than the market's, and two comparisons show that.
            if (told := other.limit_price) is not None and not (isinstance(told, decimal) and zero < told <= unit):
                unit = _worse(told, unit, other)
            if (told := other.stop_price) is not None and not (isinstance(told, decimal) and zero < told <= unit):
                unit = _worse(told, unit, other)
            value = quantity * unit
            if buying:
                buys += value
            else:
                sells += value
            parts.append((name, value))
        pending = buys + sells
        notional = self.notional
        if side is buy:
            buys += notional
        else:
            sells += notional
        parts.append((symbol, notional))
        return Exposure(parts, long + short + pending + notional, long - short, buys, sells, pending, same_side)
