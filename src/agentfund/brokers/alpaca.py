"""Alpaca: stocks and crypto, on paper or with real money."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from agentfund.brokers.alpaca_books import Books, resting
from agentfund.brokers.alpaca_desk import Desk
from agentfund.brokers.alpaca_exits import Exits
from agentfund.brokers.alpaca_fills import Fills
from agentfund.brokers.alpaca_line import Line, reading
from agentfund.brokers.alpaca_orders import Orders
from agentfund.brokers.alpaca_owed import Known
from agentfund.brokers.alpaca_sdk import Sdk
from agentfund.brokers.alpaca_stream import Listener
from agentfund.brokers.alpaca_words import moment, request_of, state_of, status_of
from agentfund.clock import SystemClock
from agentfund.errors import BrokerError, BrokerUnavailable, ConfigError, OrderRejected
from agentfund.secrets import Secret
from agentfund.trading import Account, Book

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from datetime import datetime

    from agentfund.protocols import Clock
    from agentfund.trading import Fill, Order, OrderState

T = TypeVar("T")
_log = logging.getLogger("agentfund")
_HOME, _DAY = timedelta(days=7), timedelta(days=1)
_WORKERS = 4
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class Alpaca:
    """An account at Alpaca. Live trading needs an explicit `paper=False`.

    Every request is sent once and has a deadline; reads are tried again within it, writes never. An order is refused only
    where Alpaca says so in words of its own; whatever else happens leaves its fate unknown until REST tells. The stream of
    trade updates only says that something has happened: all is right without it.

    Entries with a stop or a target are brackets that Alpaca keeps, good till cancelled. A reduce-only order is cut to the
    position, takes back the legs that hold its shares, and puts them back where it fails, or after a restart by `restore`.

    Fills bear no fees, for Alpaca books them at the end of the day, without naming orders: regulatory fees make cash smaller
    than the fills say, by cents. Fees of crypto are taken from what is received at once: after a purchase fewer coins are held
    than were bought, so a fund whose book must equal the account's cannot trade crypto here with real money.

    Args:
        key: key id; by default the environment's APCA_API_KEY_ID.
        secret: its secret; by default the environment's APCA_API_SECRET_KEY.
        paper: False trades with real money.
        url: another server than Alpaca's own, such as a local one.
        stream: whether to listen to trade updates; a process can listen to an account once.
        crypto: whether this session trades crypto, for which Alpaca has no brackets; `brackets` is False then.
        time_in_force: "gtc" or "day", of orders in whole shares without legs; fractions are always day orders, brackets and
            crypto always good till cancelled.
        partial_s: seconds that an entry with a stop may be filled in part; then its rest is taken back.
        since: how far fills and orders are read back, aware; a week before it was built where None.
        timeout_s: seconds that a request may take.
        data_timeout_s: seconds without a sign of life after which the stream connects again.
        reconnect_s: the least seconds before it does.
        clock: where the time comes from.

    Raises:
        ConfigError: there are no keys, or an argument cannot work.
    """

    dedupes_ids = True
    pace_s = 2.0  # a look is three requests, four after a fill: a watchdog takes 90 to 120 of the 200 that a minute has

    def __init__(
        self,
        key: str | None = None,
        secret: str | None = None,
        *,
        paper: bool = True,
        url: str | None = None,
        stream: bool = True,
        crypto: bool = False,
        time_in_force: str = "gtc",
        partial_s: float = 5.0,
        since: datetime | None = None,
        timeout_s: float = 10.0,
        data_timeout_s: float = 30.0,
        reconnect_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        mine = Secret(key or os.environ.get("APCA_API_KEY_ID", ""))
        hidden = Secret(secret or os.environ.get("APCA_API_SECRET_KEY", ""))
        if not mine or not hidden:
            raise ConfigError("Alpaca needs keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or give key= and secret=")
        if not isinstance(paper, bool):
            raise ConfigError(f"paper must be True or False, not {paper!r}")
        if time_in_force not in ("gtc", "day"):
            raise ConfigError(f'time_in_force must be "gtc" or "day", not {time_in_force!r}')
        if not (timeout_s > 0 and data_timeout_s > 0 and reconnect_s > 0 and partial_s > 0):
            raise ConfigError("timeout_s, data_timeout_s, reconnect_s and partial_s must be above zero")
        if since is not None and since.tzinfo is None:
            raise ConfigError("since needs a time zone: datetime(..., tzinfo=UTC)")
        self._url = _checked(url)
        self._clock = clock or SystemClock()
        self._tif, self._crypto, self._paper = time_in_force, crypto, paper
        sdk = Sdk(mine, hidden, paper=paper, url=self._url, timeout_s=timeout_s, workers=_WORKERS, clock=self._clock)
        begin = since or self._clock.now() - _HOME
        self._line = Line(sdk, timeout_s, _WORKERS, self._clock)
        self._orders = Orders(self._line, begin)
        self._desk = Desk(self._line, timeout_s, self._clock)
        self._fills = Fills(self._line, self._orders, begin)
        self._exits = Exits(
            self._line,
            self._desk,
            self._orders,
            self._all_fills,
            Known(self._fills),
            time_in_force=time_in_force,
            partial_s=partial_s,
            clock=self._clock,
        )
        self._books = Books(self._line)
        self._wants_stream = stream
        self._listener = Listener(
            (self._url or ("paper" if paper else "live"), sha256(mine.reveal().encode()).hexdigest()),
            sdk,
            heard=self._heard,
            connected=self._catch_up,
            data_timeout_s=data_timeout_s,
            pause_s=reconnect_s,
            clock=self._clock,
        )
        self._listening = False
        self._reading = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tending: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Alpaca {'paper' if self._paper else 'LIVE'} account{f' at {self._url}' if self._url else ''}>"

    @property
    def brackets(self) -> bool:
        """Whether Alpaca keeps an entry's stop and target by itself; not for crypto."""
        return not self._crypto

    @property
    def unprotected(self) -> tuple[str, ...]:
        """Symbols whose stop was taken back and is not there again yet; it is being put back."""
        return tuple(sorted({owed.symbol for owed in self._exits.owed if not owed.exit}))

    def restore(self, orders: Sequence[Order], fills: Sequence[Fill] = ()) -> None:
        """Look after entries of an earlier process: what it took legs from and did not protect again gets them back.

        Positions, resting orders and newer fills are asked for at once, or with the first question where no loop runs.

        Args:
            orders: every order of the log, as it was sent.
            fills: every fill of the log.
        """
        for order in orders:
            self._orders.remember(order)
        if orders:
            begin = max(order.time for order in orders) - _DAY
            self._orders.look_back(begin)
            self._fills.look_back(begin)
        self._exits.restore(orders, fills)
        with suppress(RuntimeError):
            self._tend()

    async def account(self) -> Account:
        """Return cash, positions, equity, margin and buying power by Alpaca's books, all of one moment.

        Raises:
            BrokerUnavailable: it does not answer, answers with another account, or trades so fast that no moment can be told.
        """
        return await self._books.account()

    async def orders(self) -> Sequence[OrderState]:
        """Return every order since the session began and older ones that are open; legs are told by their fills.

        Raises:
            BrokerUnavailable: it does not answer.
        """
        self._listen_if_it_may()
        await self._read()
        return self._orders.states()

    async def fills(self) -> Sequence[Fill]:
        """Return every fill of the session, oldest first; those of legs name their entry.

        Raises:
            BrokerUnavailable: it does not answer.
        """
        self._listen_if_it_may()
        await self._read()
        async with self._reading:
            return await self._fills.refresh()

    async def busts(self) -> Sequence[str]:
        """Return ids of fills that were told and that Alpaca has taken back since; `fills` finds them."""
        return self._fills.busted

    async def submit(self, order: Order) -> OrderState:
        """Send an order once; return how it stands.

        Raises:
            OrderRejected: Alpaca refused it; it does not exist.
            BrokerUnavailable: nobody knows; `orders` tells once Alpaca answers.
        """
        self._listen_if_it_may()
        if order.reduce_only:
            # Legs are taken back for it: what was begun is ended, also where nobody waits any more.
            wire = await self._whole(self._exits.send(order))
        else:
            if order.stop_loss is not None or order.take_profit is not None:
                self._exits.watch(order)
            wire = await self._desk.send(request_of(order, self._tif))
            if wire["status"] == "partially_filled":
                self._exits.news = True
                self._tend()
        with reading("order"):
            self._orders.remember(order)
            self._orders.add(wire)
            return state_of(wire, order)

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back; return how it stands: WORKING where Alpaca has not done it yet. What has filled stays protected.

        Raises:
            OrderRejected: Alpaca has no such order.
            BrokerUnavailable: nobody knows whether it was taken back.
        """
        return await self._whole(self._cancel(order_id))

    async def book(self) -> Book:
        """Return account and resting orders, legs among them, asked for now.

        Raises:
            BrokerUnavailable: it does not answer; never an empty book.
        """
        await self._read()
        account = await self.account()
        time = self._line.time
        if time is None:
            with reading("clock"):
                time = moment((await self._line.ask("/clock"))["timestamp"])
        with reading("orders"):
            minute = time - timedelta(minutes=1)
            tops = [group for _, wire, group in self._orders.members() if wire is group]
            sent = sum(moment(group["created_at"]) >= minute for group in tops)
            return Book(account, tuple(resting(self._orders)), time, sent)

    async def suspend(self) -> None:
        """Let Alpaca refuse every new order of this account, from whomever it comes.

        Raises:
            BrokerUnavailable: nobody knows whether it does now.
        """
        await self._suspend(True)

    async def resume(self) -> None:
        """Let Alpaca take orders again.

        Raises:
            BrokerUnavailable: nobody knows whether it does now.
        """
        await self._suspend(False)

    def listen(self) -> None:
        """Listen to trade updates now; the first question does it by itself.

        Raises:
            ConfigError: this process listens to this account already.
        """
        self._listener.start()
        self._listening = True

    async def close(self) -> None:
        """Let go of connections and threads. Orders and stops at Alpaca stay."""
        await self._listener.close()
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.unprotected:
            _log.error("closed while %s had not got its stop back; look at it at Alpaca", ", ".join(self.unprotected))
        await self._line.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _read(self) -> None:
        async with self._reading:
            await self._orders.refresh()
        try:
            await self._whole(self._exits.review())
        except BrokerError as error:  # what was asked for is known all the same
            _log.error("protection could not be looked after: %s", error)

    async def _catch_up(self) -> None:
        await self._read()
        async with self._reading:
            await self._fills.refresh(whole=True)
        self.wake.set()

    def _heard(self, update: dict[str, Any]) -> None:
        self._fills.hear(update)
        if update.get("event") == "partial_fill":
            self._exits.news = True
            self._tend()
        self.wake.set()

    def _listen_if_it_may(self) -> None:
        if self._wants_stream and not self._listening:
            self._listening = True
            try:
                self.listen()
            except ConfigError as error:
                _log.warning("%s; going on without", error)

    async def _cancel(self, order_id: str) -> OrderState:
        found = await self._desk.find(order_id)
        if found is None:
            raise OrderRejected(f"Alpaca has no order {order_id!r}; orders() tells which there are", code="unknown_order")
        wires = [found, *(w for w in self._orders.named(order_id) if w["id"] != found["id"] and status_of(w).open)]
        for wire in wires:
            with reading("order"):
                if status_of(wire).open:
                    wire = await self._desk.cancel(wire)
                last = self._orders.add(wire)
        await self._exits.review(wait=True)
        with reading("order"):
            return self._orders.state(last)

    async def _suspend(self, wanted: bool) -> None:
        told = await self._line.send("PATCH", "/account/configurations", {"suspend_trade": wanted})
        body = told.json()
        if told.status != 200 or not isinstance(body, dict) or body.get("suspend_trade") is not wanted:
            raise BrokerUnavailable(f"nobody knows whether Alpaca has suspended trading now: {told}")

    async def _all_fills(self, whole: bool) -> Sequence[Fill]:
        async with self._reading:
            return await self._fills.refresh(whole=whole)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end, also when whoever asked for it does not wait."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        finally:
            self._tend()

    def _tend(self) -> None:
        """Look after what is owed also while nobody asks for anything."""
        if self._exits.busy and (self._tending is None or self._tending.done()):
            self._tending = asyncio.get_running_loop().create_task(self._tended(), name="agentfund-alpaca-protection")

    async def _tended(self) -> None:
        pause = 0.0 if self._exits.news else _SHORTEST_PAUSE
        while self._exits.busy:
            partial = self._exits.partial_s
            waits = [pause] if self._exits.owed or self._exits.news or not partial else []
            await self._clock.sleep(min([*waits, *([partial] if partial else [])]))
            pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, 2 * pause))
            try:
                await self._read()
            except BrokerError as error:
                _log.error("protection of %s cannot be looked after: %s", ", ".join(self.unprotected) or "exits", error)


def _checked(url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ConfigError("url must look like https://host")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError("url must be https: over http anybody on the way reads the keys")
    return url.rstrip("/")
