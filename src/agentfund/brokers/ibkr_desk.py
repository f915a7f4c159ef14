"""How orders are placed, taken back and made smaller at Interactive Brokers.

A bracket is an entry and its legs: the entry is sent untransmitted, the stop last and with the word to transmit all of them, so
no entry can trade before its stop is there. No order is replaced by another while its cancellation is not proven.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.brokers.ibkr_survey import Seen, Survey, number
from agentfund.brokers.ibkr_words import (
    ACKNOWLEDGED,
    ENTRY,
    NOT_THERE,
    REFUSALS,
    STOP,
    TARGET,
    TOO_LATE,
    reference,
    status,
)
from agentfund.brokers.refusals import refuse
from agentfund.clock import EPOCH
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.trading import ZERO, Order, OrderStatus, OrderType

if TYPE_CHECKING:
    from agentfund.brokers.ibkr_line import Line

_log = logging.getLogger("agentfund")
_TYPES = {OrderType.MARKET: "MKT", OrderType.LIMIT: "LMT", OrderType.STOP: "STP"}
_REDUCE = 2  # what is left of the others becomes smaller by what one of them has filled; one of them at a time can fill


def _plain(value: Decimal) -> str:
    """Return digits without an exponent, as they go over the wire."""
    return format(value, "f")


class Desk:
    """Sends and takes back on one connection.

    Args:
        line: the connection.
        account: whose orders they are.
        contracts: contracts by symbol, with their numbers.
        orders: orders that were sent, by id.
    """

    def __init__(self, line: Line, account: str, contracts: Mapping[str, Any], orders: Mapping[str, Order]) -> None:
        self._line, self._account, self._contracts, self._orders = line, account, contracts, orders

    async def send(self, order: Order) -> tuple[OrderStatus, Decimal]:
        """Send an order and wait until the server has it; return how it stands, and how much has filled.

        Raises:
            OrderRejected: the server refused it, or its stop, and nothing of it is left.
            BrokerUnavailable: nobody knows.
        """
        trades = self._place(order, self._family(order))
        entry = trades[0]
        heard = await self._line.until(lambda: any(map(self._refusal, trades)) or all(map(self._settled, trades)))
        if not heard:
            raise self._line.lost(f"no word of order {order.id!r}; it may have arrived")
        refused = next((t for t in trades if self._refusal(t) is not None), None)
        if refused is None:
            state = entry.orderStatus
            return status(state.status, ended=False), number(state.filled)
        code, text = self._refusal(refused) or (0, "")
        await self._undo(order, trades)
        if code == 103:
            self._line.drop()  # a new connection is told which order ids are free
        what = "it" if refused is entry else f"its {refused.order.orderRef.rpartition(':')[2]}"
        raise OrderRejected(
            f"order {order.id!r} for {order.symbol}: {what} was refused with {code}: {text} ({REFUSALS[code]})", code=str(code)
        )

    async def take_back(self, one: Seen) -> None:
        """Ask for the cancellation of an order and wait for the answer; whether it is gone, a survey tells.

        Raises:
            BrokerUnavailable: it belongs to another client id, or there was no answer.
        """
        if one.client != self._line.client_id:
            raise self._line.lost(f"order {one.id!r} belongs to client id {one.client}: only that session can take it back")
        if not await self._cancelled([one.trade]):
            raise self._line.lost(f"no answer to the cancellation of order {one.id!r}; it may trade yet")

    def protect(self, order: Order, size: Decimal) -> None:
        """Send the legs of a bracket once more, for what is held, as a pair of which one cancels the other.

        It does not wait: the position is there, and every moment without a stop counts.
        """
        if order.stop_loss is None or size <= 0:
            return
        _log.warning("order %s: its legs are gone and %s is held; a stop at %s is sent", order.id, size, order.stop_loss)
        self._place(order, self._legs(order, size, parent=0))

    def aim(self, order: Order, size: Decimal, group: str) -> None:
        """Send the target of a bracket once more, into the group of the stop that rests; it does not wait."""
        assert order.take_profit is not None
        target = self._line.order(
            orderId=self._free_id(),
            orderRef=reference(order.id, TARGET),
            action=order.side.opposite.upper(),
            totalQuantity=_plain(size),
            orderType="LMT",
            lmtPrice=_plain(order.take_profit),
            account=self._account,
            tif="GTC",
            ocaGroup=group,
            ocaType=_REDUCE,
            transmit=True,
        )
        self._place(order, [target])

    async def make_way(self, order: Order, seen: Survey, held: Mapping[str, Decimal]) -> list[tuple[Order, Decimal]]:
        """Make room for an exit: the legs that protect what it closes are taken back or made smaller, and that is waited for.

        Args:
            order: the exit.
            seen: what rests now.
            held: positions by symbol.

        Returns:
            Brackets that lost protection, with the size they had: they get it back if the exit is refused.

        Raises:
            OrderRejected: it would not only reduce, or the legs did not move; the exit was not sent.
        """
        position = held.get(order.symbol, ZERO)
        exits = [s for s in seen.orders if s.symbol == order.symbol and s.side is order.side and not s.ended]
        waiting = sum((s.quantity - s.filled for s in exits if not s.leg), ZERO)
        free = abs(position) - waiting if position * order.side.sign < 0 else ZERO
        if order.quantity > free:
            refuse(order, "not_reducing", f"it may close {free} at most: {position} is held, {waiting} is on its way out")
        stops = [s for s in exits if s.part == STOP]
        if stops and order.type is not OrderType.MARKET:
            refuse(order, "protected", "an exit that waits would leave the position without its stop; send a market order")
        left, changed = abs(position) - waiting - order.quantity, []
        for stop in sorted(stops, key=lambda s: s.perm):
            size = stop.quantity - stop.filled
            keep = min(size, left)
            left -= keep
            if keep == size:
                continue
            legs = [s for s in exits if s.id == stop.id and s.leg]
            try:
                await self.resize(legs, keep)
            except BrokerUnavailable as error:
                refuse(order, "legs", f"it was not sent, because the legs of {stop.id!r} did not make way: {error}")
            changed.append((self._orders.get(stop.id) or _rebuilt(stop, legs), size))
        return changed

    async def resize(self, legs: Sequence[Seen], keep: Decimal) -> None:
        """Give legs another size and wait for it; nothing left means that they are taken back.

        Raises:
            BrokerUnavailable: it is not proven.
        """
        if not keep:
            for leg in legs:
                await self.take_back(leg)
            return
        for leg in legs:
            await self._resize(leg, keep + leg.filled)

    async def _resize(self, leg: Seen, size: Decimal) -> None:
        """Change an order in its place: it keeps its id, so there is never a second stop beside it."""
        changed, wanted = leg.trade.order, float(size)
        changed.totalQuantity, changed.transmit = _plain(size), True
        before = len(self._line.news[leg.order_id])
        what = f"the new size of the {leg.part} of {leg.id!r}"
        self._line.tell(what, lambda ib: ib.placeOrder(leg.trade.contract, changed))
        # The client writes into the same object what the server says of the order, and that is a float.
        await self._line.until(lambda: changed.totalQuantity == wanted or len(self._line.news[leg.order_id]) > before)
        if changed.totalQuantity != wanted:
            raise self._line.lost(f"{what} was not taken")

    async def _undo(self, order: Order, trades: Sequence[Any]) -> None:
        """After a refusal: make sure that nothing of the bracket can trade, or say that nobody knows."""
        left = [t for t in trades if self._refusal(t) is None]
        family = left[:1] if left and left[0] is trades[0] else left  # with an entry its legs are taken back
        if family and not await self._cancelled(family):
            raise self._line.lost(f"a part of order {order.id!r} was refused, and the rest is not proven cancelled")
        open_ = await self._line.ask("the open orders", lambda ib: ib.reqAllOpenOrdersAsync())
        names = {t.order.orderRef for t in trades}
        if any(t.order.orderRef in names and not t.isDone() for t in open_):
            raise self._line.lost(f"a part of order {order.id!r} was refused, and the rest can still trade")
        filled = number(trades[0].orderStatus.filled)
        if filled:
            raise self._line.lost(f"order {order.id!r} traded {filled}, and its stop was refused: a position has no stop")

    async def _cancelled(self, trades: Sequence[Any]) -> bool:
        numbers = [trade.order.orderId for trade in trades]
        said = {one: len(self._line.news[one]) for one in numbers}

        def send(ib: Any) -> None:
            for one in numbers:
                ib.client.cancelOrder(one)  # `IB.cancelOrder` would call some orders cancelled by itself

        def done(trade: Any) -> bool:
            news = self._line.news[trade.order.orderId][said[trade.order.orderId] :]
            return trade.isDone() or any(code == NOT_THERE or code in TOO_LATE for code, _ in news)

        self._line.tell("a cancellation", send)
        return await self._line.until(lambda: all(done(trade) for trade in trades))

    def _place(self, order: Order, family: Sequence[Any]) -> list[Any]:
        contract = self._contracts[order.symbol]
        return self._line.tell(f"order {order.id!r}", lambda ib: [ib.placeOrder(contract, one) for one in family])

    def _free_id(self) -> int:
        return self._line.tell("the next order id", lambda ib: int(ib.client.getReqId()))

    def _family(self, order: Order) -> list[Any]:
        bracket = order.stop_loss is not None
        fields = {"lmtPrice": order.limit_price, "auxPrice": order.stop_price}
        entry = self._line.order(
            orderId=self._free_id(),
            action=order.side.upper(),
            totalQuantity=_plain(order.quantity),
            orderType=_TYPES[order.type],
            orderRef=reference(order.id, ENTRY if bracket else ""),
            transmit=not bracket,
            account=self._account,
            tif="IOC" if self._contracts[order.symbol].secType == "CRYPTO" else "GTC",
            **{name: _plain(price) for name, price in fields.items() if price is not None},
        )
        return [entry, *self._legs(order, order.quantity, parent=entry.orderId)] if bracket else [entry]

    def _legs(self, order: Order, size: Decimal, parent: int) -> list[Any]:
        assert order.stop_loss is not None
        shared = {
            "action": order.side.opposite.upper(),
            "totalQuantity": _plain(size),
            "account": self._account,
            "tif": "GTC",
            "parentId": parent,
        }
        legs = []
        if order.take_profit is not None:
            group = f"{order.id}-{self._free_id()}"  # a group that has traded takes no more orders
            shared |= {"ocaGroup": group, "ocaType": _REDUCE}
            limit = {"orderType": "LMT", "lmtPrice": _plain(order.take_profit), "transmit": not parent}
            legs.append((TARGET, limit))
        legs.append((STOP, {"orderType": "STP", "auxPrice": _plain(order.stop_loss), "transmit": True}))
        made = [
            self._line.order(orderId=self._free_id(), orderRef=reference(order.id, part), **shared, **own) for part, own in legs
        ]
        return made if parent else made[::-1]  # standing alone, the stop goes first

    def _refusal(self, trade: Any) -> tuple[int, str] | None:
        if trade.orderStatus.status == "Filled" or trade.fills:
            return None
        return next(((code, text) for code, text in self._line.news[trade.order.orderId] if code in REFUSALS), None)

    def _settled(self, trade: Any) -> bool:
        if self._refusal(trade) is not None:
            return True
        return bool(trade.orderStatus.permId) and trade.orderStatus.status in ACKNOWLEDGED


def _rebuilt(stop: Seen, legs: Sequence[Seen]) -> Order:
    """Return an entry of an earlier process by its legs, as far as its protection goes."""
    target = next((leg.price for leg in legs if leg.part == TARGET), None)
    size, side = stop.quantity, stop.side.opposite
    return Order(stop.id, stop.symbol, side, size, EPOCH, stop_loss=stop.price, take_profit=target)
