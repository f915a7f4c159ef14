"""Supervised mode: an approver of one's own is asked about each exact order, and the broker is an Alpaca on this machine."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from agentfund import Approval, ApprovalRequest, MemoryBus, Orchestrator
from agentfund.brokers.alpaca import Alpaca
from agentfund.clock import SystemClock, to_micros
from agentfund.core.permission import UNWATCHED
from agentfund.feeds import Bars, Live, Recorded, SimulatedMarket
from agentfund.feeds.calendars import hours
from agentfund.market import Bar, Heard, Quote
from agentfund.strategies import SmaCross
from agentfund.testing.alpaca import AlpacaServer

SECOND, NOW, SERVER = timedelta(seconds=1), SystemClock().now().replace(microsecond=0), AlpacaServer()


class Street(Recorded):
    """Simulated bars of this moment, each with a quote, that also move the price at the local Alpaca."""

    async def connect(self) -> AsyncGenerator[Heard]:
        async for item in super().connect():
            if isinstance(item, Bar):
                SERVER.move(item.symbol, item.close)
                yield Quote(item.symbol, item.close - 0.01, item.close + 0.01, item.close, item.end)
            yield item


def street() -> Street:
    shown = SimulatedMarket("AAPL", bars=300, sessions="24h", price=20).columns["AAPL"]
    start = to_micros(NOW - 60 * SECOND) + (shown.start - shown.start[0]) // 900  # a quarter of an hour in a second
    share = replace(shown.instrument, lot_size=Decimal(1))
    told = replace(shown, instrument=share, interval=SECOND, start=start, volume=20 * shown.volume)
    return Street(Bars(told, source="simulated"), clock=SystemClock())


def careful(request: ApprovalRequest) -> Approval:
    order, price = request.order, Decimal(str(request.decision.price))
    good = order.reduce_only or price - (order.stop_loss or 0) <= price * 3 / 100
    return Approval(good, request.order_hash, "careful()")


async def main() -> None:
    open_now = hours("24/7", (NOW - timedelta(days=2)).date(), (NOW + timedelta(days=2)).date())
    crew, permission = [SmaCross(2, 5, stop_pct=2)], UNWATCHED  # for money that counts: LeaseFile(folder of a watchdog)
    fund = Orchestrator(crew, bus=MemoryBus(), mode="supervised", approver=careful, permission=permission, hours=open_now)
    async with Alpaca(SERVER.key, SERVER.secret, url=SERVER.url) as broker:
        async for decision in fund.run(Live(street(), interval=SECOND, back=30), broker):
            print(f"{decision.outcome} by {decision.decided_by}: {decision.reason}")
            if decision.outcome == "ordered":
                break


if __name__ == "__main__":
    with SERVER:
        asyncio.run(main())
