"""All that Interactive Brokers shows of orders and executions at one moment, and the fills that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from agentfund.brokers.ibkr_words import STOP, TARGET, kind, parts, revision, status
from agentfund.trading import ZERO, Fill, Order, OrderStatus, OrderType, Resting, Side

if TYPE_CHECKING:
    from agentfund.brokers.ibkr_line import Line

_UNSET = Decimal("1e300")  # the interface says "no value" by the greatest float
_LEGS: Mapping[str, Literal["stop", "target"]] = {STOP: "stop", TARGET: "target"}


def number(value: object) -> Decimal:
    """Turn a number of the interface into a Decimal, zero where it has none."""
    found = Decimal(str(value or 0))
    if not found.is_finite() or found > _UNSET:
        return ZERO
    whole = found.to_integral_value()
    return whole if whole == found else found  # 2.0 shares are 2


@dataclass(frozen=True, slots=True)
class Seen:
    """An order at the broker; `id` is ours, `part` tells entry, stop and target of a bracket."""

    id: str
    part: str
    perm: int
    order_id: int
    client: int
    symbol: str
    side: Side
    quantity: Decimal
    filled: Decimal
    type: OrderType
    price: Decimal | None
    status: OrderStatus
    ended: bool
    reason: str
    trade: Any

    @property
    def leg(self) -> bool:
        """Whether it protects an entry."""
        return self.part in _LEGS

    @property
    def idle(self) -> bool:
        """Whether it rests without working: the server refused it, and lists it all the same."""
        return not self.ended and self.trade.orderStatus.status == "Inactive"

    def resting(self) -> Resting:
        """Return it as somebody sees it who only looks."""
        name = f"{self.id}:{self.part}" if self.leg else self.id
        left = self.quantity - self.filled
        return Resting(name, self.symbol, self.side, left, self.type, self.price, self.id if self.leg else "")


@dataclass(frozen=True, slots=True)
class Executed:
    """An execution, as it was told last; `fee` is None while its commission was not reported."""

    id: str
    order_id: str
    leg: Literal["order", "stop", "target"]
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal | None
    time: datetime


@dataclass(frozen=True)
class Survey:
    """Orders and executions of one account, asked for at one moment."""

    orders: tuple[Seen, ...]
    executions: tuple[Executed, ...]

    def of(self, order_id: str) -> list[Seen]:
        """Return all parts of an order of ours, the newest last."""
        return [seen for seen in self.orders if seen.id == order_id]

    def entry(self, order_id: str) -> Seen | None:
        """Return the order itself: the one that can still trade, else the one that has traded, else the newest."""
        mine = [seen for seen in self.of(order_id) if not seen.leg]
        return max(mine, key=lambda seen: (not seen.ended, seen.filled > 0, seen.perm), default=None)

    def live(self, order_id: str, part: str) -> bool:
        """Return whether a part of an order can still trade."""
        return any(seen.part == part and not seen.ended and not seen.idle for seen in self.of(order_id))

    @cached_property
    def latest(self) -> list[Executed]:
        """Executions without those that were corrected since, oldest first."""
        newest: dict[str, Executed] = {}
        for one in self.executions:
            stem, at = revision(one.id)
            if stem not in newest or at > revision(newest[stem].id)[1]:
                newest[stem] = one
        return sorted(newest.values(), key=lambda one: (one.time, one.id))

    def traded(self, order_id: str) -> Decimal:
        """Return how much of an order has traded, its legs not counted."""
        return self._traded.get(order_id, ZERO)

    @cached_property
    def _traded(self) -> Mapping[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for one in self.latest:
            if one.leg == "order":
                sums[one.order_id] = sums.get(one.order_id, ZERO) + one.quantity
        return sums


def rebuilt(order_id: str, seen: Survey, now: datetime) -> Order:
    """Return an order of an earlier process, as far as the broker tells; `now` is its time where nothing says it."""
    one = seen.entry(order_id)
    if one is None:
        done = [e for e in seen.latest if e.order_id == order_id and e.leg == "order"]
        return Order(order_id, done[0].symbol, done[0].side, sum((e.quantity for e in done), ZERO), done[0].time)
    limit = one.price if one.type == "limit" else None
    stop = one.price if one.type == "stop" else None
    return Order(order_id, one.symbol, one.side, one.quantity, now, one.type, limit, stop)


async def survey(line: Line, account: str, name: Callable[[Any], str]) -> Survey:
    """Ask for open orders, ended orders and executions, in this order: what ends meanwhile is in the later list.

    Args:
        line: the connection.
        account: whose they are.
        name: gives our symbol of a contract.

    Raises:
        BrokerUnavailable: one of the questions was not answered.
    """
    open_ = await line.ask("the open orders", lambda ib: ib.reqAllOpenOrdersAsync())
    ended = await line.ask("the completed orders", lambda ib: ib.reqCompletedOrdersAsync(False))
    await line.ask("the executions", lambda ib: ib.reqExecutionsAsync())
    found: dict[tuple[int, ...], Seen] = {}
    # An order of this connection that has just ended may be in neither list: its own messages told of it.
    own = [trade for trade in line.ib.trades() if trade.isDone() and trade.orderStatus.permId and _by_server(trade)]
    for trades, over in ((open_, False), (own, None), (ended, True)):
        for trade in trades:
            if trade.order.account in ("", account):
                seen = _seen(trade, over, name(trade.contract))
                found[(seen.perm,) if seen.perm else (seen.client, seen.order_id)] = seen
    executions = [_executed(fill, name(fill.contract)) for fill in line.ib.fills() if fill.execution.acctNumber == account]
    return Survey(tuple(sorted(found.values(), key=lambda seen: seen.perm)), tuple(executions))


def _seen(trade: Any, over: bool | None, symbol: str) -> Seen:
    order, state = trade.order, trade.orderStatus
    order_id, part = parts(order.orderRef or f"permId:{order.permId or state.permId}")
    type_ = kind(order.orderType)
    price = number(order.auxPrice if type_ is OrderType.STOP else order.lmtPrice)
    quantity = number(order.filledQuantity) if not number(order.totalQuantity) else number(order.totalQuantity)
    stands = status(state.status, ended=over is True)
    return Seen(
        order_id,
        part,
        order.permId or state.permId,
        order.orderId,
        order.clientId,
        symbol,
        Side.BUY if order.action == "BUY" else Side.SELL,
        quantity,
        number(order.filledQuantity) if over else number(state.filled),
        type_,
        price if type_ is not OrderType.MARKET and price else None,
        stands,
        not stands.open if over is None else over,
        _words(trade),
        trade,
    )


def _by_server(trade: Any) -> bool:
    """Return whether the server ended it; ib_async calls an order cancelled at any error that names it."""
    return not trade.log or trade.log[-1].errorCode in (0, 202)


def _words(trade: Any) -> str:
    said = [entry.message for entry in trade.log if entry.errorCode]
    return said[-1] if said else ""


def _executed(fill: Any, symbol: str) -> Executed:
    done, report = fill.execution, fill.commissionReport
    order_id, part = parts(done.orderRef or f"permId:{done.permId}")
    return Executed(
        done.execId,
        order_id,
        _LEGS.get(part, "order"),
        symbol,
        Side.BUY if done.side == "BOT" else Side.SELL,
        number(done.shares),
        number(done.price),
        number(report.commission) if report.execId else None,
        done.time,
    )


class Fills:
    """Fills as they were told, so that they are told in the same words ever after.

    A fill waits for its commission. Where that does not come in time it is told with a fee of zero, and stays so: a fill that
    changes its words would be two fills. A corrected execution has a new id; the one before it is taken back.

    Args:
        patience_s: how long a fill waits for its commission.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[str, float] = {}
        self._told: dict[str, Fill] = {}
        self._newest: dict[str, str] = {}
        self.busted: list[str] = []

    def tell(self, executions: Iterable[Executed], now: float) -> Sequence[Fill]:
        """Take in what was executed, and return all fills that stand, oldest first; `now` is monotonic, in seconds."""
        for one in executions:
            stem, _ = revision(one.id)
            before = self._newest.get(stem, "")
            if before and revision(before)[1] >= revision(one.id)[1]:
                continue
            fee = one.fee
            if fee is None and before in self._told:
                fee = self._told[before].fee
            if fee is None and one.quantity and now - self._since.setdefault(one.id, now) < self._patience_s:
                continue
            if before in self._told:
                self.busted.append(before)
                del self._told[before]
            self._newest[stem] = one.id
            if one.quantity:
                what = (one.id, one.order_id, one.symbol, one.side, one.quantity, one.price)
                self._told[one.id] = Fill(*what, fee or ZERO, one.time, one.price, one.leg)
        return sorted(self._told.values(), key=lambda fill: (fill.time, fill.id))

    def known(self, order_id: str) -> Decimal:
        """Return how much of an order has filled by what was told."""
        return sum((f.quantity for f in self._told.values() if (f.order_id, f.leg) == (order_id, "order")), ZERO)
