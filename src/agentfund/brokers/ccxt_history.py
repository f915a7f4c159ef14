"""Trades of a session, read page by page, each in the name of its order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from agentfund.brokers.ccxt_dialects import told_id
from agentfund.brokers.ccxt_pages import Pages
from agentfund.brokers.ccxt_past import Past
from agentfund.brokers.ccxt_trades import Folded, RawTrade
from agentfund.brokers.ccxt_wire import Wire, number, time_of
from agentfund.clock import to_micros
from agentfund.errors import BrokerUnavailable
from agentfund.trading import Side

_OVERLAP = timedelta(minutes=10)
_FEW, _ORDERS = 5, 1000
_QUIET = timedelta(days=6)
"""So long after the newest trade the same days are asked for again; it is less than a window of any exchange."""


class History:
    """What has traded since a moment.

    Args:
        wire: the way to the exchange.
        since: trades from then on count, aware UTC.

    Attributes:
        trades: what was heard, folded into fills.
        theirs: the fund's ids by the ids under which the exchange has them.
    """

    def __init__(self, wire: Wire, since: datetime) -> None:
        self.trades = Folded()
        self.theirs: dict[str, str] = {}
        self._wire = wire
        self._heard = dict.fromkeys(wire.symbols, since)
        self._pages = Pages(wire)
        self._names: dict[str, str] = {}
        self._fetching = asyncio.Lock()

    def name(self, told: Mapping[str, Any], order_id: str) -> None:
        """Remember under which ids the exchange has an order of the fund."""
        for theirs in (told.get("id"), told["info"].get("ordId"), told["info"].get("orderId")):
            if theirs:
                self._names[str(theirs)] = order_id

    def again(self, past: Past) -> History:
        """Return a history that begins where the log's past asks for it, and knows the same names."""
        new = History(self._wire, past.since)
        new.theirs, new._names = self.theirs, self._names
        new.trades.held, new.trades.rests = past.held, past.rests
        return new

    async def fetch(self) -> None:
        """Hear of every trade since the last time; pages are read to the end before any of them counts."""
        async with self._fetching:
            for symbol in self._wire.symbols:
                await self._wire.market(symbol)
                pages = await self._pages.since(symbol, to_micros(self._heard[symbol]) // 1000)
                fresh = {str(one["id"]): one for one in pages if not self.trades.seen(str(one["id"]), symbol)}
                await self._ask_names(symbol, fresh.values())
                for told in sorted(fresh.values(), key=lambda one: (one["timestamp"], len(str(one["id"])), str(one["id"]))):
                    trade = self._raw(symbol, told)
                    self.trades.add(trade, await self.owner(trade), self._wire.lot(symbol))
                    self._heard[symbol] = max(self._heard[symbol], trade.time - _OVERLAP)
                self._pages.counted(symbol, pages)
                self._heard[symbol] = max(self._heard[symbol], time_of(self._wire.now_ms()) - _QUIET)

    def _raw(self, symbol: str, told: Mapping[str, Any]) -> RawTrade:
        fees = told.get("fees") or ([told["fee"]] if told.get("fee") else [])
        try:
            # ccxt guesses the currency of Bybit's commissions from the side; the exchange's own word goes before.
            word = told["info"].get("feeCurrency")
            paid = tuple((str(word or fee["currency"]), number(fee["cost"])) for fee in fees if fee.get("cost"))
            side, quantity, price = Side(told["side"]), number(told["amount"]), number(told["price"])
            theirs = str(told["order"])
            return RawTrade(
                str(told["id"]), theirs, symbol, side, quantity, price, paid, time_of(told["timestamp"]), told_id(told["info"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BrokerUnavailable(f"{self._wire.name} tells a trade of {symbol} that cannot be read: {error!r}") from error

    async def _ask_names(self, symbol: str, trades: Iterable[Mapping[str, Any]]) -> None:
        """Binance's trades do not tell their client ids: after a long absence orders are read by the thousand."""
        wanted = sorted({int(one["order"]) for one in trades if str(one["order"]) not in self._names} if self._listed else ())
        while len(wanted) > _FEW:
            ask = self._wire.ex.fetch_orders
            told = await self._wire.read("the orders of trades", ask, symbol, None, _ORDERS, {"orderId": wanted[0]})
            for one in told:
                client_id = told_id(one["info"]) or str(one["id"])
                self._names.setdefault(str(one["id"]), self.theirs.get(client_id, client_id))
            newest = max((int(one["id"]) for one in told), default=0)
            if newest < wanted[0]:
                return
            wanted = [one for one in wanted if one > newest]

    @property
    def _listed(self) -> bool:
        return self._wire.dialect.pages == "number"

    async def owner(self, trade: RawTrade) -> str:
        """Return the id of a trade's order as the fund knows it."""
        if trade.client_id:
            return self.theirs.get(trade.client_id, trade.client_id)
        if trade.exchange_order not in self._names:
            told = await self._wire.read("the order of a trade", self._wire.ex.fetch_order, trade.exchange_order, trade.symbol)
            client_id = told_id(told["info"]) or trade.exchange_order
            self._names[trade.exchange_order] = self.theirs.get(client_id, client_id)
        return self._names[trade.exchange_order]
