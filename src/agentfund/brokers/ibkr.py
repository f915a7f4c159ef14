"""Interactive Brokers, through a running Trader Workstation or IB Gateway and the package `ib_async`.

Nothing at Interactive Brokers refuses a second order with our id, so an order is sent only where its reference is not among
open orders, completed orders and executions, and never again before it must have arrived. What was not answered is UNKNOWN.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from agentfund.brokers.ibkr_desk import Desk
from agentfund.brokers.ibkr_line import Line
from agentfund.brokers.ibkr_mending import Mending
from agentfund.brokers.ibkr_survey import Fills, Seen, Survey, number, rebuilt, survey
from agentfund.brokers.ibkr_words import ENTRY, STOP
from agentfund.brokers.lots import guarded
from agentfund.brokers.refusals import refuse
from agentfund.brokers.soundness import sound
from agentfund.clock import SystemClock
from agentfund.errors import BrokerError, BrokerUnavailable, ConfigError, OrderRejected
from agentfund.protocols import Clock
from agentfund.trading import ZERO, Account, Book, Fill, Order, OrderState, OrderStatus

_log = logging.getLogger("agentfund")
_MENDS = 3
_KINDS = ("STK", "CASH", "CRYPTO")
_TORN = "its bracket did not arrive whole, so it was taken back"


class InteractiveBrokers:
    """A broker session at Interactive Brokers: stocks, forex and crypto. It keeps `Broker` and `Watched`.

    Quantities are units: whole shares, no fractions. Contracts with a multiplier (futures, options) are refused. Every order
    is good till cancelled, so that a partly filled entry does not expire and take its stop along; crypto alone is
    immediate-or-cancel and keeps no bracket. An exit takes back or makes smaller the legs of the brackets that it replaces,
    before it is sent; if it is then refused, the legs are put back.

    From its first question on it looks at its stops by itself, every `interval_s` seconds until it is closed.

    Fills and ended orders are those that the workstation still has: of today, since its midnight.

    Args:
        host: where the Trader Workstation or IB Gateway runs.
        port: its interface's port: 7497 paper, 7496 live, 4002 and 4001 for the gateway.
        client_id: the session's number, one for each fund and another for its watchdog; not 0.
        account: the account's name; may be left out where the login has one only.
        contracts: arguments of an `ib_async.Contract` by symbol, such as
            `{"AAPL": {"secType": "STK", "exchange": "SMART", "primaryExchange": "NASDAQ"}}`; symbol and currency are filled in.
        currency: what the account's cash is counted in; every contract must be paid in it.
        timeout_s: how long an answer may take; whoever does not answer loses the connection.
        settle_s: how long an order may be on its way: for so long it is not sent again, whatever the lists show.
        fee_wait_s: how long a fill waits for its commission before it is told with a fee of zero.
        retry_s: how long to wait after a connection failed; doubles up to a minute.
        interval_s: how long it waits between two looks at stops of its own accord.
        clock: where the time comes from.

    Attributes:
        wake: set when an order, a fill or the connection has changed.

    Raises:
        ConfigError: no contracts, one with a multiplier, or client id 0, which takes over orders made by hand.
        MissingExtra: `ib_async` is not installed.
    """

    brackets = True
    dedupes_ids = False

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 7497,
        *,
        client_id: int,
        account: str | None = None,
        contracts: Mapping[str, Mapping[str, Any]],
        currency: str = "USD",
        timeout_s: float = 10.0,
        settle_s: float = 30.0,
        fee_wait_s: float = 10.0,
        retry_s: float = 1.0,
        interval_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if client_id < 1:
            raise ConfigError("client_id must be 1 or more: client 0 takes over the orders that somebody makes by hand")
        if not contracts:
            raise ConfigError("contracts is empty: name what is traded, such as {'AAPL': {'secType': 'STK'}}")
        if interval_s <= 0:
            raise ConfigError(f"interval_s must be above zero, not {interval_s}")
        self.wake = asyncio.Event()
        self._clock = clock or SystemClock()
        self._line = Line(host, port, client_id, timeout_s, retry_s, self._clock, self.wake)
        self._currency, self._account, self._settle_s = currency, account or "", settle_s
        self._wanted = {symbol: self._contract(symbol, dict(given)) for symbol, given in contracts.items()}
        self._contracts: dict[str, Any] = {}
        self._symbols: dict[int, str] = {}
        self._lock = asyncio.Lock()
        self._fills = Fills(fee_wait_s)
        self._orders: dict[str, Order] = {}
        self._sent: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._torn: set[str] = set()
        self._mending = Mending(client_id, self._clock)
        self._interval_s = interval_s
        self._watching: asyncio.Task[None] | None = None

    def restore(self, orders: Sequence[Order], fills: Sequence[Fill] = ()) -> None:
        """Know an earlier process's orders, and look after its entries: the next look puts back stops that are missing.

        Args:
            orders: every order of the log, as it was sent.
            fills: every fill of the log.
        """
        self._orders.update({order.id: order for order in orders})
        self._mending.restore(fills)
        self._line.stale = True
        with suppress(RuntimeError):  # no loop runs yet: the first question begins
            self._watch()

    async def account(self) -> Account:
        """Return cash in the account's currency and positions of all contracts, asked for now.

        A contract that the broker was not given is named with its number, such as "MSFT#272093".

        Raises:
            BrokerUnavailable: no connection, no answer in time, or no cash in the account's currency.
        """
        async with self._lock:
            await self._ready()
            return await self._books()

    async def orders(self) -> Sequence[OrderState]:
        """Return open orders and those that ended today, without the legs of brackets.

        Raises:
            BrokerUnavailable: no connection, or no answer in time.
        """
        async with self._lock:
            seen = await self._look()
            names = dict.fromkeys(one.id for one in seen.orders if not one.leg)
            names.update(dict.fromkeys((*self._refused, *self._traded_alone(seen))))
            return [self._state(name, seen) for name in names]

    async def fills(self) -> Sequence[Fill]:
        """Return today's executions, legs of brackets among them, oldest first.

        Raises:
            BrokerUnavailable: no connection, or no answer in time.
        """
        async with self._lock:
            await self._look()
            return self._fills.tell((), self._clock.monotonic())

    async def busts(self) -> Sequence[str]:
        """Return ids of executions that were told and then corrected or busted."""
        return tuple(self._fills.busted)

    async def book(self) -> Book:
        """Return account and every resting order of the account, whoever sent it, asked for now.

        Raises:
            BrokerUnavailable: no connection, or no answer in time.
        """
        async with self._lock:
            await self._ready()
            seen = await survey(self._line, self._account, self._name)
            time = await self._line.ask("the time", lambda ib: ib.reqCurrentTimeAsync())
            return Book(await self._books(), tuple(one.resting() for one in seen.orders if not one.ended), time)

    async def submit(self, order: Order) -> OrderState:
        """Send an order, with its bracket; one whose reference is known already is not sent, and is told as it stands.

        Raises:
            OrderRejected: it does not exist: it cannot work, or the broker refused it by a code that says so.
            BrokerUnavailable: nobody knows; ask `orders` and do not send it under another id.
        """
        sound(order, self._wanted)
        kind = self._wanted[order.symbol].secType
        if kind == "STK" and order.quantity != order.quantity.to_integral_value():
            refuse(order, "bad_quantity", f"quantity {order.quantity} is not a whole number of shares; set a lot_size of 1")
        if kind == "CRYPTO" and order.stop_loss is not None:
            refuse(order, "bad_bracket", "crypto orders keep no bracket here; let somebody else keep the stop")
        async with self._lock:
            seen = await self._look()
            known = seen.entry(order.id)
            traded = seen.traded(order.id)
            again = order.id in self._torn and (known is None or known.ended) and not traded
            if (known is not None and not again) or traded:
                self._orders.setdefault(order.id, order)
                return self._state(order.id, seen)
            if self._on_its_way(order.id) and not again:
                raise self._line.lost(
                    f"order {order.id!r} was sent less than {self._settle_s:g} s ago and is in no list yet; ask again later"
                )
            desk = self._desk()
            way = await self._made_way(order, seen) if order.reduce_only else []
            self._orders[order.id], self._sent[order.id] = order, self._clock.monotonic()
            self._refused.pop(order.id, None)
            self._torn.discard(order.id)
            try:
                status, told = await desk.send(order)
            except OrderRejected as error:
                self._refused[order.id] = str(error)
                if way:
                    await self._give_back(way)
                raise
            except BrokerUnavailable:
                if order.stop_loss is not None:  # it may have traded without its stop
                    with suppress(BrokerError):
                        await self._look()
                raise
            return OrderState(order, status, self._fills.known(order.id), told=told)

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back, and wait until it is proven gone; what a partly filled entry bought keeps its stop.

        Raises:
            OrderRejected: the broker has no such order.
            BrokerUnavailable: nobody knows, or the order belongs to another client id.
        """
        async with self._lock:
            seen = await self._look()
            entry = seen.entry(order_id)
            if entry is None:
                if order_id in self._refused or seen.traded(order_id):
                    return self._state(order_id, seen)
                if self._on_its_way(order_id):
                    raise self._line.lost(f"order {order_id!r} was sent, and is in no list yet; ask again later")
                raise OrderRejected(f"there is no order {order_id!r} at Interactive Brokers", code="unknown_order")
            if not entry.ended:
                await self._desk().take_back(entry)
                seen = await self._look()
                entry = seen.entry(order_id)
                if entry is None or not entry.ended:
                    raise self._line.lost(f"order {order_id!r} is not proven cancelled; ask again")
            order, traded = self._orders.get(order_id), seen.traded(order_id)
            if order is not None and ZERO < traded < order.quantity and not seen.live(order_id, STOP):
                self._desk().protect(order, traded)  # its legs went with it, the position did not
            return self._state(order_id, seen)

    async def close(self) -> None:
        """Stop looking and let go of the connection; orders and stops stay at the broker."""
        task, self._watching = self._watching, None
        if task is not None:
            async with self._lock:  # a stop that is being put back gets there first; every message has its deadline
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._line.drop()
        await asyncio.sleep(0)

    # -- how it looks ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look after stops also while nobody asks for anything."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watched(), name="agentfund-ibkr-protection")

    async def _watched(self) -> None:
        while True:
            await self._clock.sleep(self._interval_s)
            if not any(guarded(order) for order in self._orders.values()):
                continue
            try:
                async with self._lock:
                    await self._look()
            except Exception as error:
                _log.error("stops at Interactive Brokers cannot be looked after: %s", error)

    async def _look(self) -> Survey:
        self._watch()
        if await self._line.ready():
            await self._introduce()
        return await self._survey()

    async def _survey(self) -> Survey:
        """Ask for everything, and take back entries whose stop never arrived: they wait, unsent, for the rest of them."""
        seen = await survey(self._line, self._account, self._name)
        for one in [one for one in seen.orders if self._is_torn(one, seen)]:
            if one.client == self._line.client_id:
                self._torn.add(one.id)
                await self._desk().take_back(one)
                seen = await survey(self._line, self._account, self._name)
        for _ in range(_MENDS):
            sent = [o for n, o in self._orders.items() if o.reduce_only and seen.entry(n) is None and not seen.traded(n)]
            on_way = [o for o in sent if self._on_its_way(o.id) and o.id not in self._refused]
            if not await self._mending.mend(self._desk(), seen, self._orders, on_way, self._positions):
                break
            seen = await survey(self._line, self._account, self._name)
        self._line.stale = False
        self._fills.tell(seen.latest, self._clock.monotonic())
        return seen

    async def _ready(self) -> None:
        self._watch()
        if await self._line.ready():
            await self._introduce()
        if self._line.stale:
            await self._survey()

    async def _introduce(self) -> None:
        """Find account and contracts on a new connection."""
        try:
            accounts = self._line.ib.managedAccounts()
            if not self._account and len(accounts) == 1:
                self._account = accounts[0]
            if self._account not in accounts:
                raise ConfigError(f"account={self._account!r} is none of this login; it has {', '.join(accounts)}")
            for symbol, wanted in self._wanted.items():
                if symbol not in self._contracts:
                    await self._find(symbol, wanted)
            await self._line.ask("the open orders of this client", lambda ib: ib.reqOpenOrdersAsync())
        except BaseException:
            self._line.drop()
            raise

    async def _find(self, symbol: str, wanted: Any) -> None:
        async def details(ib: Any) -> Any:
            try:
                return await ib.reqContractDetailsAsync(wanted)
            except Exception as error:
                if getattr(error, "code", 0) != 200:
                    raise ConnectionError(str(error)) from None
                return []

        found = [one.contract for one in await self._line.ask(f"the contract of {symbol}", details)]
        if len(found) != 1:
            known = "; ".join(f"conId {c.conId} on {c.primaryExchange or c.exchange}" for c in found) or "none"
            raise ConfigError(f"{symbol}: its arguments must name one contract of Interactive Brokers, and name {known}")
        contract = found[0]
        if contract.currency != self._currency:
            raise ConfigError(f"{symbol} is paid in {contract.currency}, the account counts {self._currency}")
        contract.exchange = wanted.exchange or contract.exchange
        self._contracts[symbol], self._symbols[contract.conId] = contract, symbol

    def _contract(self, symbol: str, given: dict[str, Any]) -> Any:
        if given.get("secType") not in _KINDS or given.get("multiplier"):
            raise ConfigError(f"{symbol}: secType must be STK, CASH or CRYPTO; contracts with a multiplier are not supported")
        if "conId" not in given:
            given = {"symbol": symbol, "currency": self._currency, "exchange": "SMART", **given}
        return self._line.contract(**given)

    def _name(self, contract: Any) -> str:
        return self._symbols.get(contract.conId) or f"{contract.localSymbol or contract.symbol}#{contract.conId}"

    async def _positions(self) -> dict[str, Decimal]:
        told = await self._line.ask("the positions", lambda ib: ib.reqPositionsAsync())
        return {self._name(p.contract): number(p.position) for p in told if p.account == self._account and p.position}

    async def _books(self) -> Account:
        positions = await self._positions()

        async def updates(ib: Any) -> None:
            request = ib.client.getReqId()
            waiting = ib.wrapper.startReq(request)  # a question of its own each time: the standing one says when it likes
            ib.client.reqAccountUpdatesMulti(request, self._account, "", False)
            await waiting
            ib.client.cancelAccountUpdatesMulti(request)

        await self._line.ask("the account's values", updates)
        values = {(v.tag, v.currency): v.value for v in self._line.ib.accountValues(self._account)}
        cash = values.get(("TotalCashBalance", self._currency), values.get(("TotalCashValue", self._currency)))
        if cash is None:
            raise self._line.lost(f"the account tells no cash in {self._currency}; give currency= the account's own")
        equity = values.get(("NetLiquidation", self._currency))
        margin, free = values.get(("MaintMarginReq", self._currency)), values.get(("AvailableFunds", self._currency))
        worth = number(equity)
        return Account(
            number(cash),
            positions,
            None if equity is None else worth,
            None if margin is None or worth <= 0 else float(number(margin) / worth),
            None if free is None else number(free),
        )

    async def _made_way(self, order: Order, seen: Survey) -> list[tuple[Order, Decimal]]:
        """Make room for an exit, and look whether it is there.

        A stop may have traded while it was taken back, and a cancellation may have ended one of two orders of one number.
        """
        way = await self._desk().make_way(order, seen, (await self._books()).positions)
        if not any(one.part == STOP for one in _against(order, seen)):
            return way
        now = await survey(self._line, self._account, self._name)
        held = (await self._books()).positions.get(order.symbol, ZERO)
        ahead = sum((one.quantity - one.filled for one in _against(order, now) if one.part == STOP or not one.leg), ZERO)
        free = (abs(held) if held * order.side.sign < 0 else ZERO) - ahead
        if order.quantity > free:
            await self._give_back([(entry, size) for entry, size in way if held and not now.live(entry.id, STOP)])
            refuse(order, "legs", f"{held} is held and {free} of it free: a stop traded while it made way, or is still there")
        return way

    async def _give_back(self, way: Sequence[tuple[Order, Decimal]]) -> None:
        """After an exit was refused: legs that were taken back are sent again, and those that were made smaller grow."""
        try:
            seen = await self._look()
            for entry, size in way:
                legs = [one for one in seen.of(entry.id) if one.leg and not one.ended]
                if seen.live(entry.id, STOP):
                    await self._desk().resize(legs, size)
                else:
                    self._desk().protect(entry, size)
        except BrokerUnavailable as error:
            _log.error("a refused exit left a position with too small a stop, or with none: %s", error)

    # -- what it means ---------------------------------------------------------------------------------------------

    def _desk(self) -> Desk:
        return Desk(self._line, self._account, self._contracts, self._orders)

    def _on_its_way(self, order_id: str) -> bool:
        sent = self._sent.get(order_id)
        return sent is not None and self._clock.monotonic() - sent < self._settle_s

    def _is_torn(self, one: Seen, seen: Survey) -> bool:
        return one.part == ENTRY and not one.ended and not seen.traded(one.id) and not seen.live(one.id, STOP)

    def _traded_alone(self, seen: Survey) -> set[str]:
        return {one.order_id for one in seen.executions if seen.entry(one.order_id) is None and one.leg == "order"}

    def _state(self, order_id: str, seen: Survey) -> OrderState:
        one, traded, filled = seen.entry(order_id), seen.traded(order_id), self._fills.known(order_id)
        order = self._orders.get(order_id) or rebuilt(order_id, seen, self._clock.now())
        if traded >= order.quantity and (
            order_id in self._orders or (one is not None and one.status is not OrderStatus.CANCELLED)
        ):
            return OrderState(order, OrderStatus.FILLED, filled, told=traded)
        if one is None:
            if order_id in self._refused and not traded:
                return OrderState(order, OrderStatus.REJECTED, reason=self._refused[order_id])
            return OrderState(order, OrderStatus.UNKNOWN, filled, "it has traded, and no list shows it", traded)
        stands, reason = one.status, one.reason
        if self._is_torn(one, seen):
            stands, reason = OrderStatus.UNKNOWN, f"its stop is missing, and client id {one.client} has to take it back"
        elif stands is OrderStatus.CANCELLED and order_id in self._torn:
            reason = _TORN
        elif stands is OrderStatus.CANCELLED and order_id in self._refused and not traded:
            stands, reason = OrderStatus.REJECTED, self._refused[order_id]
        elif stands is OrderStatus.FILLED:  # its executions are on their way
            return OrderState(order, stands, filled, reason, max(traded, one.filled))
        return OrderState(order, stands, filled, reason, max(traded, one.filled))


def _against(order: Order, seen: Survey) -> list[Seen]:
    """Return what can still trade on the side of an exit."""
    return [one for one in seen.orders if not one.ended and (one.symbol, one.side) == (order.symbol, order.side)]
