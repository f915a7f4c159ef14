"""A session's line to its broker: what the broker says that is news, and what becomes of what it is told.

Every question has a deadline. A failed one is an error and never an empty answer: while the broker cannot be seen, or its
books are not the fund's, `blind` says why and nothing adds risk.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.clock import EPOCH
from agentfund.core.deadline import within
from agentfund.errors import BrokerUnavailable, OrderRejected
from agentfund.messages import Answered
from agentfund.protocols import Simulated
from agentfund.trading import Account, Fill, Order, OrderState, OrderStatus

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.core.context import State
    from agentfund.market import Market
    from agentfund.protocols import Broker

Item = TypeVar("Item")
_log = logging.getLogger("agentfund")
SETTLED = 60.0
"""Seconds after which an order that was sent has reached the broker, or never will; more where the broker is given longer."""
UNLISTED = "the broker does not list it any more"


class Dealing:
    """The line to a broker.

    Args:
        broker: where orders go.
        timeout_s: how long it may take to answer.

    Attributes:
        paper: the same broker where its market is ours to move, None where it is not.
        known: ids of the orders that this fund has ever meant to send.
        since: when the fund began; fills before it are somebody else's and no concern.
    """

    def __init__(self, broker: Broker, timeout_s: float) -> None:
        self.broker = broker
        # Asked once: looking at a protocol costs more than a bar does.
        self.paper: Simulated | None = broker if isinstance(broker, Simulated) else None
        self.known: set[str] = set()
        self.since = EPOCH
        self._sent: dict[str, datetime] = {}
        self._timeout_s = timeout_s
        self._unseen = ""
        self._stranger = ""
        self._books = "" if self.paper is not None else "the broker's books were not looked at yet"

    @property
    def blind(self) -> str:
        """Why nothing may add risk; empty when all is well."""
        return self._unseen or self._stranger or self._books

    async def account(self) -> Account | None:
        """Return cash and positions by the broker's books, None for a paper broker, whose books are the log.

        Raises:
            BrokerUnavailable: it does not answer.
        """
        if self.paper is not None:
            return None
        try:
            told = await self._asked(self.broker.account())
        except BrokerUnavailable:
            raise
        except Exception as error:  # whatever its library raises
            raise BrokerUnavailable(f"the broker does not tell its account: {type(error).__name__}: {error}") from error
        return Account(told.cash, {symbol: quantity for symbol, quantity in told.positions.items() if quantity})

    async def fills(self, market: Market, state: State) -> Sequence[Fill]:
        """Return fills of the fund's own orders that were not told before."""
        if self.paper is not None:
            return self.paper.advance(market)
        try:
            told = await self._asked(self.broker.fills())
        except Exception as error:
            self._unseen = f"the broker cannot be seen: {type(error).__name__}: {error}"
            return ()
        self._unseen = ""
        for fill in told:
            if fill.order_id not in self.known and fill.time >= self.since:  # what came before the fund is not its business
                self._stranger = f"fill {fill.id} of {fill.symbol} belongs to no order of this fund"
        return [fill for fill in told if fill.order_id in self.known and not state.has_seen(fill.id)]

    async def compare(self, state: State) -> None:
        """Hold the broker's positions against the log's until they agree; before that there are no entries."""
        if not self._books or self._unseen:
            return
        try:
            account = await self.account()
        except Exception as error:
            self._unseen = f"the broker cannot be seen: {type(error).__name__}: {error}"
            return
        assert account is not None
        mine = {symbol: position.quantity for symbol, position in state.portfolio.positions.items()}
        theirs = dict(account.positions)
        self._books = "" if theirs == mine else f"the broker holds {theirs or 'nothing'}, the log {mine or 'nothing'}"

    async def answers(self, state: State, now: datetime) -> list[Answered]:
        """Return what the broker says of the fund's open orders that is news.

        An order that was never acknowledged and is not listed is asked about by taking it back: a broker that dedupes ids
        knows for certain whether it has it, once an order that was on its way must have come. One that was acknowledged and
        is no longer listed is of unknown fate.
        """
        if self._unseen:
            return []
        try:
            listed = {told.order.id: told for told in await self._asked(self.broker.orders())}
        except Exception as error:
            self._unseen = f"the broker cannot be seen: {type(error).__name__}: {error}"
            return []
        news: list[Answered] = []
        for name, mine in state.orders.items():
            told = listed.get(name)
            if told is not None:
                if told.status is not mine.status or told.filled > max(mine.filled, mine.told):
                    news.append(Answered(name, told.status, told.reason, told.filled))
            elif self.paper is None and mine.status is OrderStatus.WORKING:
                news.append(Answered(name, OrderStatus.UNKNOWN, UNLISTED, mine.told))
            elif self.paper is None and mine.status in (OrderStatus.UNKNOWN, OrderStatus.INTENDED):
                sent = max(mine.order.time, self._sent.get(name, mine.order.time))
                if (now - sent).total_seconds() >= max(SETTLED, 6 * self._timeout_s):
                    news.extend(await self._probe(mine))
        return news

    async def _probe(self, mine: OrderState) -> list[Answered]:
        if not self.broker.dedupes_ids:
            return []  # it may still arrive: a person has to look
        try:
            told = await self._asked(self.broker.cancel(mine.order.id))
        except OrderRejected as error:
            if mine.reason == UNLISTED:
                return []  # it was there once, so it may have traded
            return [Answered(mine.order.id, OrderStatus.REJECTED, f"the broker does not have it: {error}")]
        except Exception:
            return []  # nothing was learned
        return [Answered(mine.order.id, told.status, told.reason, told.filled)]

    async def submit(self, order: Order, now: datetime, *, again: bool = False) -> Answered:
        """Send an order; only a clear no is a rejection, whatever else goes wrong leaves its fate unknown.

        Args:
            order: what to send.
            now: the time.
            again: whether it may have been sent before: then a no may mean that it is there already.
        """
        self._sent[order.id] = now
        try:
            told = await self._asked(self.broker.submit(order))
            return Answered(order.id, OrderStatus(told.status), told.reason, told.filled)
        except OrderRejected as error:
            if again:
                return Answered(order.id, OrderStatus.UNKNOWN, f"refused when it was sent again: {error}")
            return Answered(order.id, OrderStatus.REJECTED, str(error))
        except Exception as error:
            return Answered(order.id, OrderStatus.UNKNOWN, f"{type(error).__name__}: {error}")

    async def take_back(self, state: State, symbol: str) -> list[Answered]:
        """Cancel the entries that still work in an instrument; one that cannot be asked for now stays open."""
        news: list[Answered] = []
        for mine in _entries(state, symbol):
            try:
                told = await self._asked(self.broker.cancel(mine.id))
                news.append(Answered(mine.id, told.status, told.reason, told.filled))
            except Exception as error:  # it stays open, and the next cycle asks again
                _log.warning("order %s could not be taken back: %s", mine.id, error)
        return news

    async def _asked(self, question: Coroutine[Any, Any, Item]) -> Item:
        return await within(self._timeout_s, question)


def _entries(state: State, symbol: str) -> Iterable[Order]:
    for mine in tuple(state.orders.values()):
        if mine.order.symbol == symbol and not mine.order.reduce_only and mine.status is OrderStatus.WORKING:
            yield mine.order
