"""What an orchestrator and its workers tell each other over the log, and on which streams.

- `FUND/scenes`: the market that a cycle's agents see, once a cycle (`Shown`).
- `asks/AGENT`: questions to one agent, of all funds, with the fund as key (`Asked`).
- `FUND/replies`: the answers, with the agent as key (`Replied`), and what was paid for without one (`Owed`).

A question is named by run, cycle, moment and agent, so it is the same question when it is asked again after a crash, and its
answer is found on the log. The id of its message is that name and the token of the leader who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from agentfund.messages import Call

SHOWN, ASKED, REPLIED, OWED = "Shown", "Asked", "Replied", "Owed"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to an agent.

    Args:
        fund: who asks.
        agent: who is asked.
        code: digest of the agent's code as the fund knows it; a worker with another does not answer.
        scene: id of the market that it sees.
        at: that message's place in the log.
        base: place of the newest scene up to it that tells all bars.
        state: the fund's state as `core.codec` tells it; None where the agent does not see the portfolio.
        opinions: the opinions that it reads, by agent, in the order of the pipeline.
        decision: the cycle's decision where it reads that.
        deadline: nobody waits for the answer after that, aware UTC.
    """

    fund: str
    agent: str
    code: str
    scene: str
    at: int
    base: int
    state: Mapping[str, Any] | None
    opinions: tuple[tuple[str, Mapping[str, Any]], ...]
    decision: Mapping[str, Any] | None
    deadline: datetime


@dataclass(frozen=True, slots=True)
class Replied:
    """An answer.

    Args:
        ask: id of the question.
        by: names the worker.
        opinion: as `core.codec` tells it.
        calls: what asking language models took.
    """

    ask: str
    by: str
    opinion: Mapping[str, Any]
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Owed:
    """What asking language models took where no answer came of it: a worker was told to end, or failed.

    Args:
        ask: id of the question.
        by: names the worker.
        calls: what was asked.
    """

    ask: str
    by: str
    calls: tuple[Call, ...]


ASK = TypeAdapter(Asked)
DEBT = TypeAdapter(Owed)
REPLY = TypeAdapter(Replied)


def question(ask: str) -> str:
    """Return the question's own name, whichever leader asked it."""
    return ask.partition("/")[0]


def scenes(fund: str) -> str:
    """Return the stream of a fund's scenes."""
    return f"{fund}/scenes"


def asks(agent: str) -> str:
    """Return the stream of questions to an agent."""
    return f"asks/{agent}"


def group(agent: str) -> str:
    """Return the consumer group of the workers that host an agent."""
    return f"workers/{agent}"


def replies(fund: str) -> str:
    """Return the stream of answers to a fund."""
    return f"{fund}/replies"
