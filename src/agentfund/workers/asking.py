"""The orchestrator's side: agents that live in other processes are asked over the log."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from agentfund.clock import SystemClock
from agentfund.core.codec import dump_opinion, dump_state, load_opinion
from agentfund.core.context import MarketSnapshot
from agentfund.errors import BusError, ConfigError
from agentfund.messages import Message, stable_id
from agentfund.workers.scenes import tell
from agentfund.workers.words import (
    ASK,
    ASKED,
    DEBT,
    OWED,
    REPLIED,
    REPLY,
    SHOWN,
    Asked,
    Replied,
    asks,
    question,
    replies,
    scenes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from agentfund.core.context import Snapshot, State
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.core.safety import Judged, SafetyWrapper
    from agentfund.market import Market
    from agentfund.messages import Call
    from agentfund.protocols import Clock, Delivery

_log = logging.getLogger("agentfund")
_RETRY_S = 0.5
_REMEMBERED = 10_000  # questions, answers
_WHOLE = 100  # every so many scenes one tells all bars


class Workers:
    """Agents that live in processes of their own: `Orchestrator(agents, bus=bus, workers=Workers("strategist"))`.

    The fund publishes what they see and waits for their opinions. What comes back is judged by the fund's own safety wrappers
    like any other output: bounds, forbidden actions, types. Nobody who answers in time: the opinion is unavailable.

    Args:
        agents: names of the agents that live elsewhere; none means all.
        bars: most bars of an instrument that they see. An agent that looks further back than that needs more.
        grace: how long an answer may take beyond the agent's own time limit.
        clock: the machine's clock.
    """

    def __init__(
        self, *agents: str, bars: int = 1_000, grace: timedelta = timedelta(seconds=5), clock: Clock | None = None
    ) -> None:
        if bars < 1:
            raise ConfigError(f"bars={bars}: agents need to see at least one bar")
        self._agents = frozenset(agents)
        self._bars = bars
        self._grace_s = grace.total_seconds()
        self._clock = clock or SystemClock()
        self._fund: Orchestrator | None = None
        self._run = ""
        self._scene: tuple[str, asyncio.Future[tuple[str, int]]] | None = None
        self._told: tuple[str, Market] | None = None
        self._scenes = 0
        self._base = 0
        self._waiting: dict[str, asyncio.Future[Replied]] = {}
        self._asked: OrderedDict[str, None] = OrderedDict()  # by this process; whoever answers them twice is too late
        self._known: OrderedDict[str, Replied] = OrderedDict()  # answers to what this process has not asked yet
        self._heard: OrderedDict[str, None] = OrderedDict()  # messages, so that one told twice counts once
        self._unclaimed: list[Call] = []
        self._paying: set[str] = set()
        self._listening: asyncio.Task[None] | None = None

    def hosts(self, agent: str) -> bool:
        """Return whether an agent lives elsewhere."""
        return not self._agents or agent in self._agents

    async def begin(self, fund: Orchestrator, run: str, since: datetime | None) -> None:
        """Listen for answers; those since a moment, or ever, are used and not asked for again.

        Raises:
            ConfigError: an agent that is said to live elsewhere is not in the fund's list.
            BusUnavailable: the log cannot be read.
        """
        names = [agent.name for agent in fund.pipeline.agents]
        if unknown := sorted(self._agents - set(names)):
            raise ConfigError(f"workers: the fund has no agent {unknown[0]!r}; there is {', '.join(names)}")
        self._fund, self._run, self._scene, self._told, self._scenes = fund, run, None, None, 0
        for kept in (self._known, self._asked, self._heard):
            kept.clear()
        async for message in fund.bus.read(replies(fund.name), since=since):
            self._hear(message)
        self._unclaimed.clear()  # what was owed for before is on the fund's log, or comes again
        self._listening = asyncio.ensure_future(self._listen(fund))

    def paid(self) -> Sequence[Call]:
        """Return calls that were paid for and belong to no opinion, each once."""
        left, self._unclaimed = self._unclaimed, []
        return left

    async def end(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
            self._listening = None

    async def ask(self, agent: SafetyWrapper[Any], context: Snapshot, state: State, token: int) -> Judged:
        """Ask an agent over the log, unless its answer is there already."""
        fund = self._fund
        assert fund is not None
        # Whether it asks a language model, the fund may learn from its answers alone.
        pays = agent.llm is not None or agent.name in self._paying
        if pays and (refused := agent.rates.consult(agent.name, context.now)):
            return agent.refused(refused), ()
        asked = stable_id(self._run, state.cycle, context.now, agent.name, "ask")
        reply = self._known.pop(asked, None)
        _remember(self._asked, asked, None)
        ask = f"{asked}/{token}" if token else asked
        if reply is None:
            try:
                reply = await self._answer(fund, agent, context, state, token, ask)
            except asyncio.CancelledError:
                self._asked.pop(asked, None)  # it is asked again, and its answer is for that
                raise
            except TimeoutError:
                reply = self._known.pop(asked, None)  # where it came in the last moment
                if reply is None:
                    limit = agent.limits.time_limit_s + self._grace_s
                    return agent.refused(f"no worker answered within {limit:g} s"), ()
            except BusError as error:
                return agent.refused(f"it could not be asked: {error}"), ()
        if reply.calls:
            self._paying.add(agent.name)
        try:
            opinion = load_opinion(reply.opinion, {agent.output.__name__: agent.output})
        except ValueError as error:
            return agent.refused(f"worker {reply.by} gave no {agent.output.__name__}: {error}"), reply.calls
        if opinion.agent != agent.name or opinion.output != agent.output.__name__:
            return agent.refused(f"worker {reply.by} answered for {opinion.agent}, {opinion.output}"), reply.calls
        return agent.judged(opinion, context), reply.calls

    async def _answer(
        self, fund: Orchestrator, agent: SafetyWrapper[Any], context: Snapshot, state: State, token: int, ask: str
    ) -> Replied:
        limit_s = agent.limits.time_limit_s + self._grace_s
        future: asyncio.Future[Replied] = asyncio.get_running_loop().create_future()
        self._waiting[question(ask)] = future
        try:
            async with asyncio.timeout(limit_s):
                scene, at = await self._show(fund, context, state, token)
                asking = Asked(
                    fund=fund.name,
                    agent=agent.name,
                    code=agent.agent.digest,
                    scene=scene,
                    at=at,
                    base=self._base,
                    state=None if isinstance(context, MarketSnapshot) else _seen(context.state),
                    opinions=tuple((name, dump_opinion(one)) for name, one in context.opinions_read.items()),
                    decision=None if context.decision is None else context.decision.model_dump(mode="json"),
                    deadline=self._clock.now() + timedelta(seconds=limit_s),
                )
                payload = ASK.dump_python(asking, mode="json")
                await self._publish(fund, ASKED, ask, asks(agent.name), fund.name, payload, context, state, token)
                return await future
        finally:
            del self._waiting[question(ask)]

    async def _show(self, fund: Orchestrator, context: Snapshot, state: State, token: int) -> tuple[str, int]:
        """Publish the market of this moment, once; return the scene's id and its place in the log."""
        moment = stable_id(self._run, state.cycle, context.now, token, "scene")
        known = self._scene
        failed = known is not None and known[1].done() and (known[1].cancelled() or known[1].exception() is not None)
        if self._scene is None or self._scene[0] != moment or failed:
            self._scene = moment, asyncio.ensure_future(self._publish_scene(fund, moment, context, state, token))
        return await asyncio.shield(self._scene[1])

    async def _publish_scene(
        self, fund: Orchestrator, moment: str, context: Snapshot, state: State, token: int
    ) -> tuple[str, int]:
        told = self._told if self._scenes % _WHOLE else None
        self._told = None  # where this one fails, the next one tells all
        name = stable_id(moment, told[0] if told is not None else "")  # so that one that tells all is never taken for a link
        payload = tell(context.market, self._bars, *((told[1], told[0]) if told is not None else ()))
        at = await self._publish(fund, SHOWN, name, scenes(fund.name), fund.name, payload, context, state, token)
        if told is None:
            self._base, self._scenes = at, 0
        self._scenes += 1
        self._told = name, context.market
        return name, at

    async def _publish(
        self,
        fund: Orchestrator,
        kind: str,
        name: str,
        stream: str,
        key: str,
        payload: Any,
        context: Snapshot,
        state: State,
        token: int,
    ) -> int:
        message = Message(
            id=name,
            stream=stream,
            key=key,
            type=kind,
            payload=payload,
            producer="orchestrator",
            time=context.now,
            cycle=state.cycle,
            appended=self._clock.now(),
            token=token,
        )
        return await fund.bus.publish([message])

    async def _listen(self, fund: Orchestrator) -> None:
        stream = replies(fund.name)
        while True:
            try:
                async with aclosing(cast("AsyncGenerator[Delivery, None]", fund.bus.consume(stream, stream))) as deliveries:
                    async for delivery in deliveries:
                        self._hear(delivery.message)
                        await delivery.ack()
                return  # the bus is closed
            except BusError as error:
                _log.warning("answers of workers cannot be heard: %s", error)
                await asyncio.sleep(_RETRY_S)

    def _hear(self, message: Message) -> None:
        if message.type not in (REPLIED, OWED) or message.id in self._heard:
            return
        _remember(self._heard, message.id, None)
        try:
            reply = REPLY.validate_python(message.payload) if message.type == REPLIED else None
            calls = reply.calls if reply is not None else DEBT.validate_python(message.payload).calls
        except ValueError as error:
            _log.warning("message %s is no answer of a worker: %s", message.id, error)
            return
        future = self._waiting.get(question(reply.ask)) if reply is not None else None
        if reply is not None and future is not None and not future.done():
            future.set_result(reply)
        elif reply is not None and (future is not None or not self._had(question(reply.ask))):
            # Its asker is being cancelled this moment, or was a process before this one: it may be asked again.
            _remember(self._known, question(reply.ask), reply)
        else:
            # Nobody waits for it: it came too late, or twice, or without an answer. What it cost is owed all the same.
            self._unclaimed += calls

    def _had(self, asked: str) -> bool:
        return asked in self._asked or asked in self._known


def _remember(kept: OrderedDict[str, Any], name: str, value: Any) -> None:
    kept[name] = value
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def _seen(state: State) -> dict[str, Any]:
    told = dump_state(state)
    told["fill_ids"] = [[]]  # the fold's own memory, which no agent looks at
    return told
