"""What a person sees of a running fund: tables, and what it leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentfund.trading import ZERO, Level, OrderStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentfund.core.session import Session
    from agentfund.trading import Decision, Order

NEWEST = 5
"""Decisions that are shown."""


class Section(NamedTuple):
    """A table of the board.

    Attributes:
        title: what it shows.
        head: names of its columns.
        rows: its rows; where there are none it is not shown.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def sections(session: Session, decisions: Sequence[Decision]) -> list[Section]:
    """Return what a board shows of a fund at this moment.

    Args:
        session: the run.
        decisions: its newest decisions, oldest first.
    """
    state, pulse, now = session.state, session.pulse, session.clock.now()
    level = Level(pulse.level)
    profit = state.equity - state.day_equity
    heard = "" if pulse.heard is None else f"{max((now - pulse.heard).total_seconds(), 0.0):.0f} s ago"
    trouble = session.dealing.blind or "in order"
    fund = Section(
        f"{session.fund.name}: {session.mode}, cycle {pulse.cycle:,}, {pulse.stage}",
        ("equity", "today", "drawdown", "cash", "level", "lease", "feed heard", "broker", "language models"),
        [
            (
                f"{state.equity:,.2f}",
                f"{profit:+,.2f}",
                f"{state.drawdown:.2%}",
                f"{state.portfolio.cash:,.2f}",
                level.name.lower(),
                "yes" if pulse.lease else "no",
                heard,
                trouble,
                f"{state.billed_usd:,.4f} USD",
            )
        ],
    )
    held = [
        (
            p.symbol,
            f"{p.quantity.normalize():f}",
            f"{p.average_price:,.4f}",
            f"{state.prices.get(p.symbol, ZERO):,f}",
            f"{(state.prices[p.symbol] - p.average_price) * p.quantity:+,.2f}" if p.symbol in state.prices else "",
            _protection(state.recent, p.symbol),
        )
        for p in state.portfolio.positions.values()
    ]
    orders = [
        (
            one.order.id[:12],
            str(one.status),
            f"{one.order.side} {one.order.quantity.normalize():f} {one.order.symbol}",
            one.reason,
        )
        for one in state.orders.values()
    ]
    routes = [
        (str(r["name"]), "off" if r["disabled"] else str(r["state"]), str(r["calls"]), str(r["failures"]))
        for router in session.fund.pipeline.routers
        for r in router.status()
    ]
    newest = [(f"{d.time:%H:%M:%S}", str(d.outcome), d.decided_by, d.reason) for d in decisions[-NEWEST:]]
    return [
        fund,
        Section("positions", ("symbol", "quantity", "average", "last", "profit", "stop and target"), held),
        Section("open orders", ("order", "status", "what", "why"), orders),
        Section("routes", ("route", "breaker", "calls", "failures"), routes),
        Section("last decisions", ("time (UTC)", "outcome", "by", "reason"), newest),
    ]


def line(decision: Decision) -> str:
    """Return a decision as one line."""
    code = f" [{decision.code}]" if decision.code else ""
    reason = " ".join(decision.reason.split())  # a line break of an agent's would look like another decision
    return f"{decision.time:%Y-%m-%d %H:%M:%S} {decision.outcome} by {decision.decided_by}{code}: {reason}"


def left(session: Session) -> Iterator[str]:
    """Give, in sentences, what a fund that stops leaves behind."""
    state = session.state
    if not state.run:
        yield "left: not known, for it ended before it had read its log and heard its broker: look at the broker"
        return
    for position in state.portfolio.positions.values():
        held = f"{position.quantity.normalize():f} {position.symbol}"
        protection = _protection(state.recent, position.symbol)
        if session.dealing.paper is not None:
            where = "on paper: nothing watches it until the fund runs again"
        elif protection:
            where = f"{protection}; these orders stay at the broker"
        else:
            where = "WITHOUT A STOP that the log knows of: look at the broker now"
        yield f"left: a position of {held}, {where}"
    for one in state.orders.values():
        what = f"{one.order.side} {one.order.quantity.normalize():f} {one.order.symbol}"
        if one.status is OrderStatus.UNKNOWN:
            yield f"left: order {one.order.id} ({what}), whose fate is unknown: {one.reason}"
        else:
            yield f"left: order {one.order.id} ({what}), {one.status}"
    if not state.portfolio.positions and not state.orders:
        yield "left: nothing is held and no order is open"


def _protection(orders: Sequence[Order], symbol: str) -> str:
    entry = next((o for o in reversed(orders) if o.symbol == symbol and not o.reduce_only), None)
    if entry is None or entry.stop_loss is None:
        return ""
    return f"stop {entry.stop_loss}" + (f", target {entry.take_profit}" if entry.take_profit is not None else "")
