"""One order, asked for by the id that it was sent with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from agentfund.brokers.ccxt_dialects import told_id
from agentfund.brokers.ccxt_errors import unavailable
from agentfund.brokers.ccxt_wire import Wire
from agentfund.clock import to_micros
from agentfund.trading import Order, OrderType

_WEEK = 7 * 86_400_000


async def look(wire: Wire, order: Order, triggered: Callable[[str], None]) -> Mapping[str, Any] | None:
    """Return the exchange's words on an order, None where it has none.

    Args:
        wire: the way to the exchange.
        order: which one; its id, symbol, type and time count.
        triggered: told the exchange's id of the sale that a stop has become, where that is another order.

    Raises:
        BrokerUnavailable: nobody knows.
    """
    client_id = wire.dialect.client_id(order.id)
    stop = order.type is OrderType.STOP
    await wire.market(order.symbol)
    more = wire.dialect.stop_params if stop else {}
    try:
        async with asyncio.timeout(wire.timeout_s):
            if wire.name == "bybit":
                return await _listed(wire, order, client_id, {"orderLinkId": client_id, **more})
            told = await wire.ex.fetch_order("", order.symbol, {"clientOrderId": client_id, **more})
            child = str(told["info"].get("ordId") or "") if stop else ""
            if child and child != "0" and told.get("status") != "canceled":  # it was triggered: its sale is another order
                triggered(child)
                told = await wire.ex.fetch_order(child, order.symbol)
            return dict(told)
    except Exception as error:
        if type(error).__name__ == "OrderNotFound":
            return None
        unavailable(error, wire.name, "the question for an order")


async def _listed(wire: Wire, order: Order, client_id: str, more: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Bybit tells of ended orders of the last seven days, or of the seven days from a moment on."""
    working, ended = wire.ex.fetch_open_orders, wire.ex.fetch_canceled_and_closed_orders
    begun = to_micros(order.time - timedelta(hours=1)) // 1000
    earlier = range(begun, wire.now_ms() - _WEEK, _WEEK)
    for ask, since in ((working, None), (ended, None), *((ended, one) for one in earlier)):
        for told in await ask(order.symbol, since, None, dict(more)):
            if told_id(told["info"]) == client_id:
                return dict(told)
    return None
