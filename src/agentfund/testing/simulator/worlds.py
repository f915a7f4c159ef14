"""Worlds of our own: small funds that between them use everything that can break."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from agentfund.core.agent import Agent, agent
from agentfund.core.approval import Approval, ApprovalRequest
from agentfund.core.budget import Budget
from agentfund.core.context import Snapshot
from agentfund.core.gate import Limits
from agentfund.core.limits import OFF
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.permission import UNWATCHED
from agentfund.core.router import Router
from agentfund.prompt import Prompt
from agentfund.protocols import Permission
from agentfund.testing.simulator.world import Ports, World
from agentfund.trading import Decision, Direction, Proposal, Record, Verdict, View

LEASE = timedelta(minutes=3)
RECONCILE = timedelta(minutes=5)
LIMITS = Limits(
    allow_short=True,
    max_daily_loss_pct=50,
    max_drawdown_pct=60,
    max_intraday_drawdown_pct=60,
    duplicate_window_s=1,
    max_repeats=10**6,
    # Its markets have bars and nothing else.
    max_volume_pct=OFF,
    require_hours=False,
    require_quote=False,
)


class Mood(Record):
    """What a language model makes of the market."""

    label: Literal["calm", "wild"]


class Note(Record):
    """A word on a decision."""

    text: str


@agent
def trader(context: Snapshot) -> Proposal | None:
    """Go long, short and flat by the last digit of the price, so that every bar says something else."""
    cents = round(context.bars.price * 100)
    if cents % 5 < 2:
        return None
    if context.portfolio.positions or context.state.orders:
        return Proposal(direction=Direction.FLAT) if cents % 2 else None
    direction = Direction.LONG if cents % 3 else Direction.SHORT
    return Proposal(direction=direction, stop_pct=0.5, target_pct=0.8)


@agent(reads=(Proposal,))
def gate(context: Snapshot) -> Verdict:
    """Approve, but for one price in seven."""
    return Verdict(approved=round(context.bars.price * 100) % 7 != 0, reason="by the digits")


@agent(when=(Proposal,))
def blind(context: Snapshot) -> View:
    """Agree with the digits."""
    return View(direction=Direction.LONG if round(context.bars.price * 100) % 3 else Direction.SHORT)


class Reader(Agent[Mood]):
    """Say whether the market is calm or wild."""

    sees_portfolio = False


class Judge(Agent[Verdict]):
    """Approve or veto the proposal."""

    reads = (Proposal, Mood)


class Historian(Agent[Note]):
    """Say a word on the decision."""

    reads = (Decision,)


def _price(prompt: Prompt) -> int:
    market: Mapping[str, Mapping[str, float]] = prompt.inputs["market"]
    return round(next(iter(market.values()))["price"] * 100)


def _said(prompt: Prompt) -> Record | None:
    cents = _price(prompt)
    if prompt.output is Mood:
        return Mood(label="wild" if cents % 4 == 0 else "calm")
    if prompt.output is Verdict:
        return Verdict(approved=cents % 7 != 0, reason="by the digits")
    return Note(text=f"at {cents}") if cents % 3 else None


def small(
    ports: Ports, *, lease: timedelta | None = None, standby: bool = False, permission: Permission = UNWATCHED
) -> Orchestrator:
    """Functions alone: the shortest way from a bar to an order."""
    return Orchestrator(
        [trader, gate],
        bus=ports.bus,
        clock=ports.clock,
        mode="autonomous",
        limits=LIMITS,
        permission=permission,
        reconcile=RECONCILE,
        lease=lease,
        standby=standby,
        name="small",
    )


def led(ports: Ports) -> Orchestrator:
    """The same under a lease, which a process has to hold before it may act."""
    return small(ports, lease=LEASE)


def pair(ports: Ports) -> Orchestrator:
    """The same, ready to take over from another process."""
    return small(ports, lease=LEASE, standby=True)


def watched(ports: Ports) -> Orchestrator:
    """The same under a watchdog, whose word changes by schedule."""
    return small(ports, permission=ports.permission)


def desk(ports: Ports, *, usd: str = "0.30", hedge_after_s: float | None = None) -> Orchestrator:
    """Functions and language models behind a router of two routes, with a budget that is just about enough."""
    routes = [ports.llm(_said, name="first"), ports.llm(_said, name="second", price_usd=Decimal("0.003"))]
    budget = Budget(usd_per_run=usd, clock=ports.clock)
    llm = Router(
        routes, budget=budget, clock=ports.clock, deadline_s=20, failures=2, cooldown_s=20, hedge_after_s=hedge_after_s
    )
    return Orchestrator(
        [Reader(llm), trader, Judge(llm), blind, Historian(llm)],
        bus=ports.bus,
        clock=ports.clock,
        mode="autonomous",
        limits=LIMITS,
        permission=UNWATCHED,
        reconcile=RECONCILE,
        lease=LEASE,
        name="desk",
    )


def rich(ports: Ports) -> Orchestrator:
    """The same with more money than it can spend, so that calls made twice take nothing from later ones."""
    return desk(ports, usd="100")


def hedged(ports: Ports) -> Orchestrator:
    """The same with a second route asked where the first is slow."""
    return desk(ports, usd="0.60", hedge_after_s=1.0)


def supervised(ports: Ports) -> Orchestrator:
    """Functions, and a person who approves most orders, sometimes late."""

    async def person(request: ApprovalRequest) -> Approval:
        await asyncio.sleep(int(request.order.quantity) % 50)
        return Approval(int(request.order.quantity) % 5 != 0, request.order_hash, "ann")

    return Orchestrator(
        [trader, gate],
        bus=ports.bus,
        clock=ports.clock,
        mode="supervised",
        approver=person,
        approval_timeout=timedelta(seconds=40),
        limits=LIMITS,
        permission=UNWATCHED,
        reconcile=RECONCILE,
        lease=None,
        name="supervised",
    )


HALTS = "submit#1:no_fill,permit#100:halt(300),permit#410:kill(300)"
HALTS_APART = "submit#1:no_fill,permit#200:halt(300),permit#820:kill(300)"
"""An entry rests when the halt comes, and a position is open at level 4."""
INTERRUPTIONS = ("crash_before", "crash_after", "cancel", "power_before", "power_after", "fails", "lost_ack")

WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        World(small, name="small"),
        World(led, name="led"),
        World(pair, name="pair", processes=2),
        World(desk, name="desk"),
        # Where the network doubles an order and the broker takes both, nobody can do anything.
        World(small, name="careless", dedupes_ids=False, without=("submit:doubled",)),
        World(small, name="strict", refuses_twins=True),
        World(hedged, name="hedged"),
        World(supervised, name="supervised"),
        World(small, name="unruly", unruly=True),
        World(watched, name="watched", during=HALTS),
        # An execution in front of a broker that dedupes, and of one that does not: nothing is sent twice to either.
        World(small, name="keys", execution="within", unruly=True),
        World(small, name="keys_once", execution="within", dedupes_ids=False, without=("submit:doubled",)),
        World(watched, name="apart", execution="apart", unruly=True, during=HALTS_APART),
        World(
            watched,
            name="apart_once",
            execution="apart",
            dedupes_ids=False,
            without=("submit:doubled",),
            during=HALTS_APART,
        ),
        World(rich, name="paper", paper=True, kinds=INTERRUPTIONS),
    )
}
"""Our worlds by name."""
for _world in WORLDS.values():
    _world.builtin = True
