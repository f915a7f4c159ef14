"""The orchestrator's side: agents that live in other processes are asked over the log."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from agentfund.clock import SystemClock
from agentfund.core.codec import dump_opinion, dump_state, load_opinion
from agentfund.core.context import MarketSnapshot
from agentfund.errors import BusError, ConfigError
from agentfund.messages import Message, stable_id
from agentfund.workers.scenes import tell
from agentfund.workers.words import ASK, ASKED, REPLIED, REPLY, SHOWN, Asked, Replied, asks, replies, scenes

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
        self._scene: tuple[str, asyncio.Future[int]] | None = None
        self._told: tuple[str, Market] | None = None
        self._scenes = 0
        self._base = 0
        self._waiting: dict[str, asyncio.Future[Replied]] = {}
        self._known: dict[str, Replied] = {}
        self._unclaimed: list[Call] = []
        self._listening: asyncio.Task[None] | None = None

    def hosts(self, agent: str) -> bool:
        """Return whether an agent lives elsewhere."""
        return not self._agents or agent in self._agents

    async def begin(self, fund: Orchestrator, run: str, since: datetime | None) -> None:
        """Listen for answers; those since a moment are used and not asked for again.

        Raises:
            ConfigError: an agent that is said to live elsewhere is not in the fund's list.
            BusUnavailable: the log cannot be read.
        """
        names = [agent.name for agent in fund.pipeline.agents]
        if unknown := sorted(self._agents - set(names)):
            raise ConfigError(f"workers: the fund has no agent {unknown[0]!r}; there is {', '.join(names)}")
        self._fund, self._run, self._scene, self._told, self._scenes = fund, run, None, None, 0
        self._known.clear()
        if since is not None:
            async for message in fund.bus.read(replies(fund.name), since=since):
                self._hear(message)
        self._listening = asyncio.ensure_future(self._listen(fund))

    async def end(self) -> Sequence[Call]:
        """Stop listening; return calls that were paid for and belong to no opinion."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
            self._listening = None
        left, self._unclaimed = self._unclaimed, []
        return left

    async def ask(self, agent: SafetyWrapper[Any], context: Snapshot, state: State, token: int) -> Judged:
        """Ask an agent over the log, unless its answer is there already."""
        fund = self._fund
        assert fund is not None
        if agent.llm is not None and (refused := agent.rates.consult(agent.name, context.now)):
            return agent.refused(refused), ()
        ask = stable_id(self._run, state.cycle, context.now, agent.name, "ask")
        reply = self._known.get(ask)
        if reply is None:
            try:
                reply = await self._answer(fund, agent, context, state, token, ask)
            except TimeoutError:
                limit = agent.limits.time_limit_s + self._grace_s
                return agent.refused(f"no worker answered within {limit:g} s"), ()
            except BusError as error:
                return agent.refused(f"it could not be asked: {error}"), ()
        self._known.pop(ask, None)
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
        self._waiting[ask] = future
        try:
            async with asyncio.timeout(limit_s):
                scene = stable_id(self._run, state.cycle, context.now, "scene")
                at = await self._show(fund, scene, context, state, token)
                question = Asked(
                    fund=fund.name,
                    agent=agent.name,
                    code=agent.agent.digest,
                    scene=scene,
                    at=at,
                    base=self._base,
                    state=None if isinstance(context, MarketSnapshot) else _seen(context.state),
                    opinions={name: dump_opinion(one) for name, one in context.opinions_read.items()},
                    decision=None if context.decision is None else context.decision.model_dump(mode="json"),
                    deadline=self._clock.now() + timedelta(seconds=limit_s),
                )
                payload = ASK.dump_python(question, mode="json")
                await self._publish(fund, ASKED, ask, asks(agent.name), fund.name, payload, context, state, token)
                return await future
        finally:
            del self._waiting[ask]

    async def _show(self, fund: Orchestrator, name: str, context: Snapshot, state: State, token: int) -> int:
        """Publish the market of this moment, once; return its place in the log."""
        known = self._scene
        failed = known is not None and known[1].done() and (known[1].cancelled() or known[1].exception() is not None)
        if self._scene is None or self._scene[0] != name or failed:
            self._scene = name, asyncio.ensure_future(self._publish_scene(fund, name, context, state, token))
        return await asyncio.shield(self._scene[1])

    async def _publish_scene(self, fund: Orchestrator, name: str, context: Snapshot, state: State, token: int) -> int:
        told = self._told if self._scenes % _WHOLE else None
        self._told = None  # where this one fails, the next one tells all
        payload = tell(context.market, self._bars, *((told[1], told[0]) if told is not None else ()))
        at = await self._publish(fund, SHOWN, name, scenes(fund.name), fund.name, payload, context, state, token)
        if told is None:
            self._base, self._scenes = at, 0
        self._scenes += 1
        self._told = name, context.market
        return at

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
        if message.type != REPLIED:
            return
        try:
            reply = REPLY.validate_python(message.payload)
        except ValueError as error:
            _log.warning("message %s is no answer of a worker: %s", message.id, error)
            return
        future = self._waiting.get(reply.ask)
        if future is not None and not future.done():
            future.set_result(reply)
        elif self._listening is None:
            self._known.setdefault(reply.ask, reply)  # read back after a restart
        else:
            # Nobody waits for it: it came too late, or twice. What it cost is owed all the same.
            self._unclaimed += reply.calls


def _seen(state: State) -> dict[str, Any]:
    told = dump_state(state)
    told["fill_ids"] = [[]]  # the fold's own memory, which no agent looks at
    return told
