"""The paper broker: fills orders from the bars of a market that is ours to move."""

from __future__ import annotations

import math
from copy import copy
from decimal import Decimal
from itertools import takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING

from agentfund.brokers.matching import Desk, Line, Turn, meet
from agentfund.brokers.refusals import check, refuse
from agentfund.brokers.rewind import markets_between
from agentfund.errors import BrokerError, ConfigError, OrderRejected
from agentfund.market import Bar, Instrument, Market, decimal
from agentfund.trading import ZERO, Account, Costs, Fill, Order, OrderState, OrderStatus, OrderType, Side

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_BPS = Decimal(10_000)


class PaperBroker:
    """A simulated broker: the same orders on the same bars always make the same fills.

    The execution model. Where a bar cannot tell what came first, the worse for the trader is taken.

    - An order decided at T meets no bar that starts before T. A fill carries the start of its bar as its time.
    - Market orders fill at the open, plus half spread and slippage against the trader.
    - Stop orders trigger when touched and fill at the trigger, or at the open where the bar gaps through it, plus half
      spread and slippage. What volume leaves over of a triggered stop is a market order from then on; a bar too thin
      for one lot triggers nothing.
    - Limit orders fill at the open where that is their price or better, else at their price once the bar trades
      through it (a touch is not enough: others are first in the queue). They pay neither spread nor slippage: they are
      taken as resting.
    - A bracket lives from its entry's fill on, also inside the entry's bar. Stop and target count when touched; where both
      are it was the stop, even if the bar opened beyond the target. A gap through either fills at the open, the target
      without spread and slippage. After an entry by limit inside a bar, the target is reached in that bar only where
      the close has reached it. A leg that fills cancels the other one and what is left of the entry; other exits take
      from the oldest bracket first.
    - Reduce-only orders are cut to what is held, and cancelled where there is nothing to reduce when their turn comes.
      Market exits come first at the open, then stops, then targets, then entries. When a position reaches zero, its
      brackets and the reduce-only orders that could meet that bar are cancelled.
    - Orders take at most `max_volume_pct` of a bar's volume each; the rest works on. Bracket legs and reduce-only stops
      fill whole: bars do not tell how much traded beyond a price, and half an exit would leave a position that nothing
      protects.
    - What would bring gross exposure above `max_leverage` times equity is cut, and the rest cancelled. Other positions
      count at the open of their bar, so that no fill knows a later price.

    Prices are rounded to the tick against the trader, fees to the cent, quantities down to the lot.

    Args:
        cash: money at the beginning.
        costs: what trading costs.
        max_volume_pct: share of a bar's volume that an order may take, in percent; no limit where a bar's volume is
            zero, because then the source has none.
        max_leverage: gross exposure over equity that an entry may reach.

    Raises:
        ConfigError: a number that cannot work.
    """

    dedupes_ids = True

    def __init__(
        self,
        cash: float | Decimal = 100_000,
        *,
        costs: Costs = Costs(),
        max_volume_pct: float = 10.0,
        max_leverage: float = 2.0,
    ) -> None:
        for name, value in (("cash", cash), ("max_volume_pct", max_volume_pct), ("max_leverage", max_leverage)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a number above zero, not {value}")
        for name in ("commission_bps", "commission_min", "half_spread_bps", "slippage_bps"):
            if not (math.isfinite(getattr(costs, name)) and getattr(costs, name) >= 0):
                raise ConfigError(f"costs.{name} must be zero or above, not {getattr(costs, name)}")
        self._start = decimal(cash)
        self._costs = costs
        self._share = decimal(max_volume_pct) / 100
        self._leverage = decimal(max_leverage)
        self._rate = decimal(costs.commission_bps) / _BPS
        self._least = decimal(costs.commission_min)
        self._edge = (decimal(costs.half_spread_bps) + decimal(costs.slippage_bps)) / _BPS
        self._clear()

    def _clear(self) -> None:
        self._money = self._start
        self._held: dict[str, Decimal] = {}
        self._states: dict[str, OrderState] = {}
        self._fills: list[Fill] = []
        self._lines: dict[str, Line] = {}
        self._desks: dict[str, Desk] = {}
        self._market: Market | None = None
        self._as_of: datetime | None = None
        self._restored = False
        self._happened: dict[str, Fill] | None = None

    def __repr__(self) -> str:
        return f"<PaperBroker of {self._start:,}>"

    @property
    def cash(self) -> Decimal:
        """Cash at the beginning."""
        return self._start

    @property
    def settings(self) -> dict[str, Decimal]:
        """What a result depends on besides cash and costs."""
        return {"max_volume_pct": self._share * 100, "max_leverage": self._leverage}

    @property
    def costs(self) -> Costs:
        """What trading costs here."""
        return self._costs

    async def account(self) -> Account:
        """Return cash and positions: the fold of the fills."""
        return Account(self._money, MappingProxyType(dict(self._held)))

    async def orders(self) -> Sequence[OrderState]:
        """Return every order of the session, in the order in which they came."""
        return tuple(self._states.values())

    async def fills(self) -> Sequence[Fill]:
        """Return every fill of the session, oldest first."""
        return tuple(self._fills)

    async def submit(self, order: Order) -> OrderState:
        """Take an order; the same order again changes nothing and returns how it stands.

        Raises:
            OrderRejected: it cannot work, or its id belongs to another order.
        """
        known = self._states.get(order.id)
        if known is None:
            check(order, self._market)
            return self._accept(order)
        if known.order != order:
            refuse(order, "duplicate_id", "another order has this id already; give each order an id of its own")
        return known

    async def cancel(self, order_id: str) -> OrderState:
        """Take back what has not filled yet; a bracket goes on protecting what has.

        Raises:
            OrderRejected: there is no such order.
        """
        if order_id not in self._states:
            raise OrderRejected(f"there is no order {order_id!r}; orders() tells which there are", code="unknown_order")
        if self._states[order_id].status.open:
            self._end(self._lines[order_id], "cancelled on request")
            self._tidy(self._states[order_id].order.symbol)
        return self._states[order_id]

    def advance(self, market: Market) -> Sequence[Fill]:
        """Let the bars that closed at `market.now` happen to the working orders; return what filled."""
        if self._restored:
            self._restored = False
            self._relive(market)
            self._market = market
        if self._as_of is not None and market.now <= self._as_of:
            return ()
        self._as_of = market.now
        self._market = market
        if not self._desks:
            return ()
        busy = []
        for symbol in market.updated:
            desk = self._desks.get(symbol)
            if desk is not None and desk.concerned(market.windows[symbol]):
                busy.append(symbol)
        return self._play(market, busy) if busy else ()

    def restore(self, orders: Sequence[OrderState], fills: Sequence[Fill], as_of: datetime | None) -> None:
        """Stand where a broker stood that got these orders and made these fills, having seen bars up to `as_of`.

        Fills are believed, and cancellations; any other status is worked out again. What the lost broker cancelled by
        itself without a fill and without telling (too little buying power, nothing to reduce) is found at the next
        `advance`, from the bars that its windows hold.

        Raises:
            BrokerError: a fill names an order that is not among `orders`; nothing is changed then.
        """
        known = {state.order.id for state in orders if state.status is not OrderStatus.REJECTED}
        for fill in fills:
            if fill.order_id not in known:
                raise BrokerError(f"fill {fill.id!r}: its order {fill.order_id!r} is not given; restore both from the same log")
        self._clear()
        for state in orders:
            if state.order.id in known and state.order.id not in self._states:
                self._accept(state.order)
        lines = dict(self._lines)
        for fill in {fill.id: fill for fill in fills}.values():
            self._apply(lines[fill.order_id], fill)
        for state in orders:
            if state.status is OrderStatus.CANCELLED and self._states[state.order.id].status is not OrderStatus.FILLED:
                self._end(lines[state.order.id], state.reason)
        for symbol in tuple(self._desks):
            self._tidy(symbol)
        self._as_of = as_of
        self._restored = True

    def _accept(self, order: Order) -> OrderState:
        line = Line(order, len(self._states))
        self._lines[order.id] = line
        desk = self._desks.setdefault(order.symbol, Desk())
        desk.lines.append(line)
        desk.measure()
        state = self._states[order.id] = OrderState(order, OrderStatus.WORKING)
        return state

    def _end(self, line: Line, reason: str) -> None:
        filled = self._states[line.order.id].filled
        self._states[line.order.id] = OrderState(line.order, OrderStatus.CANCELLED, filled, reason)
        line.left = ZERO

    def _tidy(self, symbol: str) -> None:
        desk = self._desks[symbol]
        for line in desk.lines:
            if not (line.left or line.protected):
                del self._lines[line.order.id]
        desk.lines = [line for line in desk.lines if line.left or line.protected]
        if desk.lines:
            desk.measure()
        else:
            del self._desks[symbol]

    def _play(self, market: Market, busy: list[str]) -> list[Fill]:
        bars = {symbol: market.windows[symbol].last for symbol in busy}
        before = len(self._fills)
        done: set[int] = set()
        for opening in (True, False):
            for turn in self._turns(bars, opening):
                line = turn.leg.line
                if turn.leg.name == "order":
                    if line.number in done or not line.left:
                        continue
                    if line.order.reduce_only and self._reducible(line.order) <= 0:
                        if not opening:
                            self._end(line, "nothing is held that it could reduce")
                        continue
                    done.add(line.number)
                filled = self._trade(market, turn)
                if filled and line.protected and not turn.at_open:
                    self._protect_inside(market, turn)
        for symbol in busy:
            self._tidy(symbol)
        return self._fills[before:]

    def _turns(self, bars: dict[str, Bar], opening: bool) -> list[Turn]:
        turns = []
        for symbol, bar in bars.items():
            for line in self._desks[symbol].lines:
                for leg in line.legs():
                    if leg.name == "order" and line.order.time > bar.start:
                        continue
                    turn = meet(leg, bar)
                    # A target waits for the stops of its bar, even where the open lies beyond it.
                    if turn is not None and (not opening or (turn.at_open and leg.name != "target")):
                        turns.append(turn)
        turns.sort(key=Turn.precedence)
        return turns

    def _protect_inside(self, market: Market, entry: Turn) -> None:
        price, bar, order = float(entry.price), entry.bar, entry.leg.line.order
        later = bar._replace(open=price)
        if order.type is OrderType.LIMIT and order.side is Side.BUY:
            later = later._replace(high=max(price, bar.close))
        elif order.type is OrderType.LIMIT:
            later = later._replace(low=min(price, bar.close))
        for leg in entry.leg.line.legs():
            turn = meet(leg, later) if leg.name != "order" else None
            if turn is not None:
                self._trade(market, turn)

    def _trade(self, market: Market, turn: Turn) -> bool:
        leg, line, order, bar = turn.leg, turn.leg.line, turn.leg.line.order, turn.bar
        instrument = market.windows[order.symbol].instrument
        price = turn.paid(self._edge, instrument)
        cut = ""
        if leg.name != "order":
            quantity = line.protected
        else:
            quantity = line.left
            if order.reduce_only:
                quantity = min(quantity, self._reducible(order))
            if bar.volume > 0 and not (order.reduce_only and order.type is OrderType.STOP):
                quantity = min(quantity, instrument.round_quantity(decimal(bar.volume) * self._share))
            if not order.reduce_only:
                room = self._room(market, order, quantity, price)
                if room < quantity:
                    quantity = room
                    cut = f"buying power: more would bring gross exposure above {self._leverage:f} times equity"
        if quantity > 0:
            fill = Fill(
                id=f"{order.id}-{leg.name}-{line.count + 1 if leg.name == 'order' else 1}",
                order_id=order.id,
                symbol=order.symbol,
                side=leg.side,
                quantity=quantity,
                price=price,
                fee=self._fee(instrument, quantity * price),
                time=bar.start,
                reference=turn.price,
                leg=leg.name,
            )
            if self._happened is not None and self._happened.get(fill.id) != fill:
                return False
            self._apply(line, fill)
        if cut:
            self._end(line, cut)
        return quantity > 0

    def _fee(self, instrument: Instrument, notional: Decimal) -> Decimal:
        return instrument.round_money(max(notional * self._rate, self._least))

    def _reducible(self, order: Order) -> Decimal:
        return -self._held.get(order.symbol, ZERO) * order.side.sign

    def _room(self, market: Market, order: Order, quantity: Decimal, price: Decimal) -> Decimal:
        """Return how much of `quantity` can trade so that, its fee paid, gross exposure stays within the leverage."""
        held = self._held.get(order.symbol, ZERO)
        closing = min(quantity, max(ZERO, self._reducible(order)))
        if closing == quantity or price <= 0:
            return closing
        instrument = market.windows[order.symbol].instrument
        equity, kept = self._money + held * price, (abs(held) - closing) * price
        for symbol, amount in self._held.items():
            if symbol != order.symbol:
                window = market[symbol]
                mark = decimal(float(window.open[-1]) if symbol in market.updated else window.price)
                equity += amount * mark
                kept += abs(amount) * mark

        def fits(wanted: Decimal) -> bool:
            spare = self._leverage * equity - kept - (wanted - closing) * price
            return spare >= 0 and spare >= self._leverage * self._fee(instrument, wanted * price)

        if fits(quantity):
            return quantity
        for rounding in (ZERO, instrument.cents):
            budget = self._leverage * (equity - rounding) - kept
            by_rate = (budget - self._leverage * self._rate * closing * price) / (price * (1 + self._leverage * self._rate))
            by_least = (budget - self._leverage * self._least) / price
            most = closing + instrument.round_quantity(max(ZERO, min(by_rate, by_least)))
            if most == closing or fits(most):
                break
        return most

    def _apply(self, line: Line, fill: Fill) -> None:
        order, sign = line.order, fill.side.sign
        before = self._held.get(fill.symbol, ZERO)
        after = before + fill.quantity * sign
        self._fills.append(fill)
        self._money = self._money - fill.quantity * sign * fill.price - fill.fee
        self._held[fill.symbol] = after
        if not after:
            del self._held[fill.symbol]
        if fill.leg == "order":
            line.count += 1
            line.left -= fill.quantity
            status = OrderStatus.WORKING if line.left else OrderStatus.FILLED
            self._states[order.id] = OrderState(order, status, order.quantity - line.left)
        else:
            line.protected = ZERO
            if line.left:
                self._end(line, f"its {fill.leg} was reached")
        lines = self._desks[fill.symbol].lines
        if before * after <= 0 and before:
            for other in lines:
                other.protected = ZERO
                if other.left and other.order.reduce_only and other.order.time <= fill.time:
                    self._end(other, "the position is closed")
        elif fill.leg == "order" and abs(after) < abs(before):
            excess = sum((other.protected for other in lines), ZERO) - abs(after)
            for other in lines:
                cut = max(ZERO, min(excess, other.protected))
                other.protected -= cut
                excess -= cut
        if fill.leg == "order" and (order.stop_loss is not None or order.take_profit is not None):
            line.protected += max(ZERO, max(ZERO, after * sign) - max(ZERO, before * sign))

    def _relive(self, market: Market) -> None:
        """End the orders that the lost broker had ended silently: a twin lives through their bars again."""
        waiting = [line for line in self._lines.values() if line.left]
        if not waiting or self._as_of is None:
            return
        since = min(line.order.time for line in waiting)
        twin = copy(self)
        everything = [OrderState(state.order, OrderStatus.WORKING) for state in self._states.values()]
        twin.restore(everything, list(takewhile(lambda fill: fill.time < since, self._fills)), since)
        twin._restored = False
        twin._happened = {fill.id: fill for fill in self._fills}
        for past in markets_between(market, since, self._as_of):
            twin.advance(past)
        if twin._fills != self._fills:
            return
        for line in waiting:
            state = twin._states[line.order.id]
            if state.status is OrderStatus.CANCELLED:
                self._end(line, state.reason)
                self._tidy(line.order.symbol)
