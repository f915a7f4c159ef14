"""An exchange in a process of its own: it makes the market, deals at once, and keeps books that no harm to a fund can reach.

It speaks one JSON object a line over TCP. `{"do": "stream"}` is answered by bars for ever; every other request by one line.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from agentfund.clock import to_micros
from agentfund.trading import Fill, Order, OrderState, OrderStatus, Portfolio, Side

if TYPE_CHECKING:
    from collections.abc import Callable

SYMBOL = "SIM"
CASH = Decimal(100_000)
HISTORY = 50

ORDER = TypeAdapter(Order)
STATES = TypeAdapter(list[OrderState])
FILLS = TypeAdapter(list[Fill])


class Exchange:
    """One instrument, one account.

    Args:
        seed: which market.
        bar_s: length of a bar in seconds of real time.
        orders: whether orders are taken from the beginning; see `close`.
    """

    def __init__(self, seed: int, bar_s: float) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a market, no secret
        self._interval = timedelta(seconds=bar_s)
        self.bars: list[list[float]] = []
        self.book = Portfolio(CASH)
        self.states: dict[str, OrderState] = {}
        self.fills: list[Fill] = []
        self.arrivals: list[dict[str, Any]] = []
        self.closed = False
        self._price = 100.0
        self._sent: dict[int, int] = {}
        self._listeners: set[Callable[[dict[str, Any]], None]] = set()
        start = datetime.now(UTC) - HISTORY * self._interval
        for number in range(HISTORY):
            self._bar(start + number * self._interval)

    def _bar(self, start: datetime) -> None:
        before = self._price
        self._price = round(max(before * (1 + self._random.gauss(0, 0.001)), 1.0), 2)
        high, low = max(before, self._price), min(before, self._price)
        times = [to_micros(start), to_micros(start + self._interval)]
        self.bars.append([*times, before, high, low, self._price, 1.0])

    async def run(self) -> None:
        """Make bars for ever."""
        while True:
            started = datetime.now(UTC)
            await asyncio.sleep(self._interval.total_seconds())
            self._bar(started)
            self._stops()
            self._sent[int(self.bars[-1][1])] = time.monotonic_ns()
            told = {"bars": self.bars[-1:]}
            for listener in tuple(self._listeners):
                listener(told)

    def _stops(self) -> None:
        """Deal the protective stops and targets that the newest price has reached."""
        for state in tuple(self.states.values()):
            order, held = state.order, self.book.quantity(SYMBOL)
            if state.status is not OrderStatus.FILLED or order.reduce_only or not held:
                continue
            price = Decimal(str(self._price))
            stopped = order.stop_loss is not None and price <= order.stop_loss
            reached = order.take_profit is not None and price >= order.take_profit
            if (stopped or reached) and held > 0:
                self._fill(order, min(held, order.quantity), Side.SELL, "stop" if stopped else "target")

    def _fill(self, order: Order, quantity: Decimal, side: Side, leg: Any) -> None:
        price = Decimal(str(self._price))
        name = f"{order.id}/{leg}/{len(self.fills)}"
        fill = Fill(name, order.id, SYMBOL, side, quantity, price, Decimal(0), datetime.now(UTC), price, leg)
        self.fills.append(fill)
        self.book = self.book.apply(fill)

    def submit(self, order: Order) -> dict[str, Any]:
        """Deal an order at once; a known id changes nothing."""
        again = order.id in self.states
        self.arrivals.append({"id": order.id, "token": order.token, "at_ns": time.monotonic_ns(), "again": again})
        if order.id in self.states:
            return self._told(order.id)
        if self.closed:
            return {"rejected": "the exchange is closed"}
        held = self.book.quantity(SYMBOL)
        quantity = min(order.quantity, abs(held)) if order.reduce_only else order.quantity
        if order.reduce_only and held * order.side.sign >= 0:
            return {"rejected": "nothing to reduce"}
        self.states[order.id] = OrderState(order, OrderStatus.WORKING)
        self._fill(order, quantity, order.side, "order")
        self.states[order.id] = replace(self.states[order.id], status=OrderStatus.FILLED, filled=quantity, told=quantity)
        return self._told(order.id)

    def _told(self, name: str) -> dict[str, Any]:
        return {"state": STATES.dump_python([self.states[name]], mode="json")[0]}

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer a request other than `stream`."""
        match asked["do"]:
            case "submit":
                return self.submit(ORDER.validate_python(asked["order"]))
            case "cancel":
                return self._told(asked["id"]) if asked["id"] in self.states else {"rejected": "no such order"}
            case "orders":
                # No order changes once it was dealt, so what a client knows is not told again.
                return {"orders": STATES.dump_python(list(self.states.values())[asked.get("after", 0) :], mode="json")}
            case "fills":
                return {"fills": FILLS.dump_python(self.fills[asked.get("after", 0) :], mode="json")}
            case "account":
                positions = {symbol: str(p.quantity) for symbol, p in self.book.positions.items()}
                return {"cash": str(self.book.cash), "positions": positions}
            case "arrivals":
                return {"arrivals": self.arrivals, "bars": len(self.bars) - HISTORY, "sent_ns": self._sent}
            case "close":
                self.closed = True
                return {}
        return {"rejected": f"nobody can {asked['do']} here"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        mine: Callable[[dict[str, Any]], None] | None = None
        try:
            while line := await reader.readline():
                asked = json.loads(line)
                if asked["do"] == "stream":

                    def mine(told: dict[str, Any]) -> None:
                        if writer.transport.get_write_buffer_size() < 1_000_000:  # who does not read any more misses bars
                            writer.write(json.dumps(told).encode() + b"\n")

                    mine({"bars": self.bars[-HISTORY:]})
                    self._listeners.add(mine)
                else:
                    writer.write(json.dumps(self.answer(asked)).encode() + b"\n")
                    await writer.drain()
        except (ConnectionError, ValueError, KeyError):
            pass
        finally:
            if mine is not None:
                self._listeners.discard(mine)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def run(port: int, seed: int, bar_s: float) -> None:
    """Run an exchange at a port of the loopback."""
    exchange = Exchange(seed, bar_s)
    server = await asyncio.start_server(exchange.serve, "127.0.0.1", port)
    async with server:
        await exchange.run()
