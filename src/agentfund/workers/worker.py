"""A worker: a process that hosts agents, and answers for them over the log."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from agentfund.clock import SystemClock
from agentfund.core.agent import Agent
from agentfund.core.codec import dump_opinion, load_opinion, load_state
from agentfund.core.context import Snapshot, State
from agentfund.core.ledger import collecting
from agentfund.core.safety import SafetyLimits, SafetyWrapper
from agentfund.errors import BusError, ConfigError
from agentfund.messages import Message, stable_id
from agentfund.trading import Decision
from agentfund.workers.theatre import Theatre
from agentfund.workers.words import (
    ASK,
    ASKED,
    DEBT,
    OWED,
    REPLIED,
    REPLY,
    Asked,
    Owed,
    Replied,
    asks,
    group,
    replies,
    scenes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from pydantic import BaseModel

    from agentfund.core.safety import Judged
    from agentfund.market import Market
    from agentfund.messages import Call
    from agentfund.protocols import Bus, Clock, Delivery, Feed
    from agentfund.workers.metrics import Meter

_log = logging.getLogger("agentfund")
_RETRY_S = 0.5
_NO_PAUSE_S = 1e-9
_LAST_WORD_S = 5.0


class Worker:
    """Hosts agents for the funds on a log: `await Worker([Strategist(llm)], bus=PostgresBus(url)).run()`.

    Several workers with the same agents share the work by fund: questions of one fund to one agent are answered in their
    order. An answer is on the log before its question is ticked off, so what a killed worker held is answered by another.

    Args:
        agents: whom it hosts.
        bus: the log of the funds. Its lease has to be longer than the longest work of an agent.
        outputs: further output types that the agents read; those of the hosted agents are known.
        limits: what each agent may do at most.
        concurrency: questions that one agent works on at a time, each of another fund.
        feed: where a fact checker looks at the market as it is now; the newest scene of the fund where there is none.
        meter: counts answers.
        clock: the machine's clock.

    Raises:
        ConfigError: two agents have the same name, or there is none.
    """

    def __init__(
        self,
        agents: Sequence[Agent[Any]],
        *,
        bus: Bus,
        outputs: Sequence[type[BaseModel]] = (),
        limits: SafetyLimits | None = None,
        concurrency: int = 8,
        feed: Feed | None = None,
        meter: Meter | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        held = limits or SafetyLimits()
        # How often an agent may be asked, and a parameter be adjusted, is counted by each fund for itself.
        held = replace(held, adjustment_pause_s=_NO_PAUSE_S)
        wrapped = [SafetyWrapper(agent, held, clock=self._clock) for agent in agents]
        self._agents = {agent.name: agent for agent in wrapped}
        if not wrapped or len(self._agents) < len(wrapped):
            raise ConfigError(f"a worker needs agents with different names, not {[agent.name for agent in wrapped]}")
        kinds = [kind for agent in wrapped for kind in (agent.output, *agent.reads, *agent.when)]
        self._outputs: Mapping[str, type[BaseModel]] = {kind.__name__: kind for kind in (*kinds, *outputs)}
        lease = getattr(bus, "lease", None)
        longest = max(agent.limits.time_limit_s for agent in wrapped)
        if lease is not None and lease.total_seconds() <= longest:
            raise ConfigError(
                f"the bus hands a question to another worker after {lease}, but an agent may work on it for {longest:g} s:"
                " give the bus a longer lease=, or SafetyLimits(time_limit_s=...) a shorter limit"
            )
        self._bus = bus
        self._concurrency = concurrency
        self._feed = feed
        self._meter = meter
        self._name = f"{platform.node()} {os.getpid()}"
        self._theatres: dict[str, Theatre] = {}
        self._tokens: dict[str, int] = {}
        self.answered = 0

    def __repr__(self) -> str:
        return f"<Worker {self._name}: {', '.join(self._agents)}; {self.answered} answers>"

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents that it hosts."""
        return tuple(self._agents)

    async def run(self) -> None:
        """Answer until cancelled, or until the bus is closed; goes on when the log was away for a while."""
        async with asyncio.TaskGroup() as tasks:
            for agent in self._agents.values():
                tasks.create_task(self._serve(agent))

    async def _serve(self, agent: SafetyWrapper[Any]) -> None:
        stream = asks(agent.name)
        while True:
            try:
                consumer = self._bus.consume(group(agent.name), stream)
                async with aclosing(cast("AsyncGenerator[Delivery, None]", consumer)) as deliveries:
                    await self._share(agent, deliveries)
                return  # the bus is closed
            except BusError as error:
                _log.warning("worker %s: %s", self._name, error)
                await asyncio.sleep(_RETRY_S)

    async def _share(self, agent: SafetyWrapper[Any], deliveries: AsyncGenerator[Delivery, None]) -> None:
        free = asyncio.Semaphore(self._concurrency)

        async def work(delivery: Delivery) -> None:
            try:
                await self._handle(agent, delivery)
            except Exception as error:  # whatever one question does, the others are answered
                _log.warning("worker %s: question %s: %s: %s", self._name, delivery.message.id, type(error).__name__, error)
                with suppress(BusError):  # then it comes again after its lease
                    await delivery.nack(f"{type(error).__name__}: {error}")
            finally:
                free.release()

        try:
            async with asyncio.TaskGroup() as tasks:
                await free.acquire()
                async for delivery in deliveries:
                    tasks.create_task(work(delivery))
                    await free.acquire()
        except* BusError as failed:
            raise failed.exceptions[0] from None

    async def _handle(self, agent: SafetyWrapper[Any], delivery: Delivery) -> None:
        message = delivery.message
        asked = self._understood(message)
        newest = self._tokens.get(asked.fund, 0) if asked is not None else 0
        if asked is None or 0 < message.token < newest:  # nobody waits: no question, or one of a leader of the past
            await delivery.ack()
            return
        self._tokens[asked.fund] = max(message.token, newest)
        waited, began = self._clock.now() - (message.appended or message.time), self._clock.monotonic()
        with collecting() as rows:  # what belongs to no answer: of work that was cut off, or that went on after it
            try:
                opinion, calls = await self._answer(agent, asked)
                told = REPLY.dump_python(Replied(message.id, self._name, dump_opinion(opinion), (*calls, *rows)), mode="json")
            except BaseException:
                if rows:
                    await self._owe(message, asked, delivery.attempt, rows)
                raise
        self.answered += 1
        if self._meter is not None:
            self._meter.answered(agent.name, opinion.stance, waited.total_seconds(), self._clock.monotonic() - began)
        await self._tell(agent.name, message, asked, REPLIED, f"{delivery.attempt} reply", told)
        await delivery.ack()

    async def _owe(self, message: Message, asked: Asked, attempt: int, rows: Sequence[Call]) -> None:
        """Say what was paid for without an answer, also when this process is told to end."""
        told = DEBT.dump_python(Owed(message.id, self._name, tuple(rows)), mode="json")
        telling = asyncio.ensure_future(self._tell(asked.agent, message, asked, OWED, f"{attempt} owed", told))
        with suppress(BusError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await asyncio.shield(telling)

    async def _tell(self, agent: str, message: Message, asked: Asked, kind: str, part: str, payload: Any) -> None:
        answer = Message(
            id=stable_id(message.id, part),
            stream=replies(asked.fund),
            key=agent,
            type=kind,
            payload=payload,
            producer=agent,
            time=message.time,
            cycle=message.cycle,
            cause=message.id,
            appended=self._clock.now(),
            token=message.token,
        )
        await self._bus.publish([answer])

    def _understood(self, message: Message) -> Asked | None:
        if message.type != ASKED:
            return None
        try:
            return ASK.validate_python(message.payload)
        except ValueError as error:
            _log.warning("message %s is no question: %s", message.id, error)
            return None

    async def _answer(self, agent: SafetyWrapper[Any], asked: Asked) -> Judged:
        if asked.deadline < self._clock.now():
            return agent.refused("the question reached a worker after its deadline"), ()
        if asked.code != agent.agent.digest:
            return agent.refused(f"worker {self._name} hosts another version of {agent.name}: update it, or the fund"), ()
        try:
            market = await self._market(asked)
            state = State() if asked.state is None else load_state(asked.state, self._outputs)
            opinions = {name: load_opinion(told, self._outputs) for name, told in asked.opinions}
            decision = None if asked.decision is None else Decision.model_validate(asked.decision)
            newest = await self._newest(asked, market) if self._feed is None else None
        except BusError:
            raise
        except Exception as error:  # whatever stands in a message
            return agent.refused(f"worker {self._name} does not understand the question: {type(error).__name__}: {error}"), ()
        look = (lambda: newest) if newest is not None else self._feed.latest if self._feed is not None else None
        whole = Snapshot(state, market, {}, decision=decision, market_now=look)
        shown = whole.seen_by(agent.reads, opinions, decision, agent.sees_portfolio)
        judged = agent.opine(shown, counted=True)
        return judged if isinstance(judged, tuple) else await judged

    async def _market(self, asked: Asked) -> Market:
        theatre = self._theatres.setdefault(asked.fund, Theatre(self._bus, asked.fund))
        return await theatre.at(asked.scene, asked.at, asked.base)

    async def _newest(self, asked: Asked, market: Market) -> Market:
        """Return the newest market that the fund has shown: time may have passed since the question."""
        message = await self._bus.last(scenes(asked.fund))
        if message is None or message.offset <= asked.at:
            return market
        try:
            return await self._theatres[asked.fund].at(message.id, message.offset, asked.base)
        except KeyError:  # not of this run
            return market
