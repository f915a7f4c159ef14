"""The spot exchanges that ccxt speaks to: Binance, Bybit and OKX first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

from agentfund.brokers.ccxt_dialects import cancel_params, create_args, is_stop, told_id
from agentfund.brokers.ccxt_errors import duplicate, refused, rejected, unavailable
from agentfund.brokers.ccxt_history import History
from agentfund.brokers.ccxt_look import look
from agentfund.brokers.ccxt_past import past_of
from agentfund.brokers.ccxt_wire import Wire, made, number, time_of, total
from agentfund.clock import SystemClock, to_micros, utc
from agentfund.errors import BrokerUnavailable, ConfigError, OrderRejected, OrderUnseen
from agentfund.secrets import Secret
from agentfund.trading import ZERO, Account, Book, Fill, Order, OrderState, OrderStatus, OrderType, Resting, Side

if TYPE_CHECKING:
    from agentfund.protocols import Clock


class Ccxt:
    """A spot account at an exchange, through ccxt's REST calls. Positions are balances: nothing is borrowed or sold short.

    - The client order id goes with every order. An exchange's rules for ids are kept by hashing an id that breaks them.
    - ccxt's own retries are off, each request has a deadline, ccxt's limiter of requests is on.
    - Only an exchange's own refusal is `OrderRejected`. Answers that are not JSON, or not of the form that was asked for,
      are errors; ccxt alone takes some of them for empty lists.
    - Quantities and limit prices that do not fit the exchange's steps are refused, never rounded; a stop's trigger is
      rounded to the tick. They are sent as text.
    - An order counts as ended once the trades that make up what it has filled are told, so that no fill is missing then.
    - It has no brackets: use `Protected(Ccxt(...))`. `find` answers for one order by its id, `price` tells the newest price.
    - It says that it does not dedupe ids. Binance refuses a second order with an id only while the first is open, and OKX
      lets an id be used again; for Bybit's spot nothing proves that an id is refused for ever.

    Args:
        exchange: ccxt's name of it, such as "binance"; or an exchange of `ccxt.async_support` that was made elsewhere.
        symbols: what is traded, such as "BTC/USDT"; all with the same quote currency, which is the account's cash.
        key: the API key; it needs no right to withdraw.
        secret: its secret.
        password: its passphrase, where the exchange has one (OKX).
        sandbox: whether to use the exchange's test network.
        urls: another server that speaks the exchange's protocol, such as "http://127.0.0.1:8000".
        since: fills from then on are told, aware; six days before now where None. `restore` begins earlier where the log
            asks for it.
        timeout: how long the exchange may take to answer.
        options: for ccxt's constructor.
        clock: where the time comes from.

    Raises:
        ConfigError: there is no such exchange, or the symbols do not go together.
        MissingExtra: ccxt is not installed.
    """

    brackets = False
    dedupes_ids = False
    pace_s = 2.0  # a look is four to six requests, and exchanges count them

    def __init__(
        self,
        exchange: str | Any,
        symbols: Sequence[str],
        *,
        key: str | None = None,
        secret: str | None = None,
        password: str | None = None,
        sandbox: bool = False,
        urls: str | None = None,
        since: datetime | None = None,
        timeout: timedelta = timedelta(seconds=10),
        options: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        quotes = {symbol.partition("/")[2] for symbol in symbols}
        if len(quotes) != 1 or not all(quotes) or ":" in "".join(quotes):
            raise ConfigError(f"symbols must be spot pairs with one quote currency, such as BTC/USDT; they are {list(symbols)}")
        if timeout <= timedelta(0):
            raise ConfigError(f"timeout must be above zero, not {timeout}")
        self.symbols = tuple(symbols)
        self._quote = quotes.pop()
        self._clock = clock if clock is not None else SystemClock()
        self._secrets = [Secret(value) for value in (key, secret, password) if value]  # so that no text shows them
        ex = made(exchange, key, secret, password, options, timeout) if isinstance(exchange, str) else exchange
        self._wire = Wire(ex, symbols, timeout, urls, sandbox=sandbox)
        self.name = self._wire.name
        self._since = utc(since) if since is not None else self._clock.now() - timedelta(days=6)
        self._history = History(self._wire, self._since)
        self._sent: dict[str, Order] = {}
        self._ended: dict[str, OrderState] = {}
        self._restored: set[str] = set()

    def __repr__(self) -> str:
        return f"Ccxt({self.name!r}, {list(self.symbols)!r})"

    def restore(self, orders: Sequence[Order], fills: Sequence[Fill] = ()) -> None:
        """Go on where an earlier process stood: trades are heard from before the oldest order that is open or held.

        Orders of which the log does not show how they ended are on `orders()` again. What the log holds from before then
        counts as held, so that the dust of earlier buys is no position.

        Args:
            orders: every order of the log.
            fills: every fill of the log, as it was told.
        """
        mine = [order for order in orders if order.symbol in self.symbols]
        reach = self._wire.dialect.reach_days
        first = self._clock.now() - timedelta(days=reach - 1) if reach else None
        past = past_of(mine, [fill for fill in fills if fill.symbol in self.symbols], self._since, first)
        self._since = past.since
        self._history = self._history.again(past)
        for order in mine:
            self._history.theirs[self._wire.dialect.client_id(order.id)] = order.id
        for order in past.open:
            self._sent.setdefault(order.id, order)
            self._restored.add(order.id)

    @property
    def since(self) -> datetime:
        """From when on trades are heard, aware UTC."""
        return self._since

    # -- queries -------------------------------------------------------------------------------------------------

    async def account(self) -> Account:
        """Return the quote currency as cash and base balances as positions, free and locked; dust is no position."""
        await self._hear()
        balance = await self._wire.read("the account", self._wire.ex.fetch_balance)
        positions: dict[str, Decimal] = {}
        for symbol in self.symbols:
            held, lot = total(balance, symbol.partition("/")[0]), self._wire.lot(symbol)
            least = lot
            if lot <= self._history.trades.rest(symbol, held) and (cost := self._wire.least_cost(symbol)):
                least = max(lot, cost / (await self.price(symbol)))
            quantity = self._history.trades.position(symbol, held, lot, least)
            if quantity:
                positions[symbol] = quantity
        return Account(total(balance, self._quote), positions)

    async def orders(self) -> Sequence[OrderState]:
        """Return what rests at the exchange, and how every order of this session stands."""
        await self._hear()
        states: dict[str, OrderState] = {}
        for told in await self._resting():
            state = self._state(told)
            states[state.order.id] = state
        for name, order in tuple(self._sent.items()):
            if name in self._ended:
                states[name] = self._ended[name]
            elif name not in states:
                found = await self.find(order)
                if found is None and name in self._restored and order.time < self._clock.now() - timedelta(days=1):
                    # Neither listed nor found by its id, and too old to be on its way: exchanges forget what ended unfilled.
                    said = f"{self.name} does not know it any more"
                    found = OrderState(order, OrderStatus.CANCELLED, self._history.trades.filled(name), said)
                    self._ended[name] = found
                states[name] = found or OrderState(order, OrderStatus.UNKNOWN, self._history.trades.filled(name))
        return list(states.values())

    async def find(self, order: Order) -> OrderState | None:
        """Ask how one order stands, by its id; None where the exchange has none of it."""
        if order.id in self._ended:
            return self._ended[order.id]
        told = await self._look(order)
        if told is None:
            return None
        if number(told.get("filled")) > self._history.trades.gross(order.id):
            await self._hear()
        return self._state(told, order)

    async def fills(self) -> Sequence[Fill]:
        """Return the fills of this session, oldest first, commissions included as `ccxt_trades` says."""
        await self._hear()
        return tuple(self._history.trades.fills)

    async def price(self, symbol: str) -> Decimal:
        """Return the newest price of a symbol."""
        told = await self._wire.read("the price", self._wire.ex.fetch_ticker, symbol)
        price = number(told.get("last") or told.get("close"))
        if price <= 0:
            raise BrokerUnavailable(f"{self.name} tells no price of {symbol}")
        return price

    async def book(self) -> Book:
        """Return account and resting orders, asked for now."""
        account, resting = await self.account(), []
        for told in await self._resting():
            state = self._state(told)
            order = state.order
            price = order.stop_price if order.type is OrderType.STOP else order.limit_price
            stamp = told.get("timestamp")
            left = order.quantity - number(told.get("filled"))
            resting.append(
                Resting(order.id, order.symbol, order.side, left, order.type, price, time=time_of(stamp) if stamp else None)
            )
        stamp = await self._wire.read("the time", self._wire.ex.fetch_time) if self._wire.ex.has.get("fetchTime") else None
        return Book(account, tuple(resting), time_of(stamp) if stamp else None)

    @property
    def elsewhere(self) -> Mapping[str, Decimal]:
        """Commissions of this session in currencies that are no part of this account, such as BNB."""
        return dict(self._history.trades.elsewhere)

    # -- writes --------------------------------------------------------------------------------------------------

    async def submit(self, order: Order) -> OrderState:
        """Send an order.

        Raises:
            OrderRejected: the exchange refuses it, or it cannot be sent as it is.
            BrokerUnavailable: nobody knows.
        """
        market = await self._wire.market(order.symbol)
        self._check(order)
        if order.id in self._sent:  # sent before: the exchange may take an id twice, so it is asked first
            known = await self.find(order)
            if known is not None:
                return known
        client_id = self._wire.dialect.client_id(order.id)
        kind, price, params = create_args(self.name, order, client_id, market)
        if order.type is OrderType.STOP:
            params["stopLossPrice" if "stopLossPrice" in params else "triggerPrice"] = self._stop_price(order)
        self._history.theirs[client_id] = order.id
        self._sent[order.id] = order  # before a byte leaves, so that whatever happens it is asked about
        quantity = format(order.quantity, "f")
        try:
            async with asyncio.timeout(self._wire.timeout_s):
                told = await self._wire.ex.create_order(order.symbol, kind, order.side.value, quantity, price, params)
        except Exception as error:
            if duplicate(error):
                state = await self.find(order)
                if state is not None:
                    return state
                raise OrderUnseen(f"{self.name} says that it has order {order.id!r}, and does not show it") from None
            if refused(error):
                self._wire.skewed = self._wire.skewed or type(error).__name__ == "InvalidNonce"
                del self._sent[order.id]
                raise rejected(error, self.name) from None
            unavailable(error, self.name, "the order")
        if not isinstance(told, dict) or not told.get("id") or told.get("status") == "rejected":
            raise BrokerUnavailable(f"{self.name} answered the order with something that is no order")
        self._history.name(told, order.id)
        with suppress(BrokerUnavailable):  # it is there; how it stands can wait
            found = await self.find(order)
            if found is not None:
                return found
        return OrderState(order, OrderStatus.WORKING)

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back; return how it stands.

        Raises:
            OrderRejected: the exchange has no such order.
            BrokerUnavailable: nobody knows.
        """
        if order_id in self._ended:
            return self._ended[order_id]
        order = self._sent.get(order_id) or await self._recall(order_id)
        client_id = self._wire.dialect.client_id(order_id)
        params = cancel_params(self.name, self._wire.dialect, client_id, stop=order.type is OrderType.STOP)
        try:
            async with asyncio.timeout(self._wire.timeout_s):
                await self._wire.ex.cancel_order(None if self.name == "bybit" else "", order.symbol, params)
        except Exception as error:
            if not refused(error) and type(error).__name__ not in ("OrderNotFound", "CancelPending"):
                unavailable(error, self.name, "the cancellation")
        state = await self.find(order)
        if state is None:
            raise OrderRejected(f"{self.name} has no order {order_id!r}", code="unknown_order")
        return state

    async def close(self) -> None:
        """Let go of connections. Orders and stops at the exchange stay."""
        await self._wire.ex.close()

    # -- one request ---------------------------------------------------------------------------------------------

    async def _look(self, order: Order) -> Mapping[str, Any] | None:
        """Return the exchange's words on an order by its client id, None where it has none."""
        return await look(self._wire, order, lambda child: self._history.name({"id": child, "info": {}}, order.id))

    async def _recall(self, order_id: str) -> Order:
        """Find an order of an earlier process."""
        for symbol in self.symbols:
            told = await self._look_up(order_id, symbol)
            if told is not None:
                self._sent[order_id] = replace(self._state(told).order, id=order_id)
                return self._sent[order_id]
        raise OrderRejected(f"{self.name} has no order {order_id!r}", code="unknown_order")

    async def _look_up(self, order_id: str, symbol: str) -> Mapping[str, Any] | None:
        """Return the exchange's words on an order of which no more is known than its id and symbol."""
        if order_id in self._sent:
            return await self._look(self._sent[order_id])
        for kind in (OrderType.LIMIT, OrderType.STOP):
            told = await self._look(Order(order_id, symbol, Side.SELL, Decimal(1), self._since, type=kind))
            if told is not None:
                return told
        return None

    async def _hear(self) -> None:
        """Hear of trades; an order that has ended with less than a lot untold tells the rest of its cash."""
        history = self._history
        await history.fetch()
        for trade in history.trades.owing:
            name = await history.owner(trade)
            told = await self._look_up(name, trade.symbol)
            over = told is not None and told.get("status") not in ("open", "canceling", None)
            if told is not None and over and number(told.get("filled")) <= history.trades.gross(name):
                history.trades.settle(name)

    async def _resting(self) -> list[Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for symbol in self.symbols:
            for more in ({}, *self._wire.dialect.stop_listings):
                for told in await self._wire.read(
                    "the open orders", self._wire.ex.fetch_open_orders, symbol, None, None, dict(more)
                ):
                    if told.get("status") == "open":
                        found[f"{symbol}:{told['id']}"] = told
        return list(found.values())

    # -- the exchange's words in ours ----------------------------------------------------------------------------

    def _state(self, told: Mapping[str, Any], order: Order | None = None) -> OrderState:
        info = told["info"]
        client_id = told_id(info) or str(told["id"])
        name = order.id if order is not None else self._history.theirs.get(client_id, client_id)
        self._history.name(told, name)
        order = order or self._sent.get(name) or self._order(name, told)
        gross, status = number(told.get("filled")), told.get("status")
        filled = self._history.trades.filled(name)
        if status in ("open", "canceling", None):
            return OrderState(order, OrderStatus.WORKING, filled)
        if gross > self._history.trades.gross(name):  # it has ended, and its trades are not told yet
            return OrderState(order, OrderStatus.WORKING, filled, "it has ended; its trades are on their way")
        whole = gross >= (number(told.get("amount")) or order.quantity)
        ended = OrderStatus.FILLED if status == "closed" and whole else OrderStatus.CANCELLED
        if status == "rejected" and not gross:
            ended = OrderStatus.REJECTED
        state = OrderState(order, ended, filled, str(info.get("rejectReason") or info.get("failCode") or ""))
        if name in self._sent:
            self._ended[name] = state
        return state

    def _order(self, name: str, told: Mapping[str, Any]) -> Order:
        """Return an order of somebody else, or of an earlier process, as far as the exchange tells it."""
        stop = is_stop(told["info"], told)
        trigger = number(told.get("stopLossPrice") or told.get("triggerPrice") or told.get("stopPrice"))
        kind = OrderType.STOP if stop else OrderType.MARKET if told.get("type") == "market" else OrderType.LIMIT
        return Order(
            id=name,
            symbol=str(told["symbol"]),
            side=Side(told["side"]),
            quantity=number(told.get("amount")),
            time=time_of(told.get("timestamp") or to_micros(self._since) // 1000),
            type=kind,
            limit_price=number(told.get("price")) or None if kind is OrderType.LIMIT else None,
            stop_price=trigger or None if stop else None,
        )

    def _check(self, order: Order) -> None:
        if order.stop_loss is not None or order.take_profit is not None:
            raise OrderRejected(f"{self.name} keeps no brackets on spot: use Protected(Ccxt(...))", code="brackets")
        if order.reduce_only and order.side is Side.BUY:
            raise OrderRejected("nothing is sold short on spot that a buy could reduce", code="reduce_only")
        lot = self._wire.lot(order.symbol)
        if not order.quantity.is_finite() or order.quantity <= 0 or order.quantity % lot:
            raise OrderRejected(f"quantity {order.quantity} is no multiple of the lot {lot}", code="lot")
        if order.type is OrderType.LIMIT:
            price, tick = order.limit_price, self._wire.step(order.symbol, "price")
            if price is None or not price.is_finite() or price <= 0 or price % tick:
                raise OrderRejected(f"limit price {price} is no multiple of the tick {tick}", code="tick")
        if order.type is OrderType.STOP and (order.stop_price is None or order.stop_price <= 0):
            raise OrderRejected("a stop order needs a stop price above zero", code="price")

    def _stop_price(self, order: Order) -> str:
        tick = self._wire.step(order.symbol, "price")
        return format(((order.stop_price or ZERO) / tick).to_integral_value(ROUND_HALF_EVEN) * tick, "f")
