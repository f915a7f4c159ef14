"""What the questions of a rehearsal would cost, counted one by one: by which route they would go, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from agentfund.core.ledger import EXACT, ZERO
from agentfund.core.router import Router
from agentfund.core.shared_budget import SharedBudget
from agentfund.errors import AgentFundError
from agentfund.llms.layout import schema_text, system_text, user_text
from agentfund.llms.prices import ADDED_TOKENS, Prices
from agentfund.llms.recorded import RecordedLLM
from agentfund.llms.rules import Rules
from agentfund.prompt import Usage
from agentfund.protocols import Priced, language_model

if TYPE_CHECKING:
    from agentfund.core.budget import Budget, Window
    from agentfund.core.safety import SafetyWrapper
    from agentfund.prompt import Prompt
    from agentfund.protocols import LLM

BYTES_PER_TOKEN = 3
"""Rule of thumb for prompts of numbers and words; English prose has about four."""

ANSWER_SHARE = 4
"""Rule of thumb: an answer, thinking included, has one in so many of the tokens that it may have."""

RECORDED = "recorded"
"""The route of a question whose answer is on a cassette."""


@dataclass(slots=True)
class Count:
    """What was counted of one agent, route and language model; money is None where a price is not known."""

    calls: int = 0
    read: int = 0
    written: int = 0
    most_read: int = 0
    most_written: int = 0
    billed: Decimal | None = ZERO
    most: Decimal | None = ZERO
    listed: Decimal | None = ZERO

    def add(self, other: Count) -> None:
        """Add another count to this one."""
        for name in ("calls", "read", "written", "most_read", "most_written"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("billed", "most", "listed"):
            setattr(self, name, plus(getattr(self, name), getattr(other, name)))

    def times(self, by: Fraction) -> Count:
        """Return a multiple of it, whole numbers rounded."""
        return Count(
            round(self.calls * by),
            round(self.read * by),
            round(self.written * by),
            round(self.most_read * by),
            round(self.most_written * by),
            scaled(self.billed, by),
            scaled(self.most, by),
            scaled(self.listed, by),
        )

    def at_most(self, other: Count) -> Count:
        """Return it with the larger of each most."""
        most = None if self.most is None or other.most is None else max(self.most, other.most)
        read, written = max(self.most_read, other.most_read), max(self.most_written, other.most_written)
        return replace(self, most_read=read, most_written=written, most=most)


@dataclass(slots=True)
class Spending:
    """What a budget would have to bear of an agent, or of all.

    Args:
        budget: the budget.
        billed: what its questions are expected to cost, in USD; None where a price is not known.
        most: what they cost at most; None where a price is not known.
        dearest: the most that one of them can cost.
        refused: why a price is not known.
    """

    budget: Budget
    billed: Decimal | None = ZERO
    most: Decimal | None = ZERO
    dearest: Decimal = ZERO
    refused: str = ""


@dataclass(slots=True)
class Tally:
    """Counts questions.

    Args:
        insisted: routes that are asked about the past although they add to prompts; None where the market is simulated.
        output_tokens: tokens of an answer, None for the rule of thumb.
        prices: list prices.
        now: the time now: the day of those prices, and of what budgets have spent.
        without: names of routes that cannot be used.
        every: whether each language model is taken to answer each time, by a value made up, so that all behind it are
            asked too: whatever it decides, no more is asked. Cassettes are left aside then.

    Attributes:
        counts: by agent, route and language model.
        spending: by budget and agent.
        made_up: agents without a rule twin that were asked.
        lost: agents whose questions cannot be counted, and why.
        reached: agents that were asked.
        begun: whether a question was asked whose answer nobody knows yet.
    """

    insisted: frozenset[str] | None
    output_tokens: int | None
    prices: Prices
    now: datetime
    without: frozenset[str] = frozenset()
    every: bool = False
    counts: dict[tuple[str, str, str], Count] = field(default_factory=dict)
    spending: dict[tuple[int, str], Spending] = field(default_factory=dict)
    made_up: dict[str, None] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    reached: dict[str, None] = field(default_factory=dict)
    begun: bool = False

    def by_rule(self, agent: SafetyWrapper[Any], prompt: Prompt) -> bool:
        """Return whether the rule twin answers; where each language model answers, only if nobody else would be asked."""
        way = self._way(agent.llm, prompt) if self.every and isinstance(agent.llm, Router) else None
        return not self.every or (way is not None and isinstance(way.route, Rules))

    def recorded(self, agent: SafetyWrapper[Any], prompt: Prompt) -> str | None:
        """Return the answer that is on a cassette already, None where there is none."""
        if self.every:
            return None
        try:
            way = self._way(agent.llm, prompt) if isinstance(agent.llm, Router) else None
            found = way.route.find(prompt) if way is not None and isinstance(way.route, RecordedLLM) else None
        except AgentFundError:
            return None
        return found.text if found else None

    def add(self, agent: SafetyWrapper[Any], prompt: Prompt, answer: str, recorded: bool) -> None:
        """Count a question, with the answer that it was given; what cannot be counted goes to `lost`."""
        self.reached[agent.name] = None
        if recorded:
            self._add(agent.name, RECORDED, "", Count(calls=1))
            return
        if prompt.rule is None:
            self.made_up[agent.name] = None
        try:
            way = self._way(agent.llm, prompt) if isinstance(agent.llm, Router) else None
            if way is not None and isinstance(way.route, Rules):
                return  # plain code is no language model
            self.begun = True
            if way is None:
                self.lost[agent.name] = "no route can be asked here, or about real data"
            elif isinstance(way.route, RecordedLLM):
                self.lost[agent.name] = f"not every answer is on the cassette {way.route.path}, and nobody else is asked"
            else:
                sent = len(f"{system_text(prompt)}{user_text(prompt)}{schema_text(prompt)}".encode())
                self._price(agent.name, way, prompt, sent, len(answer.encode()))
        except AgentFundError as error:
            self.lost[agent.name] = str(error)

    def _price(self, agent: str, way: _Way, prompt: Prompt, sent: int, answered: int) -> None:
        read, written = _tokens(sent), self.output_tokens
        if written is None:
            written = max(prompt.max_output_tokens // ANSWER_SHARE, _tokens(answered))
        written = min(written, prompt.max_output_tokens)
        llm = language_model(way.route, prompt)
        listed = self._listed(way.route, llm, Usage(read, written))
        most, refused = _most(way.route, prompt)
        billed = most if not most or listed is None else min(listed, most)
        count = Count(1, read, written, sent + ADDED_TOKENS, prompt.max_output_tokens, billed, most, listed)
        self._add(agent, way.name, llm, count)
        for budget in way.budgets:
            spent = self.spending.setdefault((id(budget), agent), Spending(budget))
            spent.billed = plus(spent.billed, billed)
            spent.most = plus(spent.most, most)
            spent.dearest = max(spent.dearest, most or ZERO)
            spent.refused = spent.refused or refused

    def _add(self, agent: str, route: str, llm: str, count: Count) -> None:
        self.counts.setdefault((agent, route, llm), Count()).add(count)

    def _way(self, router: Router, prompt: Prompt) -> _Way | None:
        """Return the first route that would be asked, also inside of routers and recordings."""
        budgets = () if router.budget is None else (router.budget,)
        off = self.without | {row["name"] for row in router.status() if row["disabled"]}
        for route in router.order(prompt.task, prompt.tier):
            adds = getattr(route, "adds", "")
            if route.name in off or (adds and self.insisted is not None and route.name not in self.insisted):
                continue
            inner = _behind(route, prompt)
            if not isinstance(inner, Router):
                return _Way(inner, route.name, budgets)
            if way := self._way(inner, prompt):
                return _Way(way.route, way.name, (*budgets, *way.budgets))
        return None

    def _listed(self, route: LLM, llm: str, usage: Usage) -> Decimal | None:
        if getattr(route, "free", False) is True:
            return ZERO
        own = getattr(route, "prices", None)
        prices = own if isinstance(own, Prices) else self.prices
        known = (prices.cost(provider, llm, usage, when=self.now) for provider in ("anthropic", "openai"))
        return next((usd for usd in known if usd is not None), None)


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a question would go: the route, its name, and the budgets on the way."""

    route: LLM
    name: str
    budgets: tuple[Budget, ...]


def _behind(route: LLM, prompt: Prompt) -> LLM:
    """Return what a cassette would ask, the cassette itself where it answers or nobody else does."""
    if not isinstance(route, RecordedLLM) or route.behind is None or route.mode == "replay":
        return route
    return route if route.mode == "auto" and route.find(prompt) is not None else route.behind


def _most(route: LLM, prompt: Prompt) -> tuple[Decimal | None, str]:
    """Return the most that a route can bill for a question; None and the reason where that is not known."""
    if not isinstance(route, Priced):
        return None, f"{route.name} has no prices"
    try:
        return route.worst_case_usd(prompt), ""
    except AgentFundError as error:
        return None, str(error)


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)


def plus(total: Decimal | None, more: Decimal | None) -> Decimal | None:
    """Add money exactly; what is not known makes the sum not known."""
    return None if total is None or more is None else EXACT.add(total, more)


def scaled(amount: Decimal | None, by: Fraction) -> Decimal | None:
    """Return a part or a multiple of an amount, where it is known."""
    if amount is None:
        return None
    return EXACT.divide(EXACT.multiply(amount, Decimal(by.numerator)), Decimal(by.denominator))


def borne(tally: Tally, by: Fraction, most: Tally, by_most: Fraction) -> Iterator[Spending]:
    """Give what each budget would have to bear in the whole run.

    Args:
        tally: what was counted where rule twins answered.
        by: what that is scaled up by.
        most: what was counted where language models answered each time: what agents take that were not reached otherwise,
            and the dearest call.
        by_most: what that is scaled up by.
    """
    sums: dict[int, Spending] = {}
    for each, times in ((tally, by), (most, by_most)):
        for (budget, agent), spent in each.spending.items():
            found = sums.setdefault(budget, Spending(spent.budget))
            found.dearest = max(found.dearest, spent.dearest)
            if each is most:
                found.most = plus(found.most, scaled(spent.most, times))
            if each is tally or agent not in tally.reached:
                found.billed = plus(found.billed, scaled(spent.billed, times))
                found.refused = found.refused or spent.refused
    yield from sums.values()


def passed(spending: Spending, hours: float, now: datetime, logged: Decimal) -> Iterator[str]:
    """Give a sentence for each limit of a budget that a run would pass.

    Args:
        spending: what the budget has to bear.
        hours: how long the run takes.
        now: the time now.
        logged: USD that the log says were spent by earlier parts of the run.
    """
    budget, per_call = spending.budget, spending.budget.per_call
    names = [*(["usd_per_call"] if per_call is not None else []), *(window.name for window in budget.windows)]
    if spending.billed is None:
        if names:
            yield f"with {' and '.join(names)} no call is let through: {spending.refused}"
        return
    if per_call is not None and spending.dearest > per_call:
        yield f"usd_per_call is {per_call} USD: a call can cost {usd(spending.dearest)} USD and is refused then"
    run = spending.billed
    for window in budget.windows:
        # The hours and days of a budget are those of the wall clock; a run is taken to fit into one day.
        hourly = window.name == "usd_per_hour"
        needed = EXACT.divide(run, Decimal(hours)) if hourly and hours > 1 else run
        try:
            spent = _spent(budget, window, now, logged)
        except AgentFundError as error:
            yield f"{window.name} cannot be held, so no call is let through: {error}"
            continue
        room = EXACT.subtract(window.limit, spent)
        if needed and EXACT.add(needed, spending.dearest) > room:
            told = f"{window.name} is {window.limit} USD" + (f", {usd(spent)} USD of it are spent" if spent else "")
            told += f": about {usd(needed)} USD are needed" + (" within an hour" if hourly else "")
            yield told + (f", and room for a call that costs {usd(spending.dearest)} USD at most" if needed <= room else "")


def tight(spending: Spending, now: datetime, logged: Decimal) -> Iterator[str]:
    """Give a sentence for each limit that is enough for what is expected, but not for the most; arguments as of `passed`."""
    budget, needed = spending.budget, spending.billed
    if needed is None or spending.most is None:
        return
    for window in budget.windows:
        with suppress(AgentFundError):  # a limit that cannot be held is told by `passed`
            room = EXACT.subtract(window.limit, _spent(budget, window, now, logged))
            if window.name != "usd_per_hour" and EXACT.add(needed, spending.dearest) <= room < spending.most:
                told = f"{window.name} is {window.limit} USD, enough for what is expected"
                yield f"{told}; to ask every agent at every bar costs {usd(spending.most)} USD at most"


def _spent(budget: Budget, window: Window, now: datetime, logged: Decimal) -> Decimal:
    """Return what is spent of a limit; where another process began the run, a budget learns of it at the start only."""
    if not isinstance(budget, SharedBudget):
        return max(window.spent(now), logged)
    sums = budget.spending()
    return {"usd_per_run": sums.run, "usd_per_hour": sums.hour, "usd_per_day": sums.day}[window.name]


def usd(amount: Decimal) -> str:
    """Return an amount of USD for people: to the cent, or to a hundredth of a cent where it is small."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:,.4f}"
