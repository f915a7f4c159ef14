"""A candidate beside the incumbent: the same feed at the same moments, on paper, and what it would have done otherwise."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import Counter
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from itertools import count
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from agentfund.brokers.paper import PaperBroker
from agentfund.buses.sqlite import SqliteBus
from agentfund.core.orchestrator import Orchestrator
from agentfund.errors import AgentFundError
from agentfund.feeds.tee import Tee
from agentfund.terminal import say
from agentfund.trading import Mode, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from agentfund.core.agent import Agent
    from agentfund.core.context import Snapshot
    from agentfund.protocols import Feed

SHADOW = "shadow"
CASH = 100_000


@asynccontextmanager
async def beside(incumbent: Orchestrator, feed: Feed, agents: Sequence[Agent[Any]], folder: Path) -> AsyncIterator[Feed]:
    """Run a candidate while the block runs, and give the feed for the incumbent; at the end say how they differed.

    The candidate is autonomous, on a paper broker, with the incumbent's limits and sizing and a log of its own. Its failures
    are its own, and the incumbent never waits for its answers: agents that are plain functions run in a thread beside the
    event loop, one after the other, each within the time limit of the safety. One that is declared `async` and computes for
    long without awaiting anything holds both up.

    Args:
        incumbent: the fund that counts.
        feed: the feed of both.
        agents: the candidate's agents.
        folder: where its log goes.
    """
    ours, theirs = Tee(feed).split(2)
    log = next(path for number in count(1) if not (path := folder / f"{SHADOW}-{number}.db").exists())
    bus = SqliteBus(log)
    aside = _Aside()
    candidate = Orchestrator(
        [_apart(agent, aside) for agent in agents],
        bus=bus,
        mode=Mode.AUTONOMOUS,
        limits=incumbent.limits,
        sizing=incumbent.sizing,
        consensus=incumbent.consensus,
        safety=incumbent.safety,
        clock=incumbent.clock,
        lease=None,
        name=SHADOW,
    )
    running = asyncio.ensure_future(_run(candidate, theirs))
    try:
        yield ours
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        aside.close()
        said = await compare(incumbent, candidate)
        await bus.close()
        for sentence in (*said, f"its log is {log}"):
            say(f"shadow: {sentence}")


class _Aside:
    """One thread beside the event loop; a daemon, so that what is stuck in it does not keep the process from ending."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._run, name="agentfund-shadow", daemon=True).start()

    async def do(self, call: Callable[[], Any]) -> Any:
        """Call something there; it is not begun any more once nobody waits for it."""
        done: Future[Any] = Future()
        self._work.put((done, call))
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """End the thread after what it does."""
        self._work.put(None)

    def _run(self) -> None:
        while (given := self._work.get()) is not None:
            done, call = given
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(call())
                except Exception as error:
                    done.set_exception(error)


def _apart(agent: Agent[Any], aside: _Aside) -> Agent[Any]:
    """Return an agent that does not compute on the event loop; one that is asynchronous is given back as it is."""
    if inspect.iscoroutinefunction(agent.run):
        return agent

    async def run(context: Snapshot) -> Any:
        given = await aside.do(lambda: agent.run(context))
        return await given if inspect.isawaitable(given) else given

    beside = copy.copy(agent)
    beside.run = run  # type: ignore[method-assign]
    return beside


async def _run(candidate: Orchestrator, feed: Feed) -> None:
    try:
        async for _ in candidate.run(feed, PaperBroker(CASH)):
            pass
    except AgentFundError as error:  # the incumbent goes on without it
        say(f"shadow: the candidate has ended: {error}")
    except Exception as error:
        say(f"shadow: the candidate has failed: {type(error).__name__}: {error}")


async def compare(incumbent: Orchestrator, candidate: Orchestrator) -> Sequence[str]:
    """Return how two funds decided at the same moments, in sentences."""
    ours, theirs = await _decisions(incumbent), await _decisions(candidate)
    both = sorted({*ours, *theirs})
    differs = [moment for moment in both if ours.get(moment, "nothing") != theirs.get(moment, "nothing")]
    told = [f"{len(both):,} moments at which either decided, {len(differs):,} of them otherwise"]
    pairs = Counter((ours.get(moment, "nothing"), theirs.get(moment, "nothing")) for moment in differs)
    told += [
        f"{times:,} times {one!r} by the incumbent and {other!r} by the candidate"
        for (one, other), times in pairs.most_common(5)
    ]
    mine, its = incumbent.context.state, candidate.context.state
    start, began = mine.portfolio, its.portfolio
    told.append(
        f"equity {mine.equity:,.2f} ({start.trips} round trips) and {its.equity:,.2f} ({began.trips} round trips);"
        f" language models {mine.billed_usd:,.4f} and {its.billed_usd:,.4f} USD"
    )
    return told


async def _decisions(fund: Orchestrator) -> dict[str, str]:
    """Return what a fund decided by the moment of the market: an order and one that would have been are the same here."""
    from agentfund.messages import Decided

    found: dict[str, str] = {}
    async for message in fund.bus.read(fund.name):
        if isinstance(event := message.event, Decided):
            decision = event.decision
            acts = decision.outcome in (Outcome.ORDERED, Outcome.ADVISED)
            found[message.time.isoformat()] = f"{decision.direction} {decision.symbol}" if acts else str(decision.outcome)
    return found
