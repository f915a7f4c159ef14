"""MetaTrader 5, through any object that looks like the package MetaTrader5: the package, a proxy to it, or a fake.

Nothing at a broker refuses a second order with our id, so an order is sent only where its comment and magic are on no order,
pending or ended, no deal and no position, and never again before it must have arrived. What was not answered is UNKNOWN.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from agentfund.brokers.metatrader_books import Reading
from agentfund.brokers.metatrader_desk import Desk
from agentfund.brokers.metatrader_pulse import Pulse
from agentfund.brokers.metatrader_terminal import Terminal, package
from agentfund.brokers.metatrader_thread import Booth, Errand
from agentfund.brokers.metatrader_time import Offset
from agentfund.brokers.metatrader_words import comment, named
from agentfund.brokers.soundness import sound
from agentfund.clock import SystemClock
from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected
from agentfund.protocols import Clock
from agentfund.trading import ZERO, Account, Book, Fill, Order, OrderState, OrderStatus, OrderType, Side

_POLL_S = 0.2


class MetaTrader5Broker:
    """A broker session at a MetaTrader 5 terminal that somebody has logged in. It keeps `Broker` and `Watched`.

    Quantities are units, not lots: one lot of EURUSD is 100,000. Symbols must count their profit in the account's currency.
    Stop and target are levels of the position itself. On a netting account the newest entry sets them for all that is held;
    on a hedging account positions of one symbol are summed, and an exit closes them by their tickets, oldest first.

    Args:
        terminal: the package MetaTrader5 or an object that looks like it; the package where none is given.
        magic: the number that all orders of this fund carry, one for each fund and above zero.
        symbols: what is traded; names of ours to the terminal's where they differ, such as `{"EURUSD": "EURUSD.m"}`.
        utc_offset: how far the broker's wall time is ahead of UTC; found from fresh ticks where it is not given.
        timeout_s: how long the terminal may take for a question with all its calls.
        settle_s: how long an order may be on its way: for so long it is not sent again, whatever the lists show.
        lookback: how far back ended orders and deals are read.
        deviation: how many points a market order's price may move until it is refused.
        heartbeat: takes a text every second while all is well; a guard in the terminal watches it.
        settings: what the terminal's `initialize` is given, such as `{"path": ...}`.
        clock: where the time comes from.

    Raises:
        ConfigError: no symbols, a magic below one, or no terminal and no package.
    """

    brackets = True
    dedupes_ids = False

    def __init__(
        self,
        terminal: Terminal | None = None,
        *,
        magic: int,
        symbols: Mapping[str, str] | Iterable[str],
        utc_offset: timedelta | None = None,
        timeout_s: float = 10.0,
        settle_s: float = 30.0,
        lookback: timedelta = timedelta(days=30),
        deviation: int = 20,
        heartbeat: Callable[[str], object] | None = None,
        settings: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        names = dict(symbols) if isinstance(symbols, Mapping) else {name: name for name in symbols}
        if not names or len(set(names.values())) != len(names):
            raise ConfigError("symbols must name what is traded, each of the terminal's symbols once")
        if magic < 1:
            raise ConfigError("magic must be above zero: 0 is what orders by hand carry")
        self._symbols, self._settle_s = names, settle_s
        self._clock = clock or SystemClock()
        self._offset = Offset(utc_offset)
        self._patience_s = timeout_s
        self._booth = Booth(timeout_s)
        where = package() if terminal is None else terminal
        self._desk = Desk(where, magic, names, lookback, deviation, self._offset, self._clock, settings or {})
        self._pulse = Pulse(heartbeat, lambda: not self._booth.hangs, self._clock)
        self._lock = asyncio.Lock()
        self._orders: dict[str, Order] = {}
        self._sent: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._told: dict[str, Fill] = {}
        self._busted: list[str] = []

    async def account(self) -> Account:
        """Return cash as if positions were paid in full, positions in units, equity and margin, asked for now.

        Raises:
            BrokerUnavailable: the terminal hangs, is not connected, or gave None.
        """
        return (await self._read("the account")).books()

    async def orders(self) -> Sequence[OrderState]:
        """Return pending orders under this magic and those that ended within the lookback.

        Raises:
            BrokerUnavailable: the terminal hangs, is not connected, or gave None.
        """
        reading = await self._read("the orders")
        for order in list(self._orders.values()):
            if order.stop_loss is not None:
                await self._guard(order, reading)
        names = dict.fromkeys((*map(self._ours, reading.names()), *self._refused))
        return [self._state(name, reading) for name in names]

    async def fills(self) -> Sequence[Fill]:
        """Return deals within the lookback, oldest first; one that was told is told in the same words ever after.

        Raises:
            BrokerUnavailable: the terminal does not answer, or the broker's time zone is not known.
        """
        reading = await self._read("the deals")
        for ticket in reading.taken_back() & self._told.keys():
            del self._told[ticket]
            self._busted.append(ticket)
        news = [deal for deal in reading.dealt if deal.id not in self._told]
        if news:
            await self._know_the_time()
        for deal in news:
            name, when = self._ours(deal.order_id), self._offset.utc(deal.milliseconds)
            what = (deal.id, name, deal.symbol, deal.side, deal.quantity, deal.price)
            self._told[deal.id] = Fill(*what, deal.fee, when, deal.price, deal.leg)
        return sorted(self._told.values(), key=lambda fill: (fill.time, int(fill.id)))

    async def busts(self) -> Sequence[str]:
        """Return ids of deals that were told and that the broker has cancelled since."""
        return tuple(self._busted)

    async def book(self) -> Book:
        """Return account, pending orders, and stops and targets of positions, whoever made them, asked for now.

        Raises:
            BrokerUnavailable: the terminal hangs, is not connected, or gave None.
        """
        reading = await self._read("the book")
        return Book(reading.books(), reading.resting())

    async def submit(self, order: Order) -> OrderState:
        """Send an order; one whose comment is known already is not sent, and is told as it stands.

        Raises:
            OrderRejected: it does not exist: it cannot work, or a return code says that nothing was traded.
            BrokerUnavailable: nobody knows; ask `orders` and do not send it under another id.
        """
        sound(order, self._symbols)
        self._pulse.start()
        async with self._lock:
            now = self._clock.monotonic()
            waits = now - self._sent[order.id] < self._settle_s if order.id in self._sent else False

            def send(errand: Errand) -> tuple[Reading | None, OrderStatus, Any]:
                reading = self._desk.read()
                if reading.known(order.id):
                    self._desk.guard(order, reading.positions)
                    return reading, OrderStatus.UNKNOWN, ZERO
                if waits:
                    raise BrokerUnavailable(
                        f"order {order.id!r} was sent less than {self._settle_s:g} s ago and is in no list yet; ask again later"
                    )
                self._sent[order.id] = now
                return None, *self._desk.send(order, errand, reading)

            new = order.id not in self._orders
            self._orders.setdefault(order.id, order)
            try:
                known, status, done = await self._booth.run(f"order {order.id!r}", send)
            except OrderRejected as error:
                self._refused[order.id] = str(error)
                if new:
                    self._sent.pop(order.id, None)
                raise
            self._refused.pop(order.id, None)
            return OrderState(order, status, told=done) if known is None else self._state(order.id, known)

    async def cancel(self, order_id: str) -> OrderState:
        """Take a pending order back; what it bought keeps stop and target, which belong to the position.

        Raises:
            OrderRejected: the terminal has no such order.
            BrokerUnavailable: nobody knows.
        """
        self._pulse.start()
        async with self._lock:

            def remove(errand: Errand) -> tuple[Reading, str]:
                reading, why = self._desk.read(), ""
                pending, _ = reading.of(order_id)
                for order in pending:
                    why = self._desk.remove(order.ticket, errand) or why
                return (self._desk.read() if pending else reading), why

            reading, why = await self._booth.run(f"the cancellation of {order_id!r}", remove)
            if not reading.known(order_id):
                if order_id in self._refused:
                    return self._state(order_id, reading)
                if order_id in self._sent and self._clock.monotonic() - self._sent[order_id] < self._settle_s:
                    raise BrokerUnavailable(f"order {order_id!r} was sent, and is in no list yet; ask again later")
                raise OrderRejected(f"there is no order {order_id!r} at this terminal", code="unknown_order")
            state = self._state(order_id, reading)
            if state.status.open:
                raise BrokerUnavailable(f"order {order_id!r} still stands, the terminal said {why or 'nothing'}; ask again")
            return state

    async def close(self) -> None:
        """Let go of the terminal; orders, stops and targets stay."""
        await self._pulse.stop()
        if not self._booth.hangs:
            with suppress(Exception):  # it is being left, and orders do not depend on it
                await self._booth.run("the end", lambda _: self._desk.shut())
        self._booth.close()

    async def _read(self, what: str) -> Reading:
        self._pulse.start()

        def read(_: Errand) -> Reading:
            reading = self._desk.read()
            self._desk.ticks()
            return reading

        return await self._booth.run(what, read)

    async def _guard(self, order: Order, reading: Reading) -> None:
        """Give an entry that rested and traded its stop, where the broker left it out."""
        mark = comment(order.id)
        if any(held.comment == mark and not held.sl for held in reading.positions):
            await self._booth.run("a missing stop", lambda _: self._desk.guard(order, reading.positions))

    async def _know_the_time(self) -> None:
        """Wait for fresh ticks that agree on the broker's time zone."""
        for _ in range(max(1, int(self._patience_s / _POLL_S))):
            if self._offset.value is not None:
                return
            await self._clock.sleep(_POLL_S)
            await self._booth.run("the ticks", lambda _: self._desk.ticks())
        if self._offset.value is None:
            raise BrokerUnavailable(
                "the broker's time zone is not known: no two fresh ticks agree on it; is the market closed? Give utc_offset="
            )

    def _ours(self, name: str) -> str:
        """Return the id behind a hash in a comment, where it was sent by this process."""
        return next((known for known in self._orders if named(comment(known)) == name), name) if name[:3] == "ah:" else name

    def _state(self, order_id: str, reading: Reading) -> OrderState:
        order = self._orders.get(order_id) or self._rebuilt(order_id, reading)
        if order_id in self._refused and not reading.known(order_id):
            return OrderState(order, OrderStatus.REJECTED, reason=self._refused[order_id])
        filled, told = reading.filled(order_id), reading.told(order_id)
        status, reason = reading.stands(order_id, order.quantity), "" if reading.known(order_id) else "no list shows it"
        sent = self._clock.monotonic() - self._sent.get(order_id, -self._settle_s)
        if status is OrderStatus.UNKNOWN and ZERO < told == filled and sent >= self._settle_s:
            status, reason = OrderStatus.CANCELLED, "an exit of several tickets of which not all were closed"
        return OrderState(order, status, filled, reason, max(filled, told))

    def _rebuilt(self, order_id: str, reading: Reading) -> Order:
        """Return an order of an earlier process, as far as the terminal tells."""
        now = self._clock.now()
        pending, ended = reading.of(order_id)
        found = [*pending, *ended]
        if not found:
            done = [d for d in reading.dealt if d.order_id == order_id]
            if not done:
                return Order(order_id, next(iter(self._symbols)), Side.BUY, ZERO, now)
            return Order(order_id, done[0].symbol, done[0].side, sum((d.quantity for d in done), ZERO), now)
        first = found[0]
        quantity = sum((reading.units(o.symbol, o.volume_initial) for o in found), ZERO)
        side = Side.SELL if first.type % 2 else Side.BUY
        rest = {r.id: r for r in reading.resting()}.get(order_id)
        kind = OrderType.MARKET if rest is None else rest.type
        limit = rest.price if rest is not None and kind is OrderType.LIMIT else None
        stop = rest.price if rest is not None and kind is OrderType.STOP else None
        return Order(order_id, reading.symbol(first.symbol), side, quantity, now, kind, limit, stop)
