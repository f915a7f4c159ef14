"""A fund's line to the exchange: a live feed and a real broker over TCP."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.clock import from_micros
from agentfund.errors import BrokerUnavailable, FeedError, OrderRejected
from agentfund.market import Columns, Instrument, Market, Window, read_only
from agentfund.testing.chaos.exchange import FILLS, HISTORY, ORDER, STATES, SYMBOL
from agentfund.trading import Account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from agentfund.trading import Fill, Order, OrderState

_INSTRUMENT = Instrument(SYMBOL)
_RETRY_S = 0.2
_PATIENCE_S = 30.0


class ExchangeFeed:
    """Bars of the exchange as they close.

    Args:
        port: where the exchange listens.

    Attributes:
        sent: when the exchange sent the newest bar, nanoseconds of the machine's monotonic clock.
    """

    def __init__(self, port: int) -> None:
        self.instruments = (_INSTRUMENT,)
        self.fingerprint = "exchange"
        self._port = port
        self._rows: list[list[float]] = []
        self._newest: Market | None = None

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the market at every close; connects again where the line breaks.

        Raises:
            FeedError: nobody answered for half a minute.
        """
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(b'{"do": "stream"}\n')
                    while line := await reader.readline():
                        heard = loop.time()
                        if (market := self._add(json.loads(line)["bars"], after)) is not None:
                            yield market
                finally:
                    writer.close()
            except OSError as error:
                if loop.time() - heard > _PATIENCE_S:
                    raise FeedError(f"the exchange at port {self._port} does not answer: {error}") from error
            await asyncio.sleep(_RETRY_S)

    def _add(self, bars: list[list[float]], after: datetime | None) -> Market | None:
        newest = self._rows[-1][0] if self._rows else 0
        fresh = [bar for bar in bars if bar[0] > newest]
        if not fresh:
            return None
        self._rows = [*self._rows, *fresh][-HISTORY:]
        floats = np.array([row[2:] for row in self._rows], dtype=np.float64)
        columns = {name: floats[:, place].copy() for place, name in enumerate(("open", "high", "low", "close", "volume"))}
        start, end = (np.array([row[place] for row in self._rows], dtype=np.int64) for place in (0, 1))
        interval = timedelta(microseconds=int(end[-1] - start[-1]))
        window = Window(Columns(_INSTRUMENT, interval, **read_only({"start": start, "end": end, **columns})), len(start))
        self._newest = Market(from_micros(end[-1]), {SYMBOL: window}, (SYMBOL,))
        return None if after is not None and self._newest.now <= after else self._newest

    def latest(self) -> Market:
        """Return the newest market.

        Raises:
            FeedError: there is none yet.
        """
        if self._newest is None:
            raise FeedError("the exchange has sent nothing yet")
        return self._newest


class ExchangeBroker:
    """The exchange as a broker.

    Args:
        port: where the exchange listens.
    """

    dedupes_ids = True

    def __init__(self, port: int) -> None:
        self._port = port
        self._states: list[OrderState] = []
        self._fills: list[Fill] = []
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._asking = asyncio.Lock()

    async def account(self) -> Account:
        """Return cash and positions."""
        told = await self.ask("account")
        return Account(Decimal(told["cash"]), {symbol: Decimal(quantity) for symbol, quantity in told["positions"].items()})

    async def orders(self) -> Sequence[OrderState]:
        """Return all orders."""
        self._states += STATES.validate_python((await self.ask("orders", after=len(self._states)))["orders"])
        return list(self._states)

    async def fills(self) -> Sequence[Fill]:
        """Return all fills."""
        self._fills += FILLS.validate_python((await self.ask("fills", after=len(self._fills)))["fills"])
        return list(self._fills)

    async def submit(self, order: Order) -> OrderState:
        """Send an order."""
        told = await self.ask("submit", order=ORDER.dump_python(order, mode="json"))
        return STATES.validate_python([told["state"]])[0]

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back."""
        return STATES.validate_python([(await self.ask("cancel", id=order_id))["state"]])[0]

    async def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line[1].close()
            self._line = None

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Ask the exchange.

        Raises:
            OrderRejected: it says no.
            BrokerUnavailable: it could not be asked, or did not answer.
        """
        async with self._asking:
            line = b""
            try:
                if self._line is None:
                    self._line = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
                reader, writer = self._line
                writer.write(json.dumps({"do": do, **more}).encode() + b"\n")
                line = await reader.readline()
            except OSError as error:
                raise BrokerUnavailable(f"the exchange at port {self._port}: {error}") from error
            finally:
                if not line and self._line is not None:  # what comes on it now would answer the wrong question
                    self._line[1].close()
                    self._line = None
        if not line:
            raise BrokerUnavailable("the exchange hung up")
        told: dict[str, Any] = json.loads(line)
        if "rejected" in told:
            raise OrderRejected(told["rejected"])
        return told
