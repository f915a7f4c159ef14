"""The local terminal: books of a netting or hedging account, and the ways in which a terminal fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import Any, TypeVar

from agentfund.clock import SystemClock
from agentfund.protocols import Clock
from agentfund.testing.terminal5.records import (
    CONSTANTS,
    AccountInfo,
    OrderCheckResult,
    OrderSendResult,
    SymbolInfo,
    TerminalInfo,
    Tick,
    TradeDeal,
    TradeOrder,
    TradePosition,
)

SYMBOL = SymbolInfo("TEST", True, 2, 0.01, 0.01, 1.0, 2, 2, 0, 0, 3, 1.0, 1000.0, 0.01, "USD")


Answer = TypeVar("Answer")


class FakeTerminal:
    """A module-like object that behaves as the package MetaTrader5 with a terminal behind it.

    Args:
        symbols: what can be traded; one CFD named TEST where none are given.
        balance: money at the beginning.
        hedging: whether positions of one symbol stay apart.
        commission: what a deal costs, in the account's currency.
        offset: how far the broker's wall time is ahead of UTC.
        clock: where the time comes from.

    Attributes:
        fail: functions that return None instead of an answer, by name, such as {"positions_get"}.
        hang: functions that do not return before `release` is called, by name.
        refuse: codes with which the next orders are refused, oldest first; 0 gives None, as a terminal that lost its way,
            and -1 lets one pass.
        after: codes with which the next changes of a position's levels are refused.
        lose_reply: how many of the next orders are carried out and answered with None.
        connected: whether the terminal is connected to the broker.
        drop_stops: whether entries lose their stop on the way, as some brokers do.
        calls: the functions that were called, in order.
        beside: how many calls were made while another had not returned.
    """

    def __init__(
        self,
        symbols: Mapping[str, SymbolInfo] | None = None,
        *,
        balance: float = 100_000.0,
        hedging: bool = False,
        commission: float = 1.0,
        offset: timedelta = timedelta(hours=3),
        clock: Clock | None = None,
    ) -> None:
        self._symbols = dict(symbols or {"TEST": SYMBOL})
        self._balance, self._hedging, self._commission = balance, hedging, commission
        self.offset, self._clock = offset, clock or SystemClock()
        self._numbers = count(1000)
        self._ticks: dict[str, Tick] = {}
        self._positions: dict[int, TradePosition] = {}
        self._orders: dict[int, TradeOrder] = {}
        self._past: list[TradeOrder] = []
        self._deals: list[TradeDeal] = []
        self._error = (1, "Success")
        self._busy = 0
        self._released = threading.Event()
        self.fail: set[str] = set()
        self.hang: set[str] = set()
        self.refuse: list[int] = []
        self.after: list[int] = []
        self.lose_reply = 0
        self.connected = True
        self.drop_stops = False
        self.calls: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.beside = 0

    def __getattr__(self, name: str) -> int:
        if name in CONSTANTS:
            return CONSTANTS[name]
        raise AttributeError(f"module 'MetaTrader5' has no attribute {name!r}")

    # -- what the package has --------------------------------------------------------------------------------------

    def initialize(self, *_: Any, **__: Any) -> bool:
        """Connect to the terminal."""
        return self._call("initialize", lambda: True) is True

    def shutdown(self) -> None:
        """Let go of the terminal."""
        self.calls.append("shutdown")

    def last_error(self) -> tuple[int, str]:
        """Return why the last call failed."""
        return self._error

    def account_info(self) -> AccountInfo | None:
        """Return the account's state."""
        return self._call("account_info", self._account)

    def terminal_info(self) -> TerminalInfo | None:
        """Return the terminal's state."""
        return self._call("terminal_info", lambda: TerminalInfo(self.connected, True, False, ""))

    def symbol_info(self, symbol: str) -> SymbolInfo | None:
        """Return what is known of a symbol."""
        return self._call("symbol_info", lambda: self._symbols.get(symbol))

    def symbol_info_tick(self, symbol: str) -> Tick | None:
        """Return the last tick of a symbol."""
        return self._call("symbol_info_tick", lambda: self._ticks.get(symbol))

    def symbol_select(self, symbol: str, enable: bool = True) -> bool:
        """Show a symbol in the market watch."""
        return self._call("symbol_select", lambda: enable and symbol in self._symbols) is True

    def positions_get(self, **_: Any) -> tuple[TradePosition, ...] | None:
        """Return all positions."""
        return self._call("positions_get", lambda: tuple(self._positions.values()))

    def orders_get(self, **_: Any) -> tuple[TradeOrder, ...] | None:
        """Return pending orders."""
        return self._call("orders_get", lambda: tuple(self._orders.values()))

    def history_orders_get(self, start: datetime, end: datetime) -> tuple[TradeOrder, ...] | None:
        """Return orders that ended in a time."""
        return self._call("history_orders_get", lambda: tuple(self._past))

    def history_deals_get(self, start: datetime, end: datetime) -> tuple[TradeDeal, ...] | None:
        """Return deals of a time."""
        return self._call("history_deals_get", lambda: tuple(self._deals))

    def order_check(self, request: dict[str, Any]) -> OrderCheckResult | None:
        """Say whether a request could be carried out."""
        return self._call("order_check", lambda: OrderCheckResult(0, "Done"))

    def order_send(self, request: dict[str, Any]) -> OrderSendResult | None:
        """Carry a request out."""
        return self._call("order_send", lambda: self._send(dict(request)))

    # -- what a test does with it ----------------------------------------------------------------------------------

    def move(self, symbol: str, bid: float, ask: float | None = None) -> None:
        """Let the market trade at a price: pending orders, stops and targets that it comes to are carried out."""
        now = int((self._clock.now() + self.offset).timestamp() * 1000)
        last = self._ticks.get(symbol)
        now = max(now, last.time_msc + 1) if last else now
        self._ticks[symbol] = Tick(now // 1000, bid, bid if ask is None else ask, bid, now)
        for order in [o for o in self._orders.values() if o.symbol == symbol]:
            price = self._price(symbol, order.type % 2)
            limit, buys = order.type in (2, 3), order.type % 2 == 0
            if (price <= order.price_open) == (buys == limit) or price == order.price_open:
                self.fill(order.ticket, order.volume_current, min(price, order.price_open) if limit and buys else price)
        for position in [p for p in self._positions.values() if p.symbol == symbol]:
            self._protect(position)

    def fill(self, ticket: int, volume: float, price: float) -> None:
        """Carry out a pending order, or a part of it."""
        order = self._orders[ticket]
        left = round(order.volume_current - volume, 8)
        done = order._replace(volume_current=left, state=3 if left else 4, time_done_msc=self._msc())
        self._deal(done, volume, price, 3, order.sl, order.tp)
        if left:
            self._orders[ticket] = done
        else:
            del self._orders[ticket]
            self._past.append(done)

    def by_hand(self, symbol: str, volume: float, *, buy: bool = True) -> None:
        """Trade as a person at the terminal would."""
        order = self._order(symbol, 0 if buy else 1, volume, self._price(symbol, 0 if buy else 1), ("", 0, 0.0, 0.0), state=4)
        self._past.append(order)
        self._deal(order, volume, order.price_open, 0, 0.0, 0.0)

    def release(self) -> None:
        """Let calls that hang go on."""
        self.hang = set()
        self._released.set()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _call(self, name: str, answer: Callable[[], Answer]) -> Answer | None:
        self.beside += self._busy > 0
        self._busy += 1
        try:
            self.calls.append(name)
            if name in self.hang:
                self._released.wait(60)
            if name in self.fail:
                self._error = (-10004, "No IPC connection")
                return None
            self._error = (1, "Success")
            return answer()
        finally:
            self._busy -= 1

    def _msc(self) -> int:
        return int((self._clock.now() + self.offset).timestamp() * 1000)

    def _price(self, symbol: str, sells: int) -> float:
        return self._ticks[symbol].bid if sells else self._ticks[symbol].ask

    def _worth(self, position: TradePosition) -> float:
        way = -1 if position.type else 1
        size = self._symbols[position.symbol].trade_contract_size
        return way * (self._price(position.symbol, 1 - position.type) - position.price_open) * position.volume * size

    def _account(self) -> AccountInfo:
        profit = sum(self._worth(p) for p in self._positions.values())
        margin = (
            sum(p.volume * p.price_open * self._symbols[p.symbol].trade_contract_size for p in self._positions.values()) / 10
        )
        equity = self._balance + profit
        mode = 2 if self._hedging else 0
        return AccountInfo(42, True, True, mode, self._balance, 0.0, profit, equity, margin, equity - margin, "USD")

    def _order(
        self, symbol: str, kind: int, volume: float, price: float, tags: tuple[str, int, float, float], state: int = 1
    ) -> TradeOrder:
        comment, magic, sl, tp = tags
        now = self._msc()
        number = next(self._numbers)
        left = 0.0 if state == 4 else volume
        return TradeOrder(
            number, now // 1000, now, now, kind, state, magic, number, volume, left, price, sl, tp, symbol, comment
        )

    def _send(self, request: dict[str, Any]) -> OrderSendResult | None:
        self.sent.append(request)
        if self.refuse:
            code = self.refuse.pop(0)
            if code < 0:
                return self._carry_out(request)
            if not code:
                self._error = (-10005, "IPC timeout")
                return None
            return OrderSendResult(code, 0, 0, 0.0, 0.0, f"refused with {code}", request)
        answer = self._carry_out(request)
        if self.lose_reply:
            self.lose_reply -= 1
            self._error = (-10005, "IPC timeout")
            return None
        return answer

    def _carry_out(self, request: dict[str, Any]) -> OrderSendResult:
        action = request["action"]
        if action == CONSTANTS["TRADE_ACTION_REMOVE"]:
            return self._remove(request)
        if action == CONSTANTS["TRADE_ACTION_SLTP"] and self.after:
            return OrderSendResult(self.after.pop(0), 0, 0, 0.0, 0.0, "Invalid stops", request)
        if action == CONSTANTS["TRADE_ACTION_SLTP"]:
            held = self._positions[request["position"]]
            self._positions[held.ticket] = held._replace(sl=request["sl"], tp=request["tp"])
            return OrderSendResult(10009, 0, 0, 0.0, 0.0, "Request executed", request)
        held_id = request.get("position", 0)
        if held_id and held_id not in self._positions:
            return OrderSendResult(10036, 0, 0, 0.0, 0.0, "Position closed", request)
        sl, tp = (0.0, 0.0) if self.drop_stops else (request.get("sl", 0.0), request.get("tp", 0.0))
        what = (request["symbol"], request["type"], request["volume"])
        tags = (request["comment"], request["magic"], sl, tp)
        if action == CONSTANTS["TRADE_ACTION_PENDING"]:
            order = self._order(*what, request["price"], tags)
            self._orders[order.ticket] = order
            self.move(order.symbol, self._ticks[order.symbol].bid, self._ticks[order.symbol].ask)
            return OrderSendResult(10009, 0, order.ticket, order.volume_initial, 0.0, "Request executed", request)
        order = self._order(*what, self._price(what[0], what[1]), tags, state=4)
        self._past.append(order)
        deal = self._deal(order, order.volume_initial, order.price_open, 3, sl, tp, held_id)
        return OrderSendResult(10009, deal, order.ticket, order.volume_initial, order.price_open, "Request executed", request)

    def _remove(self, request: dict[str, Any]) -> OrderSendResult:
        order = self._orders.pop(request["order"], None)
        if order is None:
            return OrderSendResult(10013, 0, 0, 0.0, 0.0, "Invalid request", request)
        self._past.append(order._replace(state=2, time_done_msc=self._msc()))
        return OrderSendResult(10009, 0, order.ticket, 0.0, 0.0, "Request executed", request)

    def _protect(self, held: TradePosition) -> None:
        price = self._price(held.symbol, 1 - held.type)
        way = -1 if held.type else 1
        for level, reason in ((held.sl, 4), (held.tp, 5)):
            if level and (price - level) * way * (1 if reason == 5 else -1) >= 0:
                name = "sl" if reason == 4 else "tp"
                tags = (f"[{name} {level}]", held.magic, 0.0, 0.0)
                order = self._order(held.symbol, 1 - held.type, held.volume, price, tags, state=4)
                self._past.append(order)
                self._deal(order, held.volume, price, reason, 0.0, 0.0, held.ticket)
                return

    def _deal(
        self, order: TradeOrder, volume: float, price: float, reason: int, sl: float, tp: float, position: int = 0
    ) -> int:
        sells = order.type % 2
        netted = next((p.ticket for p in self._positions.values() if p.symbol == order.symbol), 0)
        held = self._positions.get(position or (0 if self._hedging else netted))
        size = self._symbols[order.symbol].trade_contract_size
        number, now, entry, profit = next(self._numbers), self._msc(), 0, 0.0
        ident = order.ticket
        if held is None:
            first = (order.ticket, now // 1000, now, sells, order.magic, order.ticket, reason)
            self._positions[order.ticket] = TradePosition(
                *first, volume, price, sl, tp, price, 0.0, 0.0, order.symbol, order.comment
            )
        elif held.type == sells:
            ident, total = held.ticket, held.volume + volume
            average = (held.price_open * held.volume + price * volume) / total
            self._positions[ident] = held._replace(volume=total, price_open=average, sl=sl or held.sl, tp=tp or held.tp)
        else:
            ident, closed = held.ticket, min(held.volume, volume)
            entry = 1 if volume <= held.volume else 2
            profit = (price - held.price_open) * closed * size * (-1 if held.type else 1)
            left = round(held.volume - volume, 8)
            if left > 0:
                self._positions[ident] = held._replace(volume=left)
            elif left < 0:
                self._positions[ident] = held._replace(type=sells, volume=-left, price_open=price, sl=sl, tp=tp)
            else:
                del self._positions[ident]
        self._balance += profit - self._commission
        times = (number, order.ticket, now // 1000, now)
        money = (volume, price, -self._commission, 0.0, profit, 0.0)
        self._deals.append(TradeDeal(*times, sells, entry, order.magic, ident, reason, *money, order.symbol, order.comment))
        return number
