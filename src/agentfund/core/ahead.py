"""Asking ahead of time: of a history the bars to come are there, so agents that do not see the portfolio need not wait for it.

What they answer about a bar depends on that bar and on each other alone. So many bars are asked about at once, and each
answer is handed out when its bar's turn comes, exactly as if it had been asked then. Nothing is shown to anybody before
its time: each question is made of the market as it is at its own bar.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentfund.core.agent import Agent
from agentfund.core.context import Snapshot, State
from agentfund.core.ledger import collecting, record
from agentfund.core.safety import HOUR, Adjustment, SafetyWrapper
from agentfund.core.waking import rare
from agentfund.messages import Call, Opinion, Stance

if TYPE_CHECKING:
    from agentfund.core.pipeline import Pipeline
    from agentfund.core.safety import Judged
    from agentfund.market import Market
    from agentfund.protocols import Feed

SHORTEST = 16
"""Fewest bars that are looked ahead."""

REFUSED = "BudgetExceeded"

_DECIDED = frozenset({"ok", "InvalidOutput", "Refused", "BadRequest", "CassetteMiss"})
"""Outcomes after which the same question would end in the same way: it is not asked again."""


def foreseen(pipeline: Pipeline) -> tuple[SafetyWrapper[Any], ...]:
    """Return the agents that can be asked ahead of time.

    These are role cards that see no portfolio, are asked at every bar, and read only such agents. None where no language
    model is among them: then there is nothing to wait for.
    """
    found: list[SafetyWrapper[Any]] = []
    names: set[str] = set()
    for agent in pipeline.before:
        plain = type(agent.agent).run is Agent.run and not agent.sees_portfolio and not rare(agent.agent)
        if plain and not issubclass(agent.output, Adjustment) and pipeline.givers(agent) <= names:
            found.append(agent)
            names.add(agent.name)
    return tuple(found) if any(agent.llm is not None for agent in found) else ()


class Ahead:
    """Asks about bars to come, as many at once as the routes allow, and hands each answer out in its turn.

    An agent that nobody answered ahead of time is asked again in its turn. Once a budget refuses a call nothing more is
    asked ahead: what is left of the money goes where it would have gone in sequence. Nothing is asked that a rate limit
    could refuse in its turn, if every agent were asked at every bar.

    Answers wait in memory for their turn. A killed process loses them: at most those about twice as many bars as calls can
    be under way at once. A recording around the router keeps them.

    Args:
        pipeline: the agents.
        agents: those that are asked ahead of time, by `foreseen`.
        feed: the history; a shallow copy of it is streamed, so that the fund's own feed stays where it is.
        after: where to begin.
        known: opinions of the first bar that a run before this one has left on the log.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        agents: tuple[SafetyWrapper[Any], ...],
        feed: Feed,
        after: datetime | None,
        known: Mapping[str, Opinion],
    ) -> None:
        self._pipeline = pipeline
        self._agents = agents
        self._names = frozenset(agent.name for agent in agents)
        self._feed = copy.copy(feed)
        self._known = known
        self._asking = [agent.name for agent in pipeline.agents if agent.llm is not None]
        self._slots: dict[int, asyncio.Semaphore] = {}
        most = 0
        for agent in agents:
            router = agent.llm
            if router is not None:
                slots = router.concurrency(agent.task, agent.tier)
                self._slots.setdefault(id(router), asyncio.Semaphore(slots))
                most = max(most, slots)
        self._room = asyncio.Semaphore(max(SHORTEST, 2 * most))
        self._moments: dict[datetime, asyncio.Task[dict[str, Judged]]] = {}
        self._reached: datetime | None = None
        self._news = asyncio.Event()
        self._stopped = False
        self._lost: list[Call] = []
        self._looking = asyncio.ensure_future(self._look(after))

    async def ask(self, agent: SafetyWrapper[Any], context: Snapshot) -> Judged:
        """Return an agent's opinion on the bar whose turn it is: the one given ahead of time, or a fresh one."""
        results = await self._at(context.now)
        early = results.pop(agent.name, None)
        if early is None:
            return await _waited(agent, context)
        opinion, rows = early
        if agent.llm is not None and (refused := agent.rates.consult(agent.name, context.now)):
            return agent.refused(refused), rows
        if opinion.stance is not Stance.UNAVAILABLE or (rows and rows[-1].outcome in _DECIDED):
            return early
        try:
            late, more = await _waited(agent, context, counted=True)
        except BaseException:
            for row in rows:
                record(row)
            raise
        return late, (*rows, *more)

    def covers(self, agent: SafetyWrapper[Any]) -> bool:
        """Whether an agent is asked ahead of time."""
        return agent.name in self._names

    async def leftovers(self, now: datetime) -> tuple[Call, ...]:
        """Return the calls made for this bar or an earlier one that nobody took; the bar's turn is over."""
        rows: list[Call] = []
        for moment in [one for one in self._moments if one <= now]:
            rows += _rows(await self._moments.pop(moment))
            self._room.release()
        return tuple(rows)

    async def close(self) -> tuple[Call, ...]:
        """Stop asking; return the calls that were made, or were under way, and whose turn never came."""
        tasks = [self._looking, *self._moments.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in self._moments.values():
            if not task.cancelled() and task.exception() is None:
                self._lost += _rows(task.result())
        self._moments.clear()
        return tuple(self._lost)

    async def _at(self, now: datetime) -> dict[str, Judged]:
        while now not in self._moments and not self._looking.done() and (self._reached is None or self._reached < now):
            self._news.clear()
            await self._news.wait()
        found = self._moments.get(now)
        return {} if found is None else await asyncio.shield(found)

    async def _look(self, after: datetime | None) -> None:
        try:
            markets: AsyncIterator[Market] = self._feed.stream(after)
            async for market in markets:
                await self._room.acquire()
                if self._stopped:
                    return
                if market.now in self._moments:  # a feed that gives a moment twice
                    self._room.release()
                    continue
                # A call that a rate limit refuses when its turn comes was paid for in vain.
                bars = 1 + sum(moment > market.now - HOUR for moment in self._moments)
                allowed = self._pipeline.rates.surely(self._asking, market.now, bars)
                self._moments[market.now] = asyncio.ensure_future(self._consult(market, allowed))
                self._reached = market.now
                self._news.set()
        finally:
            self._news.set()

    async def _consult(self, market: Market, allowed: set[str]) -> dict[str, Judged]:
        """Ask about one bar; return what its agents answered, with the calls that it took."""
        opinions = dict(self._known)
        self._known = {}
        results: dict[str, Judged] = {}

        async def keep(agent: SafetyWrapper[Any], judged: Judged) -> None:
            results[agent.name] = judged

        async def early(agent: SafetyWrapper[Any], context: Snapshot) -> Judged:
            if agent.llm is None:
                return await _waited(agent, context)
            if self._stopped or agent.name not in allowed:
                return agent.refused(""), ()  # it is asked in its turn
            async with self._slots[id(agent.llm)]:
                return await _waited(agent, context, counted=True)

        with collecting() as rows:
            try:
                snapshot = Snapshot(State(), market, {}, market_now=lambda: market)
                await self._pipeline.consult(self._agents, snapshot, opinions, keep, ask=early)
            except BaseException:
                self._lost += [*rows, *_rows(results)]
                raise
        if any(row.outcome == REFUSED for row in _rows(results)):
            self._stopped = True
            results = {name: (opinion, _sent(calls)) for name, (opinion, calls) in results.items()}
        return results


async def _waited(agent: SafetyWrapper[Any], context: Snapshot, *, counted: bool = False) -> Judged:
    judged = agent.opine(context, counted=counted)
    return judged if isinstance(judged, tuple) else await judged


def _rows(results: Mapping[str, Judged]) -> list[Call]:
    return [row for _, rows in results.values() for row in rows]


def _sent(rows: tuple[Call, ...]) -> tuple[Call, ...]:
    """Leave out what a budget refused: it is asked, and refused, again in its turn."""
    return tuple(row for row in rows if row.outcome != REFUSED)
