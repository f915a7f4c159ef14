"""The holder of a broker's keys: what it sends was meant, is allowed, and was never sent before."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from agentfund.clock import SystemClock
from agentfund.core.deadline import DeadlineExceeded, within
from agentfund.core.gate import Limits, check, check_closing
from agentfund.core.keeping import LOOK_S, OnKill, refusal
from agentfund.core.past import PastView
from agentfund.core.permission import permit
from agentfund.core.views import Seen, see
from agentfund.errors import AgentFundError, BrokerUnavailable, ConfigError, OrderRejected, OrderUnseen
from agentfund.execution.scene import instruments, knowable, scene_of
from agentfund.messages import Intended, Message, stable_id
from agentfund.protocols import Watched
from agentfund.trading import ZERO, Level, Order, OrderState, OrderStatus, Permit, Side

if TYPE_CHECKING:
    from agentfund.core.past import Past
    from agentfund.hours import Hours
    from agentfund.protocols import Broker, Bus, Clock, Permission
    from agentfund.trading import Account, Book, Fill

Item = TypeVar("Item")
_OVER = (OrderStatus.REJECTED, OrderStatus.CANCELLED, OrderStatus.FILLED)
_log = logging.getLogger("agentfund")

PAUSE_S = 1.0
"""Seconds between two looks at the broker under a halt: brokers count requests."""
UNSEEN = "unseen"
GRACE = timedelta(seconds=2)
"""How long a fund may take to close its positions at level 4 before they are closed here."""


class Execution:
    """A broker behind the last checks: itself a `Broker`, for a fund in the same process or, through `serve`, in another.

    What it is told to send has to stand on the fund's log as intended, in the same words; passes the level, the lease and the
    gate once more, by this object's own limits and the broker's own account; and is written down as being sent, durably, before
    a byte leaves. What was written down is never sent again, so ids are deduped here whatever the broker does. At level 3 it
    takes entries back by itself, and at level 4 it closes positions where the fund does not.

    Args:
        broker: where orders go; the only thing here that knows keys.
        bus: the fund's log.
        fund: the fund's name.
        limits: the limits; the fund must have the same.
        permission: says what the fund may do now; without one nothing adds risk.
        hours: opening hours; without them only the fund's own gate judges by the hour, as it alone does by quotes and volumes.
        on_kill: what becomes of positions at level 4.
        broker_timeout: how long the broker may take to answer.
        clock: where the time comes from.
    """

    dedupes_ids = True

    def __init__(
        self,
        broker: Broker,
        *,
        bus: Bus,
        fund: str = "fund",
        limits: Limits | None = None,
        permission: Permission | None = None,
        hours: Hours | None = None,
        on_kill: OnKill = "close",
        broker_timeout: timedelta = timedelta(seconds=10),
        clock: Clock | None = None,
    ) -> None:
        self._broker = broker
        self._bus = bus
        self._fund = fund
        self._limits = limits or Limits()
        self._permission = permission
        self._hours = hours
        self._on_kill = on_kill
        self._timeout_s = broker_timeout.total_seconds()
        self._clock = clock or SystemClock()
        self._me = uuid.uuid4().hex
        self._seen: Seen[Past] | None = None
        self._sent: dict[str, Message] = {}
        self._ended: dict[str, Message] = {}
        self._journaled = 0
        self._one = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._killed: datetime | None = None

    def __repr__(self) -> str:
        return f"<Execution of {self._fund!r} at {self._broker!r}>"

    @property
    def wake(self) -> asyncio.Event | None:
        """Set by the broker when something has happened."""
        return getattr(self._broker, "wake", None)

    # -- what the broker says ----------------------------------------------------------------------------------------

    async def account(self) -> Account:
        """Return cash and positions by the broker's own books."""
        return await self._asked(self._broker.account)

    async def orders(self) -> Sequence[OrderState]:
        """Return every order that can still change the book."""
        return await self._asked(self._broker.orders)

    async def fills(self) -> Sequence[Fill]:
        """Return fills of this session."""
        return await self._asked(self._broker.fills)

    async def busts(self) -> Sequence[str]:
        """Return execution ids that the broker has taken back."""
        asked: Callable[[], Awaitable[Sequence[str]]] | None = getattr(self._broker, "busts", None)
        return [] if asked is None else await self._asked(asked)

    async def book(self) -> Book:
        """Return what the broker shows to somebody who only looks.

        Raises:
            BrokerUnavailable: it does not answer, or shows no book.
        """
        if not isinstance(self._broker, Watched):
            raise BrokerUnavailable(f"{type(self._broker).__name__} shows no book")
        return await self._asked(self._broker.book)

    async def suspend(self) -> None:
        """Have the broker refuse orders of this account, where it can."""
        asked: Callable[[], Awaitable[None]] | None = getattr(self._broker, "suspend", None)
        if asked is not None:
            await self._asked(asked)

    def restore(self, orders: Sequence[Order], fills: Sequence[Fill] = ()) -> None:
        """Tell a broker that keeps protection by hand which orders and fills there have been."""
        if (told := getattr(self._broker, "restore", None)) is not None:
            told(orders, fills)

    async def close(self) -> None:
        """Let go of connections; orders and stops stay."""
        asked: Callable[[], Awaitable[None]] | None = getattr(self._broker, "close", None)
        if asked is not None:
            await asked()

    # -- what it is told ---------------------------------------------------------------------------------------------

    async def submit(self, order: Order) -> OrderState:
        """Send an order that the log says is intended, if it may leave now; one that was sent before is looked up.

        Raises:
            OrderRejected: no byte of it has left, or the broker refused it.
            BrokerUnavailable: nobody knows.
        """
        async with self._one:
            past = await self._caught_up()
            if order.id in self._sent:
                return await self._again(order)
            meant = past.orders.get(order.id)
            if meant is None or meant.order != order:
                told = "is not on the log" if meant is None else "stands on the log in other words"
                raise OrderRejected(f"order {order.id} {told}: what was not meant is not sent", code="no_intent")
            if meant.status in _OVER:
                raise OrderRejected(f"order {order.id} is {meant.status} on the log: it is not sent any more", code="ended")
            account = await self._allow(order, past)
            if not await self._claim(order):
                return await self._again(order)
            try:
                self._judge(order, past, account)  # writing it down may have taken long
            except OrderRejected as error:
                await self._note(order.id, OrderStatus.REJECTED, str(error), error.code)
                raise
            return await self._send(order)

    async def cancel(self, order_id: str) -> OrderState:
        """Take an order back.

        Raises:
            OrderRejected: it was never sent.
            BrokerUnavailable: nobody knows.
        """
        async with self._one:
            past = await self._caught_up()
            if order_id not in self._sent:
                never = OrderRejected(f"order {order_id} was never sent, and will not be", code="unknown_order")
                if (meant := past.orders.get(order_id)) is None:
                    raise never
                if await self._claim(meant.order):  # or a request that is still on its way would send it after this answer
                    await self._note(order_id, OrderStatus.REJECTED, str(never), never.code)
                    raise never
            if self._is_refused(order_id):
                ended = self._ended[order_id].payload
                raise OrderRejected(ended["reason"], code=ended["code"])
        try:
            return await self._asked(partial(self._broker.cancel, order_id))
        except OrderRejected as error:
            if self._broker.dedupes_ids and not self._is_unseen(order_id):
                raise
            # It was sent, and a broker that does not know ids, or has the order and does not show it, cannot say that it will
            # not come.
            raise BrokerUnavailable(f"order {order_id} was sent, and the broker does not show it: {error}") from error

    def _is_refused(self, order_id: str) -> bool:
        ended = self._ended.get(order_id)
        return ended is not None and ended.payload["status"] == OrderStatus.REJECTED

    def _is_unseen(self, order_id: str) -> bool:
        """Whether the broker has said that it has the order, and does not show it."""
        ended = self._ended.get(order_id)
        return ended is not None and ended.payload.get("code") == UNSEEN

    async def _allow(self, order: Order, past: Past) -> Account:
        """Return the broker's account, by which level, lease and gate let an order leave now; raise where they do not."""
        if past.started is None:
            raise OrderRejected("the fund has not begun by its log", code="no_fund")
        theirs = past.started.settings.get("limits_digest")
        if theirs != self._limits.digest:
            raise OrderRejected(f"the fund has limits {theirs}, the execution {self._limits.digest}", code="other_limits")
        self._judge(order, past, account := await self.account())
        return account

    def _judge(self, order: Order, past: Past, account: Account) -> None:
        """Raise unless level, lease and gate let an order leave at this moment."""
        held = account.positions.get(order.symbol, ZERO)
        reduces = order.reduce_only and held * order.side.sign < 0
        allowed = self.permit()
        closing = allowed.level is Level.KILL and reduces and order.decision.startswith("halt ")
        if not closing and (why := refusal(order, allowed, adds=not reduces)):
            raise OrderRejected(why, code="halted" if allowed.level >= Level.HALT else "lease")
        scene = scene_of(order, past, account, allowed, self._clock.now(), self._hours)
        # What never left, or was refused, is not on its way: it must not stand in an exit's way.
        scene = replace(scene, orders=tuple(one for one in scene.orders if not self._is_still(one)))
        judge = check_closing if closing else check
        denial = judge(order, scene, knowable(self._limits, self._hours))
        if denial is not None:
            raise OrderRejected(denial.reason, code=denial.code)

    def _is_still(self, state: OrderState) -> bool:
        """Whether an order that the log holds as intended has not left this process, or was refused."""
        name = state.order.id
        return state.status is OrderStatus.INTENDED and (name not in self._sent or self._is_refused(name))

    async def _claim(self, order: Order) -> bool:
        """Write down that an order is being sent, before it is; return whether this process is the one that does it."""
        await self._write("Sending", order.id, {"by": self._me}, part="")
        await self._caught_up()
        return bool(self._sent[order.id].payload["by"] == self._me)

    async def _send(self, order: Order) -> OrderState:
        try:
            state = await self._asked(partial(self._broker.submit, order))
        except OrderRejected as error:
            await self._note(order.id, OrderStatus.REJECTED, str(error), error.code)
            raise
        except BaseException as error:
            code = UNSEEN if isinstance(error, OrderUnseen) else ""
            await self._note(order.id, OrderStatus.UNKNOWN, f"{type(error).__name__}: {error}", code)
            raise
        await self._note(order.id, state.status, state.reason)
        return state

    async def _again(self, order: Order) -> OrderState:
        """Return how an order stands that was sent before; it is not sent again."""
        if self._is_refused(order.id):
            ended = self._ended[order.id].payload
            raise OrderRejected(ended["reason"], code=ended["code"])
        for state in await self.orders():
            if state.order.id == order.id:
                return state
        raise BrokerUnavailable(f"order {order.id} was sent before, and the broker does not show it: its fate is not known")

    # -- levels ------------------------------------------------------------------------------------------------------

    def permit(self) -> Permit:
        """Return what may leave now."""
        return permit(self._permission, live=True)

    async def keep(self) -> None:
        """Enforce halts until cancelled: the fund's process may be dead, hung or hostile."""
        while True:
            await self._clock.sleep(LOOK_S)
            allowed = self.permit()
            if allowed.level < Level.HALT:
                self._killed = None
                continue
            try:
                await self._halt(allowed)
            except Exception as error:  # a broker that does not answer is asked again
                _log.warning("the halt could not be carried out, it is tried again: %s: %s", type(error).__name__, error)
            await self._clock.sleep(PAUSE_S)

    async def _halt(self, allowed: Permit) -> None:
        past = await self._caught_up()
        for state in await self.orders():
            mine = past.orders.get(state.order.id)
            if mine is None or not state.status.open or mine.order.reduce_only:
                continue
            try:
                await self._asked(partial(self._broker.cancel, state.order.id))
                _log.warning("entry %s was taken back: %s", state.order.id, allowed.reason)
            except (BrokerUnavailable, OrderRejected) as error:  # it must not keep the others, or a position, from their end
                _log.warning("entry %s could not be taken back, it is tried again: %s", state.order.id, error)
        if allowed.level < Level.KILL:
            return
        now = self._clock.now()
        self._killed = self._killed or now
        if self._on_kill == "close" and now - self._killed >= GRACE:
            self._killed = now  # what was refused is tried again after as long
            await self._close_all(allowed, now)

    async def _close_all(self, allowed: Permit, now: datetime) -> None:
        working = {state.order.symbol for state in await self.orders() if state.status.open and state.order.reduce_only}
        name = f"halt {allowed.cause}"
        for symbol, held in (await self.account()).positions.items():
            past = await self._caught_up()
            known = instruments(past).get(symbol)
            if symbol in working or known is None or not (quantity := known.round_quantity(abs(held))):
                continue
            tried = sum(1 for mine in past.orders.values() if mine.order.decision == name and mine.order.symbol == symbol)
            side = Side.SELL if held > 0 else Side.BUY
            order_id = stable_id(past.state.run, "execution", name, symbol, tried)
            order = Order(order_id, symbol, side, quantity, now, reduce_only=True, decision=name)
            meant = Message.of(
                Intended(order),
                id=stable_id("intended", order.id),
                stream=self._fund,
                producer="execution",
                time=now,
                cycle=past.state.cycle,
            )
            await self._bus.publish([meant])
            with suppress(OrderRejected, BrokerUnavailable):
                await self.submit(order)

    # -- the log -----------------------------------------------------------------------------------------------------

    @property
    def journal(self) -> str:
        """The stream on which it writes down what it sends."""
        return f"{self._fund}/execution"

    async def _caught_up(self) -> Past:
        view = PastView()
        async with self._reading:  # a halt and an order at once would fold the same messages twice
            if self._seen is None:
                self._seen = await see(self._bus, self._fund, view)
            async for message in self._bus.read(self._fund, after=self._seen.offset):
                self._seen.add(view, message)
            async for message in self._bus.read(self.journal, after=self._journaled):
                self._journaled = message.offset
                (self._sent if message.type == "Sending" else self._ended)[message.payload["order"]] = message
            return self._seen.value

    async def _note(self, order_id: str, status: OrderStatus, reason: str, code: str = "") -> None:
        """Write down what became of an order. What the broker said is said, whether this can be written or not."""
        told = {"status": str(status), "reason": reason, "code": code}
        self._ended[order_id] = Message.new("Sent", {"order": order_id, **told}, stream="", producer="", time=self._clock.now())
        try:
            await self._write("Sent", order_id, told, part=self._clock.now())
        except AgentFundError as error:
            _log.warning("what became of order %s could not be written down: %s", order_id, error)

    async def _write(self, kind: str, order_id: str, told: dict[str, Any], *, part: object) -> None:
        now = self._clock.now()
        message = Message(
            id=stable_id(kind, self._fund, order_id, part),
            stream=self.journal,
            key=self._fund,
            type=kind,
            payload={"order": order_id, **told},
            producer="execution",
            time=now,
        )
        await self._bus.publish([message])

    async def _asked(self, question: Callable[[], Awaitable[Item]]) -> Item:
        async def ask() -> Item:
            return await question()

        try:
            return await within(self._timeout_s, ask())
        except (BrokerUnavailable, OrderRejected):
            raise
        except DeadlineExceeded:
            raise BrokerUnavailable(f"the broker did not answer within {self._timeout_s:g} s") from None
        except Exception as error:
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error


def for_fund(broker: object, fund: str) -> None:
    """Refuse a simulated broker, whose market is moved by the fund that trades on it.

    Raises:
        ConfigError: it is one.
    """
    from agentfund.protocols import Simulated

    if isinstance(broker, Simulated):
        raise ConfigError(f"the paper broker lives in the process of the fund {fund!r}: an execution needs a real one")
