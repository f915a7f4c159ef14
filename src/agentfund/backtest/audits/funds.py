"""Running a fund for an audit: its normal session, up to a moment, with the rest of the data behind it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from agentfund.backtest.audits.tracks import Key, Trace, Track
from agentfund.buses.memory import MemoryBus
from agentfund.clock import to_micros
from agentfund.core.agent import Agent
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.session import closing
from agentfund.feeds.history import Bars
from agentfund.messages import Decided, Filled, Intended, Opined
from agentfund.strategies.strategy import Strategy
from agentfund.trading import Mode

if TYPE_CHECKING:
    from agentfund.market import Market
    from agentfund.messages import Message
    from agentfund.protocols import Broker
    from agentfund.trading import Order


class _Reaching(Bars):
    """Bars whose market is shown up to a moment, although the data go on: a look behind a window finds what follows."""

    def __init__(self, bars: Bars, until: int | None) -> None:
        super().__init__(bars.columns, source=bars.source, facts=bars.facts)
        self.simulated = getattr(bars, "simulated", False)
        self._until = until

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the market up to the moment."""
        async for market in super().stream(after):
            if self._until is not None and to_micros(market.now) > self._until:
                return
            yield market


def as_fund(made: Any) -> Orchestrator | None:
    """Return the fund that a factory gave, or that its agents make; None where it gave something else."""
    if isinstance(made, Orchestrator):
        return made
    if isinstance(made, Agent) and not isinstance(made, Strategy):
        made = [made]
    if isinstance(made, Sequence) and made and all(isinstance(one, Agent) for one in made):
        return Orchestrator(list(made), bus=MemoryBus())
    return None


def of_fund(fund: Orchestrator, bars: Bars, until: int | None, broker: Callable[[], Broker]) -> Trace:
    """Run a fund over bars up to a moment, and return its opinions, decisions and fills."""
    messages = apart(_run(fund, _Reaching(bars, until), broker()))
    found = Trace()
    events: dict[Key, list[tuple[int, str]]] = {}
    orders: dict[str, Order] = {}
    for message in messages:
        event = message.event
        if isinstance(event, Opined):
            told = dict(message.payload["opinion"])
            _put(events, Key(str(told["agent"]), "opinion"), message, told)
        elif isinstance(event, Decided):
            told = {name: value for name, value in message.payload["decision"].items() if name != "id"}
            _put(events, Key("fund", "decision", event.decision.symbol), message, told)
        elif isinstance(event, Intended):
            orders[event.order.id] = event.order
        elif isinstance(event, Filled) and event.fill.order_id in orders:
            found.fills.append((orders[event.fill.order_id], event.fill))
    for key, rows in events.items():
        values = np.empty(len(rows), dtype=object)
        values[:] = [text for _, text in rows]
        found.tracks[key] = Track(np.array([time for time, _ in rows], dtype=np.int64), values)
    return found


def _put(events: dict[Key, list[tuple[int, str]]], key: Key, message: Message, told: Mapping[str, Any]) -> None:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    events.setdefault(key, []).append((to_micros(message.time), text))


async def _run(fund: Orchestrator, feed: Bars, broker: Broker) -> list[Message]:
    session = fund.session(feed, broker, mode=Mode.AUTONOMOUS, sync=False, through_outages=False)
    async with closing(session.steps()) as steps:
        async for _ in steps:
            pass
    return [message async for message in fund.bus.read(fund.name)]


def apart(work: Any) -> Any:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((asyncio.run(work), None))
        except BaseException as error:  # handed over to the caller's thread
            done.append((None, error))

    thread = threading.Thread(target=run, name="audit")
    thread.start()
    thread.join()
    result, error = done[0]
    if error is not None:
        raise error
    return result
