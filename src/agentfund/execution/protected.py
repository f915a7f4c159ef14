"""Brackets where a broker has none: every fill of an entry gets its stop at once, whatever breaks in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from agentfund.clock import SystemClock
from agentfund.errors import BrokerError, BrokerUnavailable, ConfigError, OrderRejected
from agentfund.execution.protection_keeper import Keeper, Prices
from agentfund.trading import Account, Book, Fill, Order, OrderState, OrderType

if TYPE_CHECKING:
    from agentfund.protocols import Broker, Clock

_log = logging.getLogger("agentfund")


class Protected:
    """A broker with brackets, made of one without.

    - An entry is sent without its stop and target. As its fills are seen, a stop order over exactly what has filled is
      placed at the broker. A further fill gets a stop order of its own, beside the one that rests: nothing is taken back
      for it, so what was protected stays so and no more is on order than is held. Where the broker refuses so small an
      order, or `most_stops` rest already, the smallest is taken back and placed again with what is new; that one stands
      without a stop for the time of two requests.
    - The target rests nowhere, because on a spot exchange the stop has locked the balance. It is watched here. Once it is
      reached the stop is taken back; when that is certain what is held is sold at market; where the sale is refused the
      stop is put back.
    - Before an exit of the fund leaves, stops make room for it, oldest entry first; where it fails or fills in part they
      come back. A limit order as an exit is refused: it would leave its position without a stop for as long as it rests.
    - What has no stop for longer than `patience` is sold at market, and `trouble` says why.
    - Orders have ids that follow from the entry's id, and the broker is looked at before anything is sent. After a crash
      at any moment `restore` finds what there is and goes on. An order that nobody answered for is asked about; it is
      sent again only after it could not be found for `settle`, and under the same id.

    Fills of stops and targets are told in the name of their entry, as `leg`. While there is anything to protect the broker
    is asked every `interval` seconds, and at once when its `wake` is set or the fund sends something.

    Args:
        broker: where orders go. `async find(order)`, where it has it, is asked how one order stands; else `orders()` is.
        clock: where the time comes from.
        prices: gives the newest price of a symbol, or None; it may be a coroutine function. The broker's own
            `price(symbol)` where None, and the newest fill where it has no such method: then a target may be missed.
        patience: how long something may stand without a stop.
        settle: how long an order may take to arrive at the broker.
        timeout: how long the broker may take to answer.
        interval: how often to look while there is anything to protect; None: only `settle()` looks.
        most_stops: how many stop orders one entry may have; exchanges allow few for a symbol.

    Raises:
        ConfigError: the broker keeps brackets by itself, or a number that cannot work.
    """

    brackets = True

    def __init__(
        self,
        broker: Broker,
        *,
        clock: Clock | None = None,
        prices: Prices | None = None,
        patience: timedelta = timedelta(seconds=10),
        settle: timedelta = timedelta(seconds=5),
        timeout: timedelta = timedelta(seconds=30),
        interval: timedelta | None = timedelta(seconds=1),
        most_stops: int = 3,
    ) -> None:
        if getattr(broker, "brackets", False):
            raise ConfigError(f"{type(broker).__name__} keeps stops by itself: use it without Protected")
        for name, value in (("patience", patience), ("settle", settle), ("timeout", timeout), ("interval", interval)):
            if value is not None and value <= timedelta(0):
                raise ConfigError(f"{name} must be above zero, not {value}")
        if most_stops < 1:
            raise ConfigError(f"most_stops must be at least 1, not {most_stops}")
        self.broker = broker
        self.wake = asyncio.Event()
        self._clock = clock if clock is not None else SystemClock()
        self._keeper = Keeper(
            broker,
            self._clock,
            prices if prices is not None else getattr(broker, "price", None),
            patience_s=patience.total_seconds(),
            settle_s=settle.total_seconds(),
            timeout_s=timeout.total_seconds(),
            most_stops=most_stops,
        )
        self._interval = interval
        self._lock = asyncio.Lock()
        self._kicked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def dedupes_ids(self) -> bool:
        """Whether the broker refuses or ignores a second order with the same id."""
        return self.broker.dedupes_ids

    @property
    def pace_s(self) -> float:
        """Seconds that the broker wants between two questions of a watchdog, 0 where it does not say."""
        return float(getattr(self.broker, "pace_s", 0.0))

    @property
    def trouble(self) -> str:
        """Why something may stand without its stop, in words; empty when all is well."""
        return self._keeper.trouble

    def restore(self, orders: Sequence[Order], fills: Sequence[Fill] = ()) -> None:
        """Look after entries of an earlier process; the broker's orders and fills tell how they stand.

        Args:
            orders: all entries of the log that may still be held, as the fund sent them; others are passed over.
            fills: fills of the log, as they were told. Without them an entry whose fills the broker does not tell any more
                is believed to be held as far as the account shows it.
        """
        for order in orders:
            if _guarded(order):
                self._keeper.add(order, restored=True)
        self._keeper.absorb(fills)
        theirs = getattr(self.broker, "restore", None)
        if theirs is not None:
            theirs(orders, fills)
        self._kick()

    async def start(self) -> None:
        """Look at once, and from now on by itself.

        Raises:
            BrokerUnavailable: the broker cannot be seen; it goes on trying.
        """
        self._begin()
        await self.settle()

    async def settle(self) -> None:
        """Look, and place, take back and sell until every position has its stop or nothing more can be done now.

        Raises:
            BrokerUnavailable: the broker cannot be seen.
        """
        async with self._lock:
            try:
                await self._keeper.settle()
            finally:
                if self._keeper.news():
                    self.wake.set()

    async def account(self) -> Account:
        """Return cash and positions by the broker's own books."""
        return await self.broker.account()

    async def orders(self) -> Sequence[OrderState]:
        """Return the fund's orders, as it sent them; stops are not among them."""
        return [self._told(state) for state in await self.broker.orders() if self._keeper.owner(state.order.id) is None]

    async def fills(self) -> Sequence[Fill]:
        """Return the fills, those of stops and targets in the name of their entries."""
        told = self._keeper.absorb(await self.broker.fills())
        self._kick()
        return told

    async def busts(self) -> Sequence[str]:
        """Return execution ids that the broker has taken back."""
        ask = getattr(self.broker, "busts", None)
        gone: Sequence[str] = await ask() if ask is not None else ()
        self._keeper.bust(gone)
        return gone

    async def book(self) -> Book:
        """Return account and resting orders; stops name the entry that they protect.

        Raises:
            BrokerUnavailable: the broker does not answer, or has no such view.
        """
        ask = getattr(self.broker, "book", None)
        if ask is None:
            raise BrokerUnavailable(f"{type(self.broker).__name__} shows no book; give the watchdog a broker that does")
        book: Book = await ask()
        owners = ((one, self._keeper.owner(one.id)) for one in book.resting)
        return replace(book, resting=tuple(replace(one, entry=own.entry.id) if own else one for one, own in owners))

    async def submit(self, order: Order) -> OrderState:
        """Send an order; an entry's stop follows its fills.

        Raises:
            OrderRejected: it certainly does not exist.
            BrokerUnavailable: nobody knows.
        """
        if order.reduce_only:
            return await self._exit(order)
        if not _guarded(order):
            return await self.broker.submit(order)
        _check(order)
        known = self._keeper.guard_of(order.id)
        guard = self._keeper.add(order)
        try:
            state = await self.broker.submit(replace(order, stop_loss=None, take_profit=None))
        except OrderRejected:
            if known is None:
                self._keeper.drop(guard)
            raise
        finally:
            self._kick()
        return self._told(state)

    async def cancel(self, order_id: str) -> OrderState:
        """Take back what has not filled yet; what has stays protected."""
        if self._keeper.owner(order_id) is not None:
            raise OrderRejected(f"{order_id} protects a position: send an exit instead", code="protects")
        try:
            return self._told(await self.broker.cancel(order_id))
        finally:
            self._kick()

    async def close(self) -> None:
        """Stop looking and let go of connections. Stops at the broker stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        ask = getattr(self.broker, "close", None)
        if ask is not None:
            await ask()

    async def _exit(self, order: Order) -> OrderState:
        if not self._keeper.busy:
            return await self.broker.submit(order)
        if order.type is OrderType.LIMIT:
            raise OrderRejected(
                "a limit order as an exit would leave its position without a stop: send a market order", code="would_unprotect"
            )
        async with self._lock:
            leg = self._keeper.exits.expect(order)
            try:
                await self._keeper.settle()
                if self._keeper.exits.crowded(order, self._keeper.guards):
                    raise BrokerUnavailable("a stop could not be taken back")
            except (BrokerError, asyncio.CancelledError) as error:
                self._keeper.exits.forget(order.id)
                self._kick()
                if isinstance(error, BrokerError):
                    reason = f"the exit was not sent, because the stop in its way stays: {error}"
                    raise OrderRejected(reason, code="stop_in_the_way") from error
                raise
            leg.sent = self._clock.monotonic()
            try:
                state = await self._keeper.send(order)
            except OrderRejected:
                self._keeper.exits.forget(order.id)
                with suppress(BrokerError):
                    await self._keeper.settle()
                raise
            finally:
                self._kick()
            leg.hear(state)
            return state

    def _told(self, state: OrderState) -> OrderState:
        guard = self._keeper.guard_of(state.order.id)
        return state if guard is None else replace(state, order=guard.entry)

    # -- in the background -----------------------------------------------------------------------------------------

    def _kick(self) -> None:
        self._kicked.set()
        if self._interval is not None and self._keeper.busy:
            self._begin()

    def _begin(self) -> None:
        if self._interval is None or self._tasks:
            return
        with suppress(RuntimeError):  # no loop runs yet: the first question that is asked in one begins
            loop = asyncio.get_running_loop()
            self._tasks.append(loop.create_task(self._watch(self._interval.total_seconds())))
            theirs = getattr(self.broker, "wake", None)
            if isinstance(theirs, asyncio.Event):
                self._tasks.append(loop.create_task(self._listen(theirs)))

    async def _watch(self, interval_s: float) -> None:
        while True:
            self._kicked.clear()
            try:
                await self.settle()
            except Exception as error:
                _log.warning("stops could not be looked after: %s", error)
            if not self._keeper.busy:
                await self._kicked.wait()
                continue
            nap = asyncio.ensure_future(self._clock.sleep(interval_s))
            kick = asyncio.ensure_future(self._kicked.wait())
            try:
                await asyncio.wait((nap, kick), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (nap, kick):
                    task.cancel()
                await asyncio.gather(nap, kick, return_exceptions=True)

    async def _listen(self, theirs: asyncio.Event) -> None:
        while True:
            await theirs.wait()
            theirs.clear()
            self._kicked.set()
            self.wake.set()


def _guarded(order: Order) -> bool:
    return not order.reduce_only and (order.stop_loss is not None or order.take_profit is not None)


def _check(order: Order) -> None:
    """Refuse an entry whose stop and target cannot be right."""
    for name, price in (("stop_loss", order.stop_loss), ("take_profit", order.take_profit)):
        if price is not None and not (price.is_finite() and price > 0):
            raise OrderRejected(f"{name} must be a price above zero, not {price}", code="price")
    stop, target, sign = order.stop_loss, order.take_profit, order.side.sign
    if stop is not None and target is not None and (target - stop) * sign <= 0:
        raise OrderRejected(f"the target {target} of a {order.side} must lie beyond its stop {stop}", code="price")
