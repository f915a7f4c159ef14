"""A live feed in virtual time, and a history that can be interrupted."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from agentfund.errors import FeedError

if TYPE_CHECKING:
    from agentfund.feeds import Bars
    from agentfund.market import Columns, Instrument, Market
    from agentfund.testing.simulator.process import Process


class SimulatedFeed:
    """A live source: each bar comes when it closes. Started again, it gives first what was missed.

    Args:
        process: who listens.
        history: the bars.
        markets: the market at each close of a bar of them, in order.
    """

    def __init__(self, process: Process, history: Bars, markets: Sequence[Market]) -> None:
        self._process = process
        self._markets = markets
        self._closes = [market.now for market in markets]
        self.instruments: Sequence[Instrument] = history.instruments
        self.fingerprint = f"live {history.fingerprint}"

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the market at every close of a bar, beginning with the newest where nothing says what was seen before.

        Raises:
            FeedError: the source fails.
        """
        process, truth = self._process, self._process.truth
        fault = process.begin("stream")
        if fault is not None and fault.kind == "fails":
            raise FeedError("the source does not answer")
        process.end(fault)
        closed = bisect_right(self._closes, truth.now)
        seen = max(closed - 1, 0) if after is None else bisect_right(self._closes, after)
        at = closed if fault is not None and fault.kind == "forget" else min(seen, closed)
        while at < len(self._markets):
            market = self._markets[at]
            if (left := truth.at(market.now) - truth.seconds) > 0:
                await asyncio.sleep(left)
            fault = process.begin("bar")
            kind, many = (fault.kind, fault.seconds) if fault is not None else ("", 0.0)
            at += 1
            if kind == "fails":
                raise FeedError("the source fails")
            if kind == "gap":
                at += int(many) - 1
                continue
            if kind == "late":
                await asyncio.sleep(many)
            if kind == "clock":
                truth.skew += timedelta(seconds=many)
            process.moment = market.now
            yield market
            process.end(fault)
            if kind == "repeat":
                yield market

    def latest(self) -> Market:
        """Return the market at the newest close, whether it was given or not.

        Raises:
            FeedError: the source fails, or no bar has closed yet.
        """
        fault = self._process.begin("latest")
        if fault is not None and fault.kind == "fails":
            raise FeedError("the source does not answer")
        closed = bisect_right(self._closes, self._process.truth.now)
        if not closed:
            raise FeedError("no bar has closed yet")
        return self._markets[closed - 1]


class SimulatedHistory:
    """Bars of the past, for a backtest that is interrupted.

    Args:
        process: who reads them.
        history: the bars.
    """

    simulated: ClassVar[bool] = True

    def __init__(self, process: Process, history: Bars) -> None:
        self._process = process
        self._history = history
        self.columns: Mapping[str, Columns] = history.columns
        self.warnings: Sequence[str] = history.warnings
        self.source = history.source
        self.instruments: Sequence[Instrument] = history.instruments
        self.fingerprint = history.fingerprint
        self._latest: Market | None = None

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the market at every close of a bar.

        Raises:
            FeedError: the source fails.
        """
        fault = self._process.begin("stream")
        if fault is not None and fault.kind == "fails":
            raise FeedError("the file cannot be read")
        self._process.end(fault)
        async for market in self._history.stream(after):
            fault = self._process.begin("bar")
            if fault is not None and fault.kind == "fails":
                raise FeedError("the file cannot be read any further")
            self._latest = market
            yield market
            self._process.end(fault)

    def latest(self) -> Market:
        """Return what was given last.

        Raises:
            FeedError: nothing was given yet.
        """
        if self._latest is None:
            raise FeedError("nothing was streamed yet")
        return self._latest
