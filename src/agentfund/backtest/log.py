"""A run's log put in order: what each cycle left in it, what each agent did, what the broker said about its costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError
from agentfund.messages import Answered, Call, Called, Decided, Ended, Filled, Intended, Observed, Opined, Stance, Started
from agentfund.trading import ZERO, Costs, Decision, Fill, Order

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from agentfund.messages import Message

RULES = "rules"
"""The name under which a rule twin answers; it is no language model."""


@dataclass(slots=True)
class Cycle:
    """What one cycle left in the log; opinions are as they lie there, in JSON values."""

    time: datetime
    opinions: list[Mapping[str, Any]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @property
    def billed(self) -> Decimal:
        """What its calls to language models are billed, in USD."""
        return sum((call.billed_usd for call in self.calls), ZERO)


class Log:
    """A fold over the messages of one run.

    Raises:
        ConfigError: the messages do not begin with a run, or hold more than one.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        started: Started | None = None
        self.ended: Ended | None = None
        self.cycles: dict[int, Cycle] = {}
        self.decisions: list[Decision] = []
        self.orders: dict[str, Order] = {}
        self.answers: dict[str, Answered] = {}
        self.fills: dict[str, tuple[Fill, datetime]] = {}
        for message in messages:
            event = message.event
            self.last = message.time
            if isinstance(event, Started):
                if started is not None and started.run != event.run:
                    raise ConfigError(f"the log holds the runs {started.run!r} and {event.run!r}: give the messages of one run")
                started = started or event
            elif isinstance(event, Observed):
                self._cycle(message)
            elif isinstance(event, Opined):
                self._cycle(message).opinions.append(message.payload["opinion"])
            elif isinstance(event, Called):
                self._cycle(message).calls.append(event.call)
            elif isinstance(event, Decided):
                self.decisions.append(event.decision)
            elif isinstance(event, Intended):
                self.orders[event.order.id] = event.order
            elif isinstance(event, Answered):
                self.answers[event.order_id] = event
            elif isinstance(event, Filled):
                self.fills.setdefault(event.fill.id, (event.fill, message.time))
            elif isinstance(event, Ended):
                self.ended = event
        if started is None:
            raise ConfigError("the log holds no Started message: give all messages of one run, from its beginning")
        self.started = started

    def _cycle(self, message: Message) -> Cycle:
        return self.cycles.setdefault(message.cycle, Cycle(message.time))


@dataclass(frozen=True, slots=True)
class AgentRow:
    """What one agent did in the whole run.

    `opinions` are those with a value, `vetoes` those that stood in a decision, `calls` attempts to get an answer from a
    language model, `billed_usd` what these are billed; `answered_by` counts who answered.
    """

    opinions: int
    abstentions: int
    unavailable: int
    vetoes: int
    clamps: int
    calls: int
    billed_usd: Decimal
    answered_by: Mapping[str, int]


def by_agent(log: Log) -> dict[str, AgentRow]:
    """Return what each agent did, in the order of the pipeline."""
    names = [str(card["name"]) for card in log.started.agents if "name" in card]
    opinions = [opinion for cycle in log.cycles.values() for opinion in cycle.opinions]
    calls = [call for cycle in log.cycles.values() for call in cycle.calls]
    names += [opinion["agent"] for opinion in opinions] + [call.agent for call in calls]
    vetoes = Counter(agent for decision in log.decisions for agent, _ in decision.vetoes)
    stances = Counter((opinion["agent"], opinion["stance"]) for opinion in opinions)
    clamps, asked, billed = Counter[str](), Counter[str](), dict.fromkeys(names, ZERO)
    answered = {name: Counter[str]() for name in names}
    for opinion in opinions:
        clamps[opinion["agent"]] += len(opinion["clamps"])
        if opinion["stance"] != Stance.UNAVAILABLE:
            answered[opinion["agent"]][opinion["answered_by"]] += 1
    for call in calls:
        asked[call.agent] += call.route != RULES
        billed[call.agent] += call.billed_usd
    return {
        name: AgentRow(
            stances[name, Stance.VALUE],
            stances[name, Stance.ABSTAINS],
            stances[name, Stance.UNAVAILABLE],
            vetoes[name],
            clamps[name],
            asked[name],
            billed[name],
            answered[name],
        )
        for name in dict.fromkeys(names)
    }


def stated_costs(broker: Mapping[str, Any]) -> Costs | None:
    """Return what the broker said about its costs: the numbers by name, or the words in which `Costs` prints them."""
    stated = broker.get("costs", broker)
    names = [f.name for f in fields(Costs)]
    if isinstance(stated, Mapping):
        found = {name: float(stated[name]) for name in names if name in stated}
    else:
        words = dict(zip(names, ("commission", "at least", "half spread", "slippage"), strict=True))
        read = {name: re.search(rf"{word} ([0-9.e+-]+)", str(stated)) for name, word in words.items()}
        found = {name: float(match[1]) for name, match in read.items() if match}
    return Costs(**dict.fromkeys(names, 0.0) | found) if found else None
