"""A rehearsal of a backtest: the same pipeline over a part of the bars, with plain code in the language models' place."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from agentfund.clock import from_micros, to_micros
from agentfund.core.orchestrator import Orchestrator
from agentfund.core.router import Router
from agentfund.core.safety import SafetyWrapper
from agentfund.core.session import closing
from agentfund.errors import FeedError
from agentfund.llms.rules import Rules
from agentfund.prompt import Completion, canonical

if TYPE_CHECKING:
    from agentfund.core.agent import Agent
    from agentfund.market import Columns, Instrument, Market
    from agentfund.prompt import Prompt
    from agentfund.protocols import Bus, Feed, History

BLOCKS = 6
"""A sample is so many runs of neighbouring bars, spread evenly: what follows from a position is seen, and every season."""

_SENTENCE = "An answer of the usual length, given by nobody, to see how long the questions are that follow from it."


class Sample:
    """A part of a history, as a feed of its own: each moment shows all the bars before it, as in the whole.

    Args:
        feed: the whole; it is copied, and stays where it is.
        bars: most moments to give.
        after: where to begin.

    Attributes:
        total: moments in the whole, beyond `after`.
        taken: moments that are given.
    """

    def __init__(self, feed: Feed, history: History, bars: int, after: datetime | None = None) -> None:
        self._feed = copy.copy(feed)
        self._history = history
        ends = [each.ends for each in history.columns.values()]
        moments = np.unique(np.concatenate(ends))
        if after is not None:
            moments = moments[moments > to_micros(after)]
        self.total = len(moments)
        count = min(bars, self.total)
        blocks = BLOCKS if count < self.total and count >= BLOCKS else 1
        size = count // blocks
        gap = (self.total - size * blocks) // blocks
        starts = [block * (size + gap) + gap // 2 for block in range(blocks)] if size else []
        self._blocks = [(from_micros(int(moments[at]) - 1), size) for at in starts]
        self.taken = size * len(starts)
        self._latest: Market | None = None

    @property
    def columns(self) -> Mapping[str, Columns]:
        """All bars of the whole."""
        return self._history.columns

    @property
    def warnings(self) -> Sequence[str]:
        """What a user should know about the data."""
        return self._history.warnings

    @property
    def source(self) -> str:
        """Where the data came from."""
        return self._history.source

    @property
    def instruments(self) -> Sequence[Instrument]:
        """What it has bars of."""
        return self._feed.instruments

    @property
    def fingerprint(self) -> str:
        """That of no data: nothing is kept of a rehearsal."""
        return "sample"

    async def stream(self, after: datetime | None = None) -> AsyncIterator[Market]:
        """Give the chosen moments; `after` is not needed, for a rehearsal is never carried on."""
        for since, size in self._blocks:
            left = size
            async with closing(self._feed.stream(since)) as markets:
                async for market in markets:
                    self._latest = market
                    yield market
                    left -= 1
                    if not left:
                        break

    def latest(self) -> Market:
        """Return the market that `stream` gave last.

        Raises:
            FeedError: nothing was streamed yet.
        """
        if self._latest is None:
            raise FeedError("no bar was streamed yet")
        return self._latest


class Counted(Protocol):
    """Who counts the questions of a rehearsal."""

    def by_rule(self, agent: SafetyWrapper[Any], prompt: Prompt) -> bool:
        """Return whether the rule twin answers, where there is one; a value is made up otherwise."""
        ...

    def recorded(self, agent: SafetyWrapper[Any], prompt: Prompt) -> str | None:
        """Return the answer that is on a cassette already, None where there is none."""
        ...

    def add(self, agent: SafetyWrapper[Any], prompt: Prompt, answer: str, recorded: bool) -> None:
        """Count a question."""
        ...


class Counter:
    """A route that asks nobody: it shows each question to whoever counts, and answers as a cassette or the rule twin does.

    An agent without either is taken to answer every time, by a value made up to fit its type: so what follows from its
    answers is counted at most, not at least.

    It is the only route that is asked in a rehearsal.

    Args:
        agent: who asks.
        counted: who counts.
    """

    name = "rehearsal"
    rehearses = True

    def __init__(self, agent: SafetyWrapper[Any], counted: Counted) -> None:
        self._agent = agent
        self._counted = counted
        self._rules = Rules()
        self._made_up: dict[type, str] = {}

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer without a language model."""
        answer, recorded = "", False
        try:
            found = self._counted.recorded(self._agent, prompt)
            recorded = found is not None
            if found is not None:
                answer = found
            elif prompt.rule is not None and self._counted.by_rule(self._agent, prompt):
                answer = (await self._rules.complete(prompt)).text
            else:
                answer = self._made_up.setdefault(prompt.output, made_up(prompt))
        finally:
            self._counted.add(self._agent, prompt, answer, recorded)
        return Completion(answer, self.name, self.name, notional_usd=Decimal(0))


def twin(fund: Orchestrator, bus: Bus, counted: Counted) -> Orchestrator:
    """Return a fund like another, whose agents are copies and ask a `Counter`; the agents themselves stay as they are."""
    agents: list[Agent[Any]] = []
    for wrapper in fund.pipeline.agents:
        agent = copy.copy(wrapper.agent)
        agent.llm = None  # a route may hold locks and connections, which cannot be copied
        try:
            agent = copy.deepcopy(agent)
        except Exception:  # something else in it cannot be copied, so it is shared
            agent = copy.copy(agent)
        if wrapper.llm is not None:
            agent.llm = Router([Counter(wrapper, counted)])
        agents.append(SafetyWrapper(agent, wrapper.limits))
    return Orchestrator(
        agents,
        bus=bus,
        limits=fund.limits,
        sizing=fund.sizing,
        consensus=fund.consensus,
        safety=fund.safety,
        name=fund.name,
    )


def made_up(prompt: Prompt) -> str:
    """Return the text of some answer that fits the prompt's type; an abstention where none was found."""
    try:
        value = prompt.output.model_validate(_fitting(prompt.output.model_json_schema(), {}))
        return f'{{"value":{value.model_dump_json(by_alias=True)},"abstain":null}}'
    except Exception:  # a type with rules of its own
        return canonical({"value": None, "abstain": _SENTENCE})


def _fitting(part: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """Return a value for a JSON schema: required fields only, the first of what may be chosen, the least of a range."""
    known = part.get("$defs", known)
    if "$ref" in part:
        return _fitting(known[part["$ref"].rpartition("/")[2]], known)
    if "const" in part:
        return part["const"]
    if "enum" in part:
        return part["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in part:
            return _fitting(part[choice][0], known)
    if part.get("type") == "object":
        return {name: _fitting(part["properties"][name], known) for name in part.get("required", ())}
    if part.get("type") == "array":
        fixed = part.get("prefixItems", ())
        more = range(part.get("minItems", 0) - len(fixed))
        return [_fitting(item, known) for item in (*fixed, *(part["items"] for _ in more))]
    if part.get("type") == "string":
        return _SENTENCE.ljust(part.get("minLength", 0), ".")[: part.get("maxLength")]
    if part.get("type") == "boolean":
        return True
    if "exclusiveMinimum" in part:
        return part["exclusiveMinimum"] + (1 if part["type"] == "integer" else 1e-6)
    return part.get("minimum", part.get("maximum", 1 if part.get("type") == "integer" else 0.5))
