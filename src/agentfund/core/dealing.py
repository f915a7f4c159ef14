"""A session's line to its broker: what the broker says that is news, and what becomes of what it is told.

Every question has a deadline. A failed one is an error and never an empty answer: while the broker cannot be seen, or its
books are not the fund's, `blind` says why and nothing adds risk.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.core.deadline import DeadlineExceeded, within
from agentfund.errors import BrokerError, BrokerUnavailable, ConfigError, OrderRejected
from agentfund.messages import Answered
from agentfund.protocols import Simulated
from agentfund.trading import Account, Fill, Order, OrderStatus

if TYPE_CHECKING:
    from agentfund.core.context import State
    from agentfund.market import Market
    from agentfund.protocols import Broker

Item = TypeVar("Item")


class Dealing:
    """The line to a broker.

    Args:
        broker: where orders go.
        timeout_s: how long it may take to answer.

    Attributes:
        paper: the same broker where its market is ours to move, None where it is not.
        known: ids of the orders that this fund has ever meant to send.
    """

    def __init__(self, broker: Broker, timeout_s: float) -> None:
        self.broker = broker
        # Asked once: looking at a protocol costs more than a bar does.
        self.paper: Simulated | None = broker if isinstance(broker, Simulated) else None
        self.known: set[str] = set()
        self._timeout_s = timeout_s
        self._unseen = ""
        self._foreign = ""

    @property
    def blind(self) -> str:
        """Why nothing may add risk; empty when all is well."""
        return self._unseen or self._foreign

    async def account(self) -> Account | None:
        """Return cash and positions by the broker's books, None for a paper broker, whose books are the log."""
        return None if self.paper is not None else await self._asked(self.broker.account())

    def compare(self, account: Account, state: State, *, fresh: bool) -> None:
        """Hold the broker's positions against the log's; a difference means no entries.

        Raises:
            ConfigError: a fund that has not traded yet finds positions: somebody else's.
        """
        theirs = dict(account.positions)
        mine = {symbol: position.quantity for symbol, position in state.portfolio.positions.items()}
        if fresh and theirs:
            held = ", ".join(f"{quantity} {symbol}" for symbol, quantity in theirs.items())
            raise ConfigError(f"the account holds what this fund did not buy: {held}. Close it, or use another account")
        if theirs != mine:
            self._foreign = f"the broker holds {theirs or 'nothing'}, the log {mine or 'nothing'}"

    async def fills(self, market: Market, state: State) -> Sequence[Fill]:
        """Return fills of the fund's own orders that were not told before."""
        if self.paper is not None:
            return self.paper.advance(market)
        try:
            told = await self._asked(self.broker.fills())
        except (BrokerUnavailable, DeadlineExceeded) as error:
            self._unseen = f"the broker cannot be seen: {error}"
            return ()
        self._unseen = ""
        for fill in told:
            if fill.order_id not in self.known:
                self._foreign = f"fill {fill.id} of {fill.symbol} belongs to no order of this fund"
        return [fill for fill in told if fill.order_id in self.known and not state.has_seen(fill.id)]

    async def answers(self, state: State) -> list[Answered]:
        """Return what the broker says of the fund's open orders that is news.

        An order that it does not list is asked about by taking it back: a broker that dedupes ids knows for certain
        whether it has it. With any other, an order whose fate is unknown stays so.
        """
        news: list[Answered] = []
        try:
            listed = {told.order.id: told for told in await self._asked(self.broker.orders())}
            for name, mine in state.orders.items():
                told = listed.get(name)
                if told is None and self.paper is None and self.broker.dedupes_ids and mine.status is not OrderStatus.FILLED:
                    try:
                        told = await self._asked(self.broker.cancel(name))
                    except OrderRejected as error:
                        news.append(Answered(name, OrderStatus.REJECTED, f"the broker does not have it: {error}"))
                        continue
                if told is not None and (told.status is not mine.status or told.filled > max(mine.filled, mine.told)):
                    news.append(Answered(name, told.status, told.reason, told.filled))
        except (BrokerUnavailable, DeadlineExceeded) as error:
            self._unseen = f"the broker cannot be seen: {error}"
        return news

    async def submit(self, order: Order) -> Answered:
        """Send an order; only a clear no is a rejection, whatever else goes wrong leaves its fate unknown."""
        try:
            told = await self._asked(self.broker.submit(order))
        except OrderRejected as error:
            return Answered(order.id, OrderStatus.REJECTED, str(error))
        except Exception as error:
            return Answered(order.id, OrderStatus.UNKNOWN, f"{type(error).__name__}: {error}")
        return Answered(order.id, told.status, told.reason)

    async def take_back(self, state: State, symbol: str) -> list[Answered]:
        """Cancel the entries that still work in an instrument; one that cannot be asked for now stays open."""
        news: list[Answered] = []
        for mine in _entries(state, symbol):
            try:
                told = await self._asked(self.broker.cancel(mine.id))
            except (BrokerError, DeadlineExceeded):
                continue
            news.append(Answered(mine.id, told.status, told.reason, told.filled))
        return news

    async def _asked(self, question: Coroutine[Any, Any, Item]) -> Item:
        return await within(self._timeout_s, question)


def _entries(state: State, symbol: str) -> Iterable[Order]:
    for mine in tuple(state.orders.values()):
        if mine.order.symbol == symbol and not mine.order.reduce_only and mine.status is OrderStatus.WORKING:
            yield mine.order
