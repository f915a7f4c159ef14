"""A recorded run on the same bars once more: the fund's own session, with the log answering in the agents' place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from agentfund.backtest.signals import wakes
from agentfund.backtest.trades import time_axis
from agentfund.clock import SimulatedClock, from_micros, to_micros
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.router import Router
from agentfund.core.session import closing
from agentfund.core.waking import rare
from agentfund.errors import ConfigError
from agentfund.market import decimal
from agentfund.messages import Called, Message, Started, stable_id
from agentfund.protocols import History, Simulated
from agentfund.replays.answers import Answers, Ask
from agentfund.replays.cycles import Cycle, Cycles
from agentfund.replays.moments import Moments
from agentfund.replays.recorded import TOLD
from agentfund.replays.settings import Settings, broker_of
from agentfund.replays.tape import Tape
from agentfund.strategies import Strategy
from agentfund.trading import ZERO, Mode

if TYPE_CHECKING:
    from agentfund.core.agent import Agent
    from agentfund.core.waking import Due
    from agentfund.protocols import Broker, Feed
    from agentfund.replays.recorded import Recorded
    from agentfund.replays.roles import Role

Progress = Callable[[int, int], None]
"""Called with (cycles done, cycles in all) now and then."""

Moment = int | datetime | None
"""A cycle by its number or by its time; None for the beginning, or the end."""

EVERY = 512


class Window(NamedTuple):
    """Cycles that are rerun, both included; `last` is 0 where the rerun goes on to the end of the data."""

    first: int
    last: int


class Stage:
    """A rerun that is about to begin.

    Args:
        recorded: the run.
        agents: the agents.
        feed: the bars that the run saw.
        settings: what plain code goes by.
        broker: a paper broker; one like the recorded run's where it is not given.
        window: the first and the last cycle, each by number or by time.
        keep: whether the cycles of the recorded run keep their messages.
        named: whether what it writes bears the recorded run's name: orders and decisions have the ids that they have in the
            log. A rerun that makes its own name can be compared from its first message on.

    Attributes:
        remarks: what has to be said of the data.
        fund: the fund.
        window: the cycles that are rerun.
        named: as above; it may be changed until the rerun begins.

    Raises:
        ConfigError: the feed holds other data, or is no history; the broker is not simulated; the window is empty.
    """

    def __init__(
        self,
        recorded: Recorded,
        agents: Sequence[Agent[Any]],
        feed: Feed,
        settings: Settings,
        *,
        broker: Broker | None = None,
        window: tuple[Moment, Moment] = (None, None),
        keep: bool = False,
        named: bool = True,
    ) -> None:
        if not isinstance(feed, History):
            raise ConfigError(f"a rerun needs the history that the run saw, such as Bars; {type(feed).__name__} holds none")
        if broker is not None and not isinstance(broker, Simulated):
            raise ConfigError(f"a rerun needs a simulated broker, such as PaperBroker; {type(broker).__name__} is not")
        self.recorded = recorded
        self.history: History = feed
        self.window = _window(recorded, feed, window)
        self.remarks = _same_data(recorded, feed)
        self._feed: Feed = Moments(feed, feed, recorded.moments.values()) if recorded.live else feed
        self._broker = broker or broker_of(recorded.started)
        self._cycles = Cycles(recorded, keep=keep)
        self.named = named or self.window.first > 1 or recorded.live
        self._tape = Tape(self._before)
        self._mode = Mode(recorded.started.mode)
        self._answers: Answers | None = None
        self._session: Any = None
        self.fund = Orchestrator(
            agents,
            bus=self._tape,
            mode=self._mode,
            limits=settings.limits,
            sizing=settings.sizing,
            consensus=settings.consensus,
            safety=settings.safety,
            approver=self._approve if self._mode is Mode.SUPERVISED else None,
            name=recorded.started.fund,
        )

    @property
    def cards(self) -> Sequence[Mapping[str, Any]]:
        """The agents as a log describes them."""
        described: Sequence[Mapping[str, Any]] = self.fund.describe()["agents"]
        return described

    @property
    def began_as(self) -> Started:
        """What the rerun is, as its log says; after `ready`."""
        started: Started = self._session.describe(None)
        return started

    def ready(
        self,
        roles: Sequence[Role],
        asked: Collection[str],
        *,
        ask: Ask = "changed",
        rejudge: bool = False,
        insist: Collection[str] = (),
        through_outages: bool = False,
        by_log: bool = False,
    ) -> Answers:
        """Say who answers for himself; return what answers.

        Args:
            roles: the agents beside those of the recorded run.
            asked: names of agents that are asked.
            ask: whether others are asked too where what they look at changed.
            rejudge: whether recorded opinions pass the safety wrappers once more.
            insist: routes that are asked about the past although they tell a language model of today.
            through_outages: whether to go on where nobody answers.
            by_log: whether a rule strategy is asked wherever the log holds an opinion of its, too: runs differ in how often
                they ask one that has nothing to say.
        """
        answers = Answers(
            self._cycles,
            {role.name: role for role in roles},
            asked,
            ask=ask,
            start=self.window.first,
            rejudge=rejudge,
            live=self.recorded.live,
        )
        self._answers, self.fund.workers = answers, answers
        for wrapper in self.fund.pipeline.before:
            if isinstance(wrapper.agent, Strategy) and (wrapper.name in asked or ask == "affected"):
                wrapper.agent.restart()
        insisted = {*insist, *self.recorded.started.settings.get("insisted", {})}
        if self.named and ask == "changed":
            insisted |= self._idle(asked)
        self._session = self.fund.session(
            self._feed,
            self._broker,
            mode=self._mode,
            sync=False,
            ahead=False,
            insist=insisted,
            # What the recorded run went through, a rerun of it must go through as well.
            through_outages=through_outages or self.recorded.through_outages,
            due=self._due(answers, asked, ask, by_log),
        )
        if isinstance(self._session.clock, SimulatedClock):
            answers.clock = self._session.clock
        return answers

    async def play(
        self, *, passed: Callable[[Cycle], None], progress: Progress | None = None
    ) -> AsyncGenerator[tuple[Cycle, list[Message]], None]:
        """Run; give each cycle as the log tells it, with what the rerun wrote.

        Args:
            passed: told cycles of the log that the session did not enter, because they lie before the window.
            progress: called with (cycles done, cycles in all) now and then.
        """
        session, cycles = self._session, self._cycles
        assert self._answers is not None

        async def begin() -> None:
            await cycles.to(session.resumed_at or 1, passed)

        self._answers.begin_at = begin
        total = self.window.last or len(time_axis(self.history.columns))
        done: tuple[Cycle, list[Message]] | None = None
        try:
            async with closing(session.steps()) as steps:
                async for _ in steps:
                    if done is not None:
                        yield done
                    done = cycles.now, self._tape.take()
                    if session.cycle % EVERY == 0:
                        if progress is not None:
                            progress(session.cycle, total)
                        await asyncio.sleep(0)
                    if session.cycle == self.window.last:
                        break
                    await cycles.to(session.cycle + 1)
            if progress is not None:
                progress(total, total)
            if done is not None:
                yield done[0], [*done[1], *self._tape.take()]  # the end of the data is written after its last cycle
        finally:
            await cycles.close()

    def opening(self) -> Message:
        """Return the first message of the rerun under the recorded run's name; after `ready`."""
        started = replace(self.began_as, run=self.recorded.started.run)
        return Message.of(
            started,
            id=stable_id(started.run, 0, Started.__name__, ""),
            stream=started.fund,
            producer="orchestrator",
            time=self.recorded.begun,
            appended=self.recorded.begun,
        )

    async def _before(self) -> AsyncIterator[Message]:
        """Give the log up to the window, under the rerun's own description.

        What was spent then is not spent again, so the calls that are on it cost a budget nothing.
        """
        if self.named:
            yield self.opening()
        if self.window.first == 1:
            return
        async with closing(self.recorded.stream()) as told:
            async for message in told:
                event = message.event
                if message.cycle >= self.window.first:
                    return
                if isinstance(event, Called):
                    yield replace(message, _event=Called(replace(event.call, billed_usd=ZERO)))
                elif message.type in TOLD and not isinstance(event, Started):
                    yield message

    def _idle(self, asked: Collection[str]) -> set[str]:
        """Return the routes that nobody asks in this rerun: whatever they would put into a prompt spoils nothing."""
        routes: dict[bool, set[str]] = {True: set(), False: set()}
        for wrapper in self.fund.pipeline.agents:
            if isinstance(wrapper.llm, Router):
                routes[wrapper.name in asked] |= {route.name for route in wrapper.llm.routes}
        return routes[False] - routes[True]

    async def _approve(self, request: Any) -> Any:
        assert self._answers is not None
        return await self._answers.approve(request)

    def _due(self, answers: Answers, asked: Collection[str], ask: Ask, by_log: bool) -> dict[str, Due]:
        own = [each.agent for each in self.fund.pipeline.before if each.name in asked or ask == "affected"]
        knows = wakes(own, self.history.columns)
        found: dict[str, Due] = {}
        for wrapper in self.fund.pipeline.before:
            name, agent = wrapper.name, wrapper.agent
            if name in knows:
                found[name] = answers.due(name, knows[name], by_log=by_log)
            elif rare(agent):
                found[name] = answers.due(name, agent.due)
            elif isinstance(agent, Strategy) and agent not in own:  # its log may tell only the bars at which it was asked
                found[name] = answers.due(name, _never)
        return found


def _never(*_: object) -> bool:
    return False


def _same_data(recorded: Recorded, feed: Feed) -> tuple[str, ...]:
    """Return what is to be said of the data; a live source has no fingerprint, so there prices are compared.

    Raises:
        ConfigError: they are not those that the run saw.
    """
    told = recorded.started.feed
    if not recorded.live:
        if feed.fingerprint != told.get("fingerprint"):
            raise ConfigError(
                f"the feed holds other data than the recorded run saw: the log has the fingerprint {told.get('fingerprint')}"
                f" ({told.get('source') or told.get('class')}), the feed {feed.fingerprint}"
            )
        return ()
    symbols = [instrument.symbol for instrument in feed.instruments]
    if missing := [symbol for symbol in told.get("symbols", ()) if symbol not in symbols]:
        raise ConfigError(f"the recorded run saw {missing[0]}, and the feed holds {', '.join(symbols)}")
    if not recorded.moments:
        raise ConfigError("the recorded run saw no bar, so there is nothing to rerun")
    if sorted(recorded.moments) != list(range(1, len(recorded.moments) + 1)):
        raise ConfigError("the log does not tell every cycle of the recorded run, so its bars cannot be found again")
    said = ["The run was live: the feed has no fingerprint to compare, so prices are compared where the log tells them."]
    if not recorded.started.broker.get("simulated", False):
        said.append(f"Orders went to a {recorded.started.broker.get('class')}; here they meet a paper broker.")
    return tuple(said)


def _window(recorded: Recorded, history: History, window: tuple[Moment, Moment]) -> Window:
    axis = time_axis(history.columns)
    total = recorded.cycles if recorded.live else len(axis)

    def cycle(moment: int | datetime, *, first: bool) -> int:
        if isinstance(moment, int):
            return moment
        if recorded.live:
            later = sum(time < moment if first else time <= moment for time in recorded.moments.values())
        else:
            later = int(axis.searchsorted(to_micros(moment), side="left" if first else "right"))
        return later + first

    begin = 1 if window[0] is None else cycle(window[0], first=True)
    newest = 0 if recorded.ended else recorded.cycles
    end = newest if window[1] is None else cycle(window[1], first=False)
    if not 1 <= begin <= (end or total) <= total:
        raise ConfigError(
            f"the window from cycle {begin:,} to {end or total:,} is empty or lies beyond the run, which has {total:,} cycles,"
            f" {recorded.begun.isoformat()} to {recorded.last.isoformat()}"
        )
    return Window(begin, end)


def moment_of(recorded: Recorded, history: History, cycle: int) -> datetime:
    """Return when a cycle was."""
    if recorded.live:
        return recorded.moments[cycle]
    return from_micros(int(time_axis(history.columns)[cycle - 1]))


def prices_differ(seen: Mapping[str, Any], history: History, moment: datetime) -> bool:
    """Whether prices on a log are not the closes that a history knows at a moment."""
    micros = to_micros(moment)
    for symbol, column in history.columns.items():
        bar = int(column.ends.searchsorted(micros, side="right")) - 1
        if symbol in seen and (bar < 0 or decimal(float(column.close[bar])) != seen[symbol]):
            return True
    return False
