"""What a fund's log says of its past, as far as an exchange has to be asked about it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from agentfund.clock import from_micros, to_micros
from agentfund.trading import ZERO, Fill, Order, OrderType, Side

_MARGIN = timedelta(hours=1)
"""How far the clocks of fund and exchange may lie apart."""
_BRIEF = timedelta(days=1)
"""A market order does not stay open for as long as that."""


@dataclass(frozen=True, slots=True)
class Past:
    """What came before.

    Args:
        since: from when on trades have to be heard again: no order that may still matter has one before.
        open: orders of which the log does not show how they ended.
        held: by symbol, what the fills before `since` left.
        rests: by symbol, how many buys before `since` may have left less than a lot each that is in no book.
    """

    since: datetime
    open: tuple[Order, ...]
    held: Mapping[str, Decimal]
    rests: Mapping[str, int]


def past_of(orders: Sequence[Order], fills: Sequence[Fill], latest: datetime, first: datetime | None) -> Past:
    """Work out where to begin: before whatever is open or held, and so that no order has trades on both sides.

    Args:
        orders: every order of the log.
        fills: every fill of the log.
        latest: begin no later than this.
        first: the exchange tells nothing before this, None where it has no such limit.
    """
    of: dict[str, list[Fill]] = {}
    for fill in fills:
        of.setdefault(fill.order_id, []).append(fill)
    newest = max((*(order.time for order in orders), *(fill.time for fill in fills)), default=latest)
    still = tuple(order for order in orders if _open(order, of.get(order.id, ()), newest))
    times = {order.id: order.time for order in orders}
    begun = [*(order.time for order in still), *_openings(fills, times)]
    since = min((latest, *(time - _MARGIN for time in begun)))
    while True:
        across = [
            time - _MARGIN
            for name, time in times.items()
            if time - _MARGIN < since and any(fill.time >= since for fill in of.get(name, ()))
        ]
        if not across:
            break
        since = min(across)
    since = from_micros(to_micros(max(since, first) if first is not None else since) // 1000 * 1000)
    held: dict[str, Decimal] = {}
    buys: dict[str, set[str]] = {}
    for fill in fills:
        if fill.time < since:
            held[fill.symbol] = held.get(fill.symbol, ZERO) + fill.quantity * fill.side.sign
            if fill.side is Side.BUY:
                buys.setdefault(fill.symbol, set()).add(fill.order_id)
    return Past(since, still, held, {symbol: len(names) for symbol, names in buys.items()})


def _open(order: Order, fills: Sequence[Fill], newest: datetime) -> bool:
    if order.type is OrderType.MARKET and order.time < newest - _BRIEF:
        return False
    own = [fill for fill in fills if fill.leg == "order"]  # a commission in the base currency left less than was bought
    return sum((fill.quantity + max(fill.fee, ZERO) / fill.price for fill in own), ZERO) < order.quantity


def _openings(fills: Sequence[Fill], times: Mapping[str, datetime]) -> list[datetime]:
    """Return, for every position that is held, when the order was decided that opened it."""
    held: dict[str, Decimal] = {}
    begun: dict[str, datetime] = {}
    for fill in sorted(fills, key=lambda one: one.time):
        before = held.get(fill.symbol, ZERO)
        held[fill.symbol] = before + fill.quantity * fill.side.sign
        if not held[fill.symbol]:
            begun.pop(fill.symbol, None)
        elif not before:
            begun[fill.symbol] = min(fill.time, times.get(fill.order_id, fill.time))
    return list(begun.values())
