"""What a run is expected to take: calls, tokens and money, by agent and in all, for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from agentfund.backtest.tally import plus
from agentfund.core.ledger import ZERO, laid_out


@dataclass(frozen=True, slots=True)
class Expected:
    """What the questions of one agent to one language model will take.

    Args:
        agent: who asks.
        route: the first route that would be asked.
        llm: name of the language model.
        calls: questions.
        input_tokens: expected, nothing of it cached.
        output_tokens: expected, thinking included.
        most_input_tokens: no more than so many, whatever language models answer.
        most_output_tokens: no more than so many.
        billed_usd: expected; zero on a flat-rate route, None where no price is known.
        most_usd: no more is billed than so much, whatever language models answer; None where no price is known.
        list_usd: expected at list price, also on a flat-rate route; None where there is none.
    """

    agent: str
    route: str
    llm: str
    calls: int
    input_tokens: int
    output_tokens: int
    most_input_tokens: int
    most_output_tokens: int
    billed_usd: Decimal | None
    most_usd: Decimal | None
    list_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, as far as a rehearsal can tell.

    Args:
        bars: moments at which the fund will look at the market.
        rehearsed: so many of them were rehearsed; what was counted is scaled up.
        lines: what each agent takes, by route and language model.
        hours: expected duration.
        seconds_per_call: what a call was taken to last.
        over_budget: each budget that the run would pass, in a sentence.
        notes: what the figures rest on, one sentence each.
    """

    bars: int
    rehearsed: int
    lines: tuple[Expected, ...]
    hours: float
    seconds_per_call: float
    over_budget: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def calls(self) -> int:
        """Questions in all."""
        return sum(line.calls for line in self.lines)

    @property
    def billed_usd(self) -> Decimal | None:
        """What is expected to be owed; None where a price is not known."""
        return _sum(line.billed_usd for line in self.lines)

    @property
    def most_usd(self) -> Decimal | None:
        """The most that is owed if every agent is asked at every bar, once each; None where a price is not known."""
        return _sum(line.most_usd for line in self.lines)

    @property
    def list_usd(self) -> Decimal | None:
        """What is expected at list price, flat-rate routes included; None where one is not known."""
        return _sum(line.list_usd for line in self.lines)

    def by_route(self) -> dict[str, Expected]:
        """Return the sums of each route."""
        groups: dict[str, list[Expected]] = {}
        for line in self.lines:
            groups.setdefault(line.route, []).append(line)
        return {route: _total(lines, "all agents", route) for route, lines in sorted(groups.items())}

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; amounts of money are text, so that nothing rounds them."""
        return {
            "bars": self.bars,
            "rehearsed": self.rehearsed,
            "calls": self.calls,
            "billed_usd": _text(self.billed_usd),
            "most_usd": _text(self.most_usd),
            "list_usd": _text(self.list_usd),
            "hours": round(self.hours, 3),
            "seconds_per_call": self.seconds_per_call,
            "over_budget": list(self.over_budget),
            "notes": list(self.notes),
            "lines": [_json(line) for line in self.lines],
            "by_route": {route: _json(line) for route, line in self.by_route().items()},
        }

    def as_text(self) -> str:
        """Return a table for people, in USD, and what it rests on."""
        if not self.lines:
            return "\n".join(["no language model will be asked", *(f"- {note}" for note in self.notes)])
        head = ("agent", "route", "language model", "calls", "tokens in", "tokens out", "billed", "at most", "list price")
        routes = list(self.by_route().values())
        total = _total(self.lines, "total")
        digits = 2 if max(amount or ZERO for amount in (total.most_usd, total.list_usd)) >= 10 else 4
        groups = [list(self.lines), routes if len(routes) > 1 else [], [total]]
        rows = [row for group in groups if group for row in (None, *(_row(line, digits) for line in group))]
        table = laid_out([head, *rows], left=3)
        told = [*(f"- {note}" for note in self.notes), *(f"! over budget: {sentence}" for sentence in self.over_budget)]
        return "\n".join([*table, *(textwrap.fill(sentence, len(table[1]), subsequent_indent="  ") for sentence in told)])

    def __str__(self) -> str:
        return self.as_text()


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    total: Decimal | None = ZERO
    for amount in amounts:
        total = plus(total, amount)
    return total


def _total(lines: Sequence[Expected], agent: str, route: str = "") -> Expected:
    return Expected(
        agent,
        route,
        "",
        calls=sum(line.calls for line in lines),
        input_tokens=sum(line.input_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
        most_input_tokens=sum(line.most_input_tokens for line in lines),
        most_output_tokens=sum(line.most_output_tokens for line in lines),
        billed_usd=_sum(line.billed_usd for line in lines),
        most_usd=_sum(line.most_usd for line in lines),
        list_usd=_sum(line.list_usd for line in lines),
    )


def _row(line: Expected, digits: int) -> tuple[str, ...]:
    counts = (line.calls, line.input_tokens, line.output_tokens)
    money = (line.billed_usd, line.most_usd, line.list_usd)
    shown = ("unknown" if amount is None else f"{amount:,.{digits}f}" for amount in money)
    return (line.agent, line.route, line.llm, *(f"{number:,}" for number in counts), *shown)


def _json(line: Expected) -> dict[str, Any]:
    return {name: _text(value) if isinstance(value, Decimal) else value for name, value in asdict(line).items()}


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
