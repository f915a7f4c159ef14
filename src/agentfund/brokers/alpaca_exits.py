"""Exits at a broker that has no reduce-only orders and holds shares for a bracket's legs.

An exit is cut to the position, takes back the legs that hold its shares, and puts them back where it fails. What a position
is owed is written down before anything is taken from it, and tried until it is there; after a restart it is found out anew.

The legs of an entry that is filled in part sleep until it is over, and Alpaca refuses a stop beside an order that could trade
with it. Both cannot rest. So the rest of the entry is taken back after a short time, and what has filled gets its stop.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from agentfund.brokers.alpaca_line import reading
from agentfund.brokers.alpaca_orders import ended, left
from agentfund.brokers.alpaca_owed import Known, Owed, crowded, lacking, protection, surplus
from agentfund.brokers.alpaca_words import (
    guard_id,
    money,
    number,
    order_of,
    price_of,
    request_of,
    same,
    side_of,
    status_of,
    type_of,
)
from agentfund.brokers.lots import guarded
from agentfund.errors import BrokerError, BrokerUnavailable, OrderRejected
from agentfund.trading import ZERO, Order, OrderStatus, OrderType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from agentfund.brokers.alpaca_desk import Desk
    from agentfund.brokers.alpaca_line import Line
    from agentfund.brokers.alpaca_orders import Orders, Wire
    from agentfund.protocols import Clock
    from agentfund.trading import Fill

_log = logging.getLogger("agentfund")
_LOOKS = 5
_AGAIN = 2.0
_LATEST = 30.0  # seconds: an exit that still waits for its shares then does not leave, for whoever sent it counts it as lost


class Exits:
    """Sends exits and keeps positions protected.

    Args:
        line: to Alpaca.
        desk: where orders are sent.
        orders: what is known of them.
        fills: asks for fills, for all of the session where its argument is True.
        known: orders and fills that are known.
        time_in_force: of exits in whole shares.
        partial_s: how long an entry may be filled in part.
        clock: where the time comes from.

    Attributes:
        owed: what positions have to get back, or would if an exit failed.
        news: whether something may have happened that has to be looked at.
    """

    def __init__(
        self,
        line: Line,
        desk: Desk,
        orders: Orders,
        fills: Callable[[bool], Awaitable[Sequence[Fill]]],
        known: Known,
        *,
        time_in_force: str,
        partial_s: float,
        clock: Clock,
    ) -> None:
        self._line, self._desk, self._orders, self._fills, self._clock = line, desk, orders, fills, clock
        self._tif, self._partial_s = time_in_force, partial_s
        self._known, self._restored, self._next = known, False, 0.0
        self._partial: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._entries: set[str] = set()
        self._reviewed: set[str] = set()
        self._works: set[str] = set()
        self.owed: list[Owed] = []
        self.news = False

    def watch(self, order: Order) -> None:
        """Keep an entry of this session protected also where its legs die with it."""
        self._known.add(order)
        self._entries.add(order.id)

    def restore(self, orders: Iterable[Order], fills: Iterable[Fill]) -> None:
        """Find out at the next review what entries of an earlier process lack.

        Args:
            orders: every order of the log, as it was sent.
            fills: every fill of the log.
        """
        self._known.restore(orders, fills)
        self._restored = self.news = True

    @property
    def busy(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self.news or self.owed or self._partial)

    @property
    def partial_s(self) -> float:
        """In how many seconds the rest of an entry is taken back; zero where none waits for that."""
        return max(
            0.0, min([since + self._partial_s - self._clock.monotonic() for since in self._partial.values()], default=0.0)
        )

    async def send(self, order: Order) -> Wire:
        """Send an exit; return it as Alpaca has it.

        Raises:
            OrderRejected: there is nothing to reduce, or Alpaca refused; the protection is back, or being put back.
            BrokerUnavailable: nobody knows whether Alpaca has it; the same holds.
        """
        body, latest = request_of(order, self._tif), self._clock.monotonic() + _LATEST
        async with self._lock:
            known = await self._desk.find(order.id)
            if known is not None:  # it was sent before: nothing is taken back, and nothing sent, a second time
                with reading("order"):
                    if same(known, body, at_most=True):
                        return known
                _refuse(order, "duplicate_id", "another order has this id already; give each order an id of its own")
            await self._orders.refresh()
            if self._may_rest(order.symbol):
                await self._settle()
                if self._may_rest(order.symbol):
                    _refuse(order, "protection_unknown", "a stop may rest that would sell the same shares; try again")
            held, free = await self._position(order.symbol)
            self._known.add(order)
            wanted = min(order.quantity, -held * order.side.sign)
            if wanted > 0 and free < wanted and order.type is OrderType.MARKET:
                free, wanted = await self._make_room(order, wanted, free)
            try:
                if self._clock.monotonic() > latest:
                    _refuse(order, "too_late", f"it could not be sent within {_LATEST:g} s, and is not sent any more")
                if wanted <= 0:
                    _refuse(order, "nothing_to_reduce", "nothing is held that it could reduce")
                if free <= 0:
                    _refuse(order, "held_for_orders", "other orders hold the position; cancel them first")
                cut = replace(order, quantity=min(wanted, free))
                return await self._desk.send(request_of(cut, self._tif), at_most=True)
            except BrokerError as error:
                if isinstance(error, OrderRejected):
                    self.owed = [replace(owed, exit="") if owed.exit == order.id else owed for owed in self.owed]
                await self._settle()
                raise

    async def review(self, *, wait: bool = False) -> None:
        """Look for positions that lost their protection, and put it back; call it when orders were read.

        Args:
            wait: whether to wait for an exit that is being sent, which does the same at its end.
        """
        if self._lock.locked() and not wait:
            return
        async with self._lock:
            await self._look_back()
            await self._end_partial()
            for entry in [*(self._entries - self._reviewed)]:
                self._look_at(entry)
            if self.owed:
                await self._settle()
            self.news = False

    def _lacks(self, position: Mapping[str, tuple[Decimal, Decimal]] | None = None) -> list[Owed]:
        """Return what entries lack; where `position`, held and free, is not asked for yet, by what is known."""
        held, found = self._known.held(), []
        with reading("orders"):
            for symbol in {self._known.orders[name].symbol for name in held} - {owed.symbol for owed in self.owed}:
                entries = {name: order for name in held if (order := self._known.orders[name]).symbol == symbol}
                whole = sum((held[name] * order.side.sign for name, order in entries.items()), ZERO)
                has, free = (whole, abs(whole)) if position is None else position.get(symbol, (ZERO, ZERO))
                found += lacking(self._orders, entries, held, has, free)
        return found

    async def _look_back(self) -> None:
        """Write down what positions lack, by fills, books and resting orders: what was sent may come late, and legs be lost."""
        if not self._restored and (
            self._clock.monotonic() < self._next or not (self._lacks() or crowded(self._orders, self._known))
        ):
            return
        self._next = self._clock.monotonic() + _AGAIN
        await self._fills(self._restored)
        symbols = {self._known.orders[name].symbol for name in self._known.held()}
        books = {symbol: (await self._look(symbol))[:2] for symbol in symbols}
        for name, held in ((name, books[name][0]) for name in crowded(self._orders, self._known)):
            if held and (late := surplus(self._orders, name, held)) is not None:
                self._orders.add(await self._desk.cancel(late))  # what it protected rightly is lacking now
                books[name] = (await self._look(name))[:2]
        self.owed += self._lacks(books)
        past = self._known.orders if self._restored else {}
        over = {name for name in past if (groups := self._orders.named(name)) and all(ended(group) for group in groups)}
        self._entries |= {name for name, order in past.items() if guarded(order)} - over
        self._restored = False

    async def _end_partial(self) -> None:
        """End the rest of entries that are filled in part: their legs sleep as long as they work."""
        found = {}
        with reading("orders"):
            for entry in self._entries - self._reviewed:
                for group in self._orders.named(entry):
                    stops = any(type_of(leg) is OrderType.STOP for leg in group.get("legs") or ())
                    if stops and status_of(group).open and money(group["filled_qty"]):
                        found[group["id"]] = group
        now = self._clock.monotonic()
        self._partial = {name: self._partial.get(name, now) for name in found}
        for name, since in [*self._partial.items()]:
            if now - since >= self._partial_s:
                _log.warning(
                    "order %s is filled in part and has no stop so: its rest is taken back", found[name]["client_order_id"]
                )
                try:
                    self._orders.add(await self._desk.cancel(found[name]))
                except BrokerError as error:
                    _log.error("the rest of order %s could not be taken back: %s", found[name]["client_order_id"], error)

    def _look_at(self, entry: str) -> None:
        """An entry that ends in part takes its legs with it; legs that ran out of time leave the position bare."""
        for group in self._orders.named(entry):
            if not ended(group) or self._orders.guards(entry):
                continue
            self._reviewed.add(entry)
            legs, order = group.get("legs") or (), order_of(group)
            filled = money(group["filled_qty"])
            gone = status_of(group) is not OrderStatus.FILLED or any(leg["status"] == "expired" for leg in legs)
            out = max((money(leg["filled_qty"]) for leg in legs), default=ZERO)
            if gone and filled > out:
                what = (order.symbol, order.side.opposite, filled - out)
                self.owed.append(Owed(entry, *what, order.stop_loss, order.take_profit))

    async def _make_room(self, order: Order, wanted: Decimal, free: Decimal) -> tuple[Decimal, Decimal]:
        """Take back legs until an exit has its shares; return what is free and what it may trade now."""
        need = wanted - free
        for role, top in [(r, g) for r, wire, g in self._orders.members() if wire is g]:
            legs = [w for r, w, g in self._orders.members() if g is top and r.leg != "order" and left(w) > 0]
            if need <= 0 or not legs or top["symbol"] != order.symbol or side_of(legs[0]) is not order.side:
                continue
            if status_of(top) is OrderStatus.WORKING and role.leg == "order":
                continue  # the legs of an entry that still works hold nothing yet
            quantity = max(left(leg) for leg in legs)
            prices = [
                next((p for leg in legs if (p := price_of(leg, n)) is not None), None) for n in ("stop_price", "limit_price")
            ]
            part = min(need, quantity)
            ids = tuple(leg["id"] for leg in legs)
            owed = Owed(role.entry, order.symbol, order.side, part, prices[0], prices[1], exit=order.id, legs=ids)
            self.owed.append(owed)
            if quantity > part:
                self.owed.append(replace(owed, quantity=quantity - part, exit=""))
            for leg in legs:
                await self._desk.cancel(leg)
            need -= part
        await self._orders.refresh()
        held, free = await self._position(order.symbol)
        wanted = min(order.quantity, -held * order.side.sign)
        for _ in range(_LOOKS):  # the shares are let go a moment after the legs
            if free >= wanted:
                break
            await self._clock.sleep(0.1)
            held, free = await self._position(order.symbol)
            wanted = min(order.quantity, -held * order.side.sign)
        if any(owed.symbol == order.symbol and not owed.exit for owed in self.owed):
            await self._settle(but=order.id)  # what the exit does not need is protected before it leaves
            held, free = await self._position(order.symbol)
            wanted = min(order.quantity, -held * order.side.sign)
        return free, wanted

    def _may_rest(self, symbol: str) -> bool:
        """Whether the fate of an order that protects is unknown: beside it an exit could sell what is sold already."""
        return any(owed.tried and owed.symbol == symbol for owed in self.owed)

    async def _settle(self, *, but: str = "") -> None:
        """Try to put back what is owed; what cannot be told now stays owed, and so does what an exit is about to need."""
        if self.owed:
            try:
                await self._orders.refresh()
            except BrokerUnavailable as error:
                _log.error("what protects a position cannot be read: %s", error)
                return
            await self._release(but)
        for owed in [*self.owed]:
            try:
                kept = owed if but and owed.exit == but else await self._put_back(owed)
            except BrokerError as error:
                _log.error("%s of %s stands without its stop: %s", number(owed.quantity), owed.symbol, error)
                kept = owed
            at = next(i for i, one in enumerate(self.owed) if one is owed)
            self.owed[at : at + 1] = [kept] if kept is not None else []

    async def _release(self, but: str) -> None:
        """Ask how exits stand: what one has sold of all that it took legs from, none of them gets back."""
        self._works = {but} - {""}
        for name in dict.fromkeys(owed.exit for owed in self.owed if owed.exit and owed.exit != but):
            try:
                wire = await self._desk.find(name)
                with reading("order"):
                    working, sold = wire is None or status_of(wire).open, money(wire["filled_qty"]) if wire else ZERO
            except BrokerError as error:
                _log.error("nobody knows how exit %s stands: %s", name, error)
                working, sold, wire = True, ZERO, {}
            if wire is None:
                continue  # it may come late: what is put back holds its shares
            if working:
                self._works.add(name)
                continue
            for at, owed in enumerate(self.owed):
                if owed.exit == name:
                    part = min(sold, owed.quantity)
                    sold -= part
                    self.owed[at] = replace(owed, exit="", quantity=owed.quantity - part)

    async def _put_back(self, owed: Owed) -> Owed | None:
        if owed.tried:
            found = await self._desk.find(owed.tried)
            if found is not None:
                return self._less(replace(owed, tried=""), self._covered(found))
        if owed.exit in self._works:
            return owed
        held, free, price = await self._look(owed.symbol)
        if owed.quantity <= 0 or held * owed.side.sign >= 0:
            return None
        quantity = min(owed.quantity, free)
        if quantity <= 0:
            return owed if await self._held_by_legs(owed) or owed.exit else None
        bodies = protection(owed, quantity, price, guard_id(owed.entry, self._number(owed)))
        for last, body in enumerate(bodies, 1 - len(bodies)):
            try:
                return self._less(owed, self._covered(await self._desk.send(body)))
            except OrderRejected as error:
                if error.code == "duplicate_id":  # of an earlier session; the next one has the next number
                    self._covered(await self._desk.find(body["client_order_id"]))
                    return owed
                if not last:
                    await self._clear_way(owed)
                    raise
            except BrokerUnavailable as error:
                _log.error("protection of %s may not be there: %s", owed.symbol, error)
                return replace(owed, tried=body["client_order_id"])
        return owed

    async def _held_by_legs(self, owed: Owed) -> bool:
        """Return whether legs still hold what is owed; a target that stands without its stop is taken back for both."""
        legs = await self._desk.still_open(owed.legs)
        with reading("order"):
            alone = owed.stop is not None and not any(type_of(leg) is OrderType.STOP for leg in legs)
        for leg in legs if alone else ():
            _log.warning("the target of %s is taken back, for its stop is gone: both are put back", owed.entry)
            self._orders.add(await self._desk.cancel(leg))
        return bool(legs)

    async def _clear_way(self, owed: Owed) -> None:
        """Take back entries that still work: Alpaca refuses a stop that could trade with one of them."""
        for name in [*(self._entries - self._reviewed)]:
            for group in self._orders.named(name):
                if group["symbol"] == owed.symbol and status_of(group).open and side_of(group) is not owed.side:
                    _log.warning("order %s is taken back, for the stop of %s is refused beside it", name, owed.symbol)
                    self._orders.add(await self._desk.cancel(group))

    def _covered(self, wire: Wire | None) -> Decimal:
        """Take in an order that protects; return how much it does: what it has sold, and what it still can."""
        if wire is None:
            return ZERO
        with reading("order"):
            self._orders.add(wire)
            return money(wire["filled_qty"]) + left(wire)

    def _less(self, owed: Owed, quantity: Decimal) -> Owed | None:
        rest = owed.quantity - quantity
        return replace(owed, quantity=rest) if rest > 0 else None

    def _number(self, owed: Owed) -> int:
        if owed.tried:
            return int(owed.tried.rsplit("guard", 1)[1])
        names = [group["client_order_id"] for group in self._orders.guards(owed.entry)]
        names += [other.tried for other in self.owed if other.entry == owed.entry and other.tried]
        return 1 + max((int(name.rsplit("guard", 1)[1]) for name in names), default=0)

    async def _position(self, symbol: str) -> tuple[Decimal, Decimal]:
        held, free, _ = await self._look(symbol)
        return held, free

    async def _look(self, symbol: str) -> tuple[Decimal, Decimal, Decimal | None]:
        """Return what is held, how much of it no order holds, and the price."""
        wire: dict[str, Any] | None = await self._line.find(f"/positions/{symbol.replace('/', '')}")
        if wire is None:
            return ZERO, ZERO, None
        with reading("position"):
            if wire["symbol"].replace("/", "") != symbol.replace("/", ""):
                raise BrokerUnavailable(f"asked for {symbol}, Alpaca answered with {wire['symbol']}")
            held, free = money(wire["qty"]), abs(money(wire.get("qty_available", wire["qty"])))
            return held, max(ZERO, free - self._promised(symbol)), price_of(wire, "current_price")

    def _promised(self, symbol: str) -> Decimal:
        """Return what entries that still work have filled: their own legs will hold it once they are through."""
        filled = ZERO
        for role, wire, group in self._orders.members():
            entry = wire is group and role.leg == "order" and group.get("legs") and group.get("order_class") != "oco"
            if entry and group["symbol"] == symbol and status_of(group).open:
                filled += money(group["filled_qty"])
        return filled


def _refuse(order: Order, code: str, why: str) -> NoReturn:
    raise OrderRejected(f"order {order.id!r} for {order.symbol}: {why}", code=code)
