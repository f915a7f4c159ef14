"""A session's line to its broker: what the broker says that is news, and what becomes of what it is told.

Every question has a deadline. A failed one is an error and never an empty answer: while the broker cannot be seen, or its
books are not the fund's, `blind` says why and nothing adds risk.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.clock import EPOCH, SystemClock
from agentfund.core.deadline import within
from agentfund.errors import BrokerUnavailable, OrderRejected, OrderUnseen
from agentfund.market import decimal
from agentfund.messages import Answered
from agentfund.protocols import Simulated
from agentfund.trading import ZERO, Account, Fill, Order, OrderState, OrderStatus

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from agentfund.core.context import State
    from agentfund.market import Market
    from agentfund.protocols import Broker, Clock

Item = TypeVar("Item")
_log = logging.getLogger("agentfund")
SETTLED = 60.0
"""Seconds after which an order that was sent has reached the broker, or never will; more where the broker is given longer."""
UNLISTED = "the broker does not list it any more"
UNSEEN = "the broker has an order of this id and does not show it"
AGAIN_S = 1.0
"""Seconds after which an entry that was asked back and still works is asked back again."""
ABSENT = "it is not listed, nothing of it has filled, and all that it would have sold is still held"
LOOKS = 3
"""Looks in a row that have to agree on that."""
FAST = 3
"""Answers in time after which a broker that was slow is itself again."""
CASH_PCT = 0.5
"""Percent of equity by which the broker's cash may differ from the log's: fees and interest are booked when the day ends."""


class Dealing:
    """The line to a broker.

    Args:
        broker: where orders go.
        timeout_s: how long it may take to answer.
        slow_s: an answer that takes longer shows that the broker is in trouble: no new positions until it is itself again.
        settle_s: how far apart log and broker must have agreed twice before anything adds risk.
        clock: where the time comes from.

    Attributes:
        paper: the same broker where its market is ours to move, None where it is not.
        known: ids of the orders that this fund has ever meant to send.
        since: when the fund began; fills before it are somebody else's and no concern.
        wrong: how log and broker differ, one sentence each.
        seen: the account as the broker told it last, None before that.
    """

    def __init__(
        self, broker: Broker, timeout_s: float, *, slow_s: float = 2.0, settle_s: float = 1.0, clock: Clock | None = None
    ) -> None:
        self.broker = broker
        # Asked once: looking at a protocol costs more than a bar does.
        self.paper: Simulated | None = broker if isinstance(broker, Simulated) else None
        self.known: set[str] = set()
        self.since = EPOCH
        self._sent: dict[str, float] = {}
        self._tried: dict[str, float] = {}
        self._clock = clock or SystemClock()
        self._timeout_s, self._slow_s, self.settle_s = timeout_s, slow_s, settle_s
        self._unseen = ""
        self._slow: tuple[float, int] | None = None
        self._stranger = ""
        self._foreign: tuple[str, ...] = ()
        self._listed: frozenset[str] = frozenset()
        self._absent: dict[str, int] = {}
        self.wrong: tuple[str, ...] = ()
        self.seen: Account | None = None
        self._agreed: float | None = None
        self._books = "" if self.paper is not None else "the broker's books were not looked at yet"

    @property
    def blind(self) -> str:
        """Why nothing may add risk; empty when all is well."""
        return self._unseen or self._stranger or self._books or self._sluggish

    @property
    def settled(self) -> bool:
        """Whether log and broker have agreed twice, some time apart, and not differed since."""
        return not self._books

    @property
    def _sluggish(self) -> str:
        if self._slow is None:
            return ""
        return f"the broker took {self._slow[0]:.1f} s to answer: no new positions until it is itself again"

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
        self.seen = replace(told, positions={symbol: quantity for symbol, quantity in told.positions.items() if quantity})
        return self.seen

    async def fills(self, market: Market | None, state: State) -> Sequence[Fill]:
        """Return fills of the fund's own orders that were not told before."""
        if self.paper is not None:
            return () if market is None else self.paper.advance(market)
        try:
            told = await self._asked(self.broker.fills())
        except Exception as error:
            self._lost_sight(error)
            return ()
        self._unseen = ""
        # What came before the fund is not its business, and what was taken over is in its book already.
        taken = state.adopted or EPOCH
        strange = [fill for fill in told if fill.order_id not in self.known and fill.time >= max(self.since, taken)]
        self._stranger = ""
        if strange:
            self._stranger = f"fill {strange[0].id} of {strange[0].symbol} belongs to no order of this fund"
        ours = (fill for fill in told if fill.order_id in self.known and fill.time >= taken)
        return [fill for fill in ours if not state.has_seen(fill.id)]

    async def busts(self, state: State) -> list[str]:
        """Return ids of fills that the broker has taken back, which the log does not say yet."""
        asked = getattr(self.broker, "busts", None)
        if asked is None or self._unseen:
            return []
        try:
            told: Sequence[str] = await self._asked(asked())
        except Exception as error:
            self._lost_sight(error)
            return []
        return [name for name in told if not state.is_busted(name)]

    async def compare(self, state: State, lots: Mapping[str, Decimal]) -> bool:
        """Hold the broker's orders, positions and cash against the log's; return whether they agree.

        Until they have agreed twice, some time apart, nothing adds risk; nor after they differ, until they have again. What an
        order that is still open could have changed is not compared.

        Args:
            state: the fund by its log.
            lots: smallest steps of quantities; less than that is no difference.
        """
        if self.paper is not None:
            return True
        if self._unseen:
            self._agreed, self._books = None, self._books or "the broker was out of sight"
            return True  # nothing is known that would differ
        try:
            account = await self.account()
        except BrokerUnavailable as error:
            self._lost_sight(error)
            return True
        assert account is not None
        self._look_for_exits(account, state)
        self.wrong = (*self._foreign, *_differences(account, state, lots))
        now = self._clock.monotonic()
        if self.wrong:
            self._agreed, self._books = None, f"log and broker differ: {'; '.join(self.wrong)}"
        elif self._agreed is None:
            self._agreed = now
            if self._books:
                self._books = "log and broker have agreed once, and have to agree once more"
        elif now - self._agreed >= self.settle_s:
            self._books = ""
        return not self.wrong

    def _look_for_exits(self, account: Account, state: State) -> None:
        """Count looks at which an exit of unknown fate is proven absent, at a broker that does not know ids.

        An exit that blocked every other one for ever would be worse than a second one, and this one could reduce nothing more
        than what is held. Entries wait for a person.
        """
        for name, mine in state.orders.items():
            lost = mine.status is OrderStatus.UNKNOWN and mine.order.reduce_only and not self.broker.dedupes_ids
            held = account.positions.get(mine.order.symbol, ZERO)
            lost = lost and mine.reason not in (UNLISTED, UNSEEN)  # it was there once, so it may trade yet
            absent = lost and name not in self._listed and not mine.told and not mine.filled
            if absent and self._has_settled(name) and held == state.portfolio.quantity(mine.order.symbol):
                self._absent[name] = self._absent.get(name, 0) + 1
            else:
                self._absent.pop(name, None)

    def _has_settled(self, order_id: str) -> bool:
        """Whether an order was sent so long ago that it has arrived or never will; of before a restart, counted from it."""
        sent = self._sent.setdefault(order_id, self._clock.monotonic())
        return self._clock.monotonic() - sent >= max(SETTLED, 6 * self._timeout_s)

    def _lost_sight(self, error: Exception) -> None:
        self._unseen = f"the broker cannot be seen: {type(error).__name__}: {error}"

    async def answers(self, state: State, now: datetime) -> list[Answered]:
        """Return what the broker says of the fund's open orders that is news.

        An order that was never acknowledged and is not listed is asked about by taking it back: a broker that dedupes ids
        knows for certain whether it has it, once an order that was on its way must have come. One that was acknowledged and
        is no longer listed is of unknown fate.
        """
        if self._unseen or (self.paper is not None and not state.orders):
            return []
        try:
            listed = {told.order.id: told for told in await self._asked(self.broker.orders())}
        except Exception as error:
            self._lost_sight(error)
            return []
        self._listed = frozenset(listed)
        strangers = (told for name, told in listed.items() if told.status.open and name not in self.known)
        self._foreign = tuple(
            f"order {told.order.id} ({told.order.side} {told.order.quantity} {told.order.symbol}) is none of this fund's"
            for told in strangers
        )
        news: list[Answered] = []
        for name, mine in state.orders.items():
            told = listed.get(name)
            if told is not None:
                if told.status is not mine.status or told.filled > max(mine.filled, mine.told):
                    news.append(Answered(name, told.status, told.reason, told.filled))
            elif self.paper is None and mine.status is OrderStatus.WORKING:
                news.append(Answered(name, OrderStatus.UNKNOWN, UNLISTED, mine.told))
            elif self._absent.get(name, 0) >= LOOKS:
                news.append(Answered(name, OrderStatus.CANCELLED, ABSENT, mine.told))
            elif self.paper is None and mine.status in (OrderStatus.UNKNOWN, OrderStatus.INTENDED) and self._has_settled(name):
                news.extend(await self._probe(mine))
        return news

    async def _probe(self, mine: OrderState) -> list[Answered]:
        if not self.broker.dedupes_ids:
            return []  # it may still arrive: a person has to look
        try:
            told = await self._asked(self.broker.cancel(mine.order.id))
        except OrderRejected as error:
            if mine.reason in (UNLISTED, UNSEEN):
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
        self._sent[order.id] = self._clock.monotonic()
        try:
            told = await self._asked(self.broker.submit(order))
            return Answered(order.id, OrderStatus(told.status), told.reason, told.filled)
        except OrderRejected as error:
            if again:
                return Answered(order.id, OrderStatus.UNKNOWN, f"refused when it was sent again: {error}")
            return Answered(order.id, OrderStatus.REJECTED, str(error))
        except OrderUnseen:
            return Answered(order.id, OrderStatus.UNKNOWN, UNSEEN)
        except Exception as error:
            return Answered(order.id, OrderStatus.UNKNOWN, f"{type(error).__name__}: {error}")

    async def take_back(self, state: State, symbol: str | None = None) -> list[Answered]:
        """Cancel the entries that still work, of one instrument or all; one that cannot be asked for now stays open."""
        news: list[Answered] = []
        for mine in _entries(state, symbol):
            if self._clock.monotonic() < self._tried.get(mine.id, float("-inf")) + AGAIN_S:
                continue
            self._tried[mine.id] = self._clock.monotonic()
            old = state.orders[mine.id]
            try:
                told = await self._asked(self.broker.cancel(mine.id))
                if told.status is not old.status or told.filled > max(old.filled, old.told):
                    news.append(Answered(mine.id, told.status, told.reason, told.filled))
            except Exception as error:  # it stays open, and the next cycle asks again
                _log.warning("order %s could not be taken back: %s", mine.id, error)
        return news

    async def _asked(self, question: Coroutine[Any, Any, Item]) -> Item:
        began = self._clock.monotonic()
        try:
            return await within(self._timeout_s, question)
        finally:
            if self.paper is None:
                self._note(self._clock.monotonic() - began)

    def _note(self, took: float) -> None:
        if took > self._slow_s:
            self._slow = (took, 0)
        elif self._slow is not None:
            slowest, fast = self._slow
            self._slow = (slowest, fast + 1) if fast + 1 < FAST else None


def _entries(state: State, symbol: str | None) -> Iterable[Order]:
    for mine in tuple(state.orders.values()):
        if (
            symbol in (None, mine.order.symbol)
            and not mine.order.reduce_only
            and mine.status in (OrderStatus.WORKING, OrderStatus.UNKNOWN)
        ):
            yield mine.order


def _differences(account: Account, state: State, lots: Mapping[str, Decimal]) -> Iterable[str]:
    """Return how an account differs from the log, apart from what open orders could have changed."""
    moving = {mine.order.symbol for mine in state.orders.values()}
    mine = {symbol: position.quantity for symbol, position in state.portfolio.positions.items()}
    for symbol in sorted({*mine, *account.positions} - moving):
        held, told = mine.get(symbol, ZERO), account.positions.get(symbol, ZERO)
        if held != told and abs(held - told) >= lots.get(symbol, ZERO):
            yield f"the broker holds {told} {symbol}, the log {held}"
    if not moving and abs(account.cash - state.portfolio.cash) * 100 > abs(state.equity) * decimal(CASH_PCT):
        yield f"the broker has {account.cash} in cash, the log {state.portfolio.cash}"
