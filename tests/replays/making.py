"""Recorded runs, and agents that count how often they are asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentfund import (
    Abstain,
    Agent,
    Backtest,
    Direction,
    MemoryBus,
    Message,
    Orchestrator,
    PaperBroker,
    Proposal,
    Record,
    Verdict,
)
from agentfund.feeds import Bars
from agentfund.replays.recorded import TOLD, Recorded
from agentfund.strategies import Strategy
from tests.market import bars, wave


class Mood(Record):
    """How the market feels."""

    good: bool


class Watcher(Agent[Mood]):
    """Looks at the last move."""

    sees_portfolio = False

    def rule(self, context: Any) -> Mood | Abstain:
        ASKED[self.name] += 1
        close = context.bars.close
        return Mood(good=bool(close[-1] > close[-2])) if len(close) > 1 else Abstain("one bar is no move")


class Trader(Agent[Proposal]):
    """Buys in a good mood, and sells in a bad one."""

    reads = (Mood,)

    def rule(self, context: Any) -> Proposal | Abstain:
        ASKED[self.name] += 1
        held = context.portfolio.quantity("SIM")
        good = context.latest(Mood).good
        if good and not held and context.state.cycle % 3 == 0:
            return Proposal(direction=Direction.LONG, thesis="the mood is good", stop_pct=1.0, target_pct=2.0)
        if held and not good and context.state.cycle % 4 == 0:
            return Proposal(direction=Direction.FLAT, thesis="the mood turned")
        return Abstain("there is nothing to do")


class Gate(Agent[Verdict]):
    """Approves unless the fund has lost too much."""

    reads = (Proposal,)
    veto = True
    most = 50.0

    def rule(self, context: Any) -> Verdict:
        ASKED[self.name] += 1
        return Verdict(approved=context.state.drawdown * 100 < self.most, reason="it looked at the drawdown")


class Second(Agent[Verdict]):
    """Looks at the mood too."""

    reads = (Proposal, Mood)

    def rule(self, context: Any) -> Verdict:
        ASKED[self.name] += 1
        return Verdict(approved=True, reason=f"the mood is {context.latest(Mood).good}")


class Stricter(Gate):
    """Another gate in the gate's place: it refuses every fourth bar."""

    def rule(self, context: Any) -> Verdict:
        ASKED[self.name] += 1
        return Verdict(approved=bool(context.state.cycle % 4), reason="it counts bars")


ASKED: Counter[str] = Counter()


def crew(*others: Agent[Any]) -> list[Agent[Any]]:
    """Return the agents, with others in the place of those whose names they have."""
    by_name = {one.name: one for one in others}
    usual: list[Agent[Any]] = [Watcher(), Trader(), Gate(), Second()]
    return [by_name.pop(one.name, one) for one in usual] + list(by_name.values())


def market(count: int = 300, seed: int = 1) -> Bars:
    """Return bars."""
    return bars(wave(count, seed=seed))


async def run(agents: Sequence[Agent[Any]], feed: Bars, bus: Any = None, to: Any = None, **options: Any) -> Any:
    """Run a fund over history, and return its log; rule strategies as a backtest does, which does not ask them in vain."""
    bus, to = bus or MemoryBus(), to or PaperBroker()
    fund = Orchestrator(agents, bus=bus, mode="autonomous", **options)
    if any(isinstance(agent, Strategy) for agent in agents):
        await Backtest(fund, feed, to)
    else:
        async for _ in fund.run(feed, to):
            pass
    ASKED.clear()
    return bus


async def recorded(count: int = 300, **options: Any) -> tuple[Recorded, Bars]:
    """Return a recorded run and its bars."""
    feed = market(count)
    return await Recorded.read(await run(crew(), feed, **options)), feed


async def messages_of(bus: Any) -> list[Message]:
    """Return everything on a bus."""
    return [message async for message in bus.read()]


def tampered(messages: Sequence[Message], at: int, **payload: Any) -> list[Message]:
    """Return messages of which one says something else; a name with dots in it, written with __, goes deeper."""
    told = json.loads(json.dumps(messages[at].payload))
    for path, value in payload.items():
        *parents, last = path.split("__")
        part = told
        for name in parents:
            part = part[name]
        part[last] = value
    other = replace(messages[at], payload=told, _event=None)
    return [*messages[:at], other, *messages[at + 1 :]]


def plain(messages: Sequence[Message]) -> list[Any]:
    """Return what messages say without the ids that follow from a run's name, and without reasons for having nothing to say."""
    found = []
    for message in messages:
        if message.type not in TOLD - {"Started"}:
            continue
        payload = json.loads(json.dumps(message.payload))
        for part in ("decision", "order", "fill"):
            for name in ("id", "order_id", "decision"):
                if isinstance(payload.get(part), dict):
                    payload[part].pop(name, None)
        payload.pop("order_id", None)
        if payload.get("opinion", {}).get("stance") == "abstains":
            payload["opinion"].pop("reason")
        found.append((message.cycle, message.type, payload))
    return found
