"""What several checks need to know of one order: worked out once, exactly, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
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
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit(f"a price of the quote is {value!r}, which is no number")
    return price_of(Decimal(str(value)), "a price of the quote")


def left_of(state: OrderState) -> Decimal:
    """Return how much of an order can still fill, by the fills that the portfolio holds."""
    quantity = price_of(state.order.quantity, "the quantity of an open order")
    filled = state.filled
    if filled is ZERO:
        return quantity
    if amount(filled, "what has filled of an open order") < 0:
        raise Unfit(f"{filled} has filled of order {state.order.id}")
    return max(quantity - filled, ZERO)


class Exposure(NamedTuple):
    """What is at risk after all open orders and this one, at their worst, in the account's currency.

    Args:
        by_symbol: gross exposure in each instrument.
        gross: the sum over all instruments.
        net: value of the positions, with their signs.
        buys: what open purchases can add; this order is among them where it is one.
        sells: the same of sales.
        pending: gross exposure of the open orders alone.
        same_side: units that open orders here, on the order's side, can still fill.
    """

    by_symbol: Mapping[str, Decimal]
    gross: Decimal
    net: Decimal
    buys: Decimal
    sells: Decimal
    pending: Decimal
    same_side: Decimal


class Quoted(NamedTuple):
    """A quote in Decimals.

    Args:
        symbol: what is quoted.
        time: when it was so.
        bid: best price to sell at, None where the source has none.
        ask: best price to buy at, None where the source has none.
        last: last traded price, None where the source has none.
    """

    symbol: str
    time: datetime
    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None

    @classmethod
    def of(cls, quote: object) -> Quoted:
        """Return a quote in Decimals.

        Raises:
            Unfit: it is none, or a price in it is none.
        """
        if not isinstance(quote, Quote):
            raise Unfit(f"{quote!r} is no quote")
        time = moment(quote.time, "the time of the quote")
        return cls(quote.symbol, time, quoted(quote.bid), quoted(quote.ask), quoted(quote.last))

    @property
    def to_buy(self) -> Decimal | None:
        """The price at which one can buy, or was traded last."""
        return self.last if self.ask is None else self.ask

    @property
    def to_sell(self) -> Decimal | None:
        """The price at which one can sell, or was traded last."""
        return self.last if self.bid is None else self.bid


class Case:
    """An order in its scene, under limits.

    Args:
        order: the order.
        scene: the scene.
        limits: the limits.

    Attributes:
        exact: the numbers of the limits as Decimals.
        reduces: whether the order only makes a position smaller, together with what is on its way already.
        held: what is held of the instrument, with its sign.
        sign: 1 of a purchase, -1 of a sale.
        shares: 2 where sizes are halved (caution), else 1: sizes are multiplied by it before they are compared.

    Raises:
        Unfit: a fact is of the wrong kind, so that nothing can be judged.
    """

    __slots__ = (
        *("_entry", "_equity", "_exposure", "_is_open", "_notional", "_quoted", "_unit"),
        *("exact", "held", "limits", "order", "permit", "reduces", "scene", "shares", "sign"),
    )

    def __init__(self, order: Order, scene: Scene, limits: Limits) -> None:
        self.order, self.scene, self.limits, self.exact = order, scene, limits, limits.exact
        self._exposure: Exposure | None = None
        self._is_open: bool | None = None
        self._quoted: Quoted | None = None
        self._unit: Decimal | None = None
        self._entry: Decimal | None = None
        self._equity: Decimal | None = None
        self._notional: Decimal | None = None
        for name in ("live", "critical", "degraded"):
            if not isinstance(getattr(scene, name), bool):
                raise Unfit(f"{name} is {getattr(scene, name)!r}, and must be True or False")
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
        if not held or not isinstance(order.side, Side) or (held > 0) == (order.side is BUY):
            return False
        if not isinstance(quantity, Decimal) or not quantity.is_finite() or not 0 < quantity < MOST:
            return False
        for state in self.scene.orders:
            if state.order.symbol == order.symbol and state.order.side is order.side:
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
            self._quoted = Quoted.of(self.scene.quote)
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
                for told in (order.limit_price, order.stop_price, self.quote and self.quote.to_buy):
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

    @property
    def equity(self) -> Decimal:
        """Cash plus positions."""
        if self._equity is None:
            self._equity = amount(self.scene.equity, "equity")
        return self._equity

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
        by: dict[str, Decimal] = {}
        units: dict[str, Decimal] = {}
        net = pending = buys = same_side = zero
        for name, position in scene.portfolio.positions.items():
            quantity, price = position.quantity, prices[name]
            if name != position.symbol:
                raise Unfit(f"the position in {position.symbol} is kept under {name}")
            if not (isinstance(quantity, decimal) and least < quantity < most):
                raise Unfit(f"the position in {name} is {quantity!r}, which is no amount")
            if not (isinstance(price, decimal) and zero < price < most):
                raise Unfit(f"the price of {name} is {price!r}, which is none")
            units[name] = price
            value = quantity * price
            net += value
            by[name] = abs(value)
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
            for told in (other.limit_price, other.stop_price):
                if told is not None:
                    if not (isinstance(told, decimal) and zero < told < most):
                        raise Unfit(f"a price of order {other.id} is {told!r}, which is none")
                    if told > unit:
                        unit = told
            value = quantity * unit
            pending += value
            if buying:
                buys += value
            by[name] = by[name] + value if name in by else value
        sells = pending - buys
        notional = self.notional
        if side is buy:
            buys += notional
        else:
            sells += notional
        by[symbol] = by.get(symbol, zero) + notional
        return Exposure(by, sum(by.values(), ZERO), net, buys, sells, pending, same_side)
