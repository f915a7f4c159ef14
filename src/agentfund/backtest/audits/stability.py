"""How much of a fund's result is chance: the same bars, several runs, and how often they decide the same."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin

from agentfund.backtest.engine import Backtest
from agentfund.backtest.log import RULES
from agentfund.brokers.paper import PaperBroker
from agentfund.buses.memory import MemoryBus
from agentfund.core.agent import Agent
from agentfund.core.orchestrator import Orchestrator
from agentfund.errors import ConfigError
from agentfund.messages import Stance

if TYPE_CHECKING:
    from pydantic import BaseModel

    from agentfund.backtest.report import Report
    from agentfund.feeds.history import Bars
    from agentfund.protocols import Broker

FUND = "fund"
"""Under this name stands what the whole fund decided."""

Progress = Callable[[int, int], None]
"""Called with (runs done, runs in all)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the runs agreed on what one agent, or the fund, said.

    Args:
        agent: its name.
        cycles: cycles in which it said something in at least one run.
        agreement: share of pairs of runs that said the same of a cycle, mean over the cycles; 1.0 where all always agree.
        flips: share of the cycles in which two runs wanted different directions: long, short or flat.
    """

    agent: str
    cycles: int
    agreement: float
    flips: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the middle and the greatest of what the runs came to; None where a run has no such figure."""

    least: float | None
    median: float | None
    greatest: float | None


@dataclass(frozen=True, slots=True)
class Stability:
    """What repeated runs came to.

    Args:
        runs: how many.
        bars: moments at which a bar closed.
        agents: the fund first, then each agent in the order of the pipeline.
        final_equity: cash and positions at the last close.
        total_return: final equity over cash, less 1.
        sharpe: annualised.
        llm_cost_usd: what all runs together were billed for language models.
    """

    runs: int
    bars: int
    agents: tuple[Agreement, ...]
    final_equity: Spread
    total_return: Spread
    sharpe: Spread
    llm_cost_usd: float

    @property
    def stable(self) -> bool:
        """Whether every run decided the same and came to the same."""
        same = self.final_equity.least == self.final_equity.greatest
        return same and all(each.agreement == 1.0 for each in self.agents)

    @property
    def finding(self) -> str:
        """What follows from it, in one sentence."""
        fund = self.agents[0]
        if not fund.cycles:
            return "no run decided anything, so nothing can be said"
        if self.stable:
            return "every run decided the same: one run is enough"
        least, most = self.total_return.least, self.total_return.greatest
        came = f"; the same bars came to between {least:+.2%} and {most:+.2%}" if least is not None and most is not None else ""
        return (
            f"two runs decided the same in {fund.agreement:.0%} of the cycles, and in {fund.flips:.0%} they wanted different"
            f" directions{came}: one run is one draw, so state the spread and not the best"
        )

    def __str__(self) -> str:
        width = max(len(each.agent) for each in self.agents)
        rows = [f"{'':{width}}  {'cycles':>7}  {'agreement':>9}  {'flips':>6}"]
        rows += [f"{a.agent:{width}}  {a.cycles:>7,}  {a.agreement:>9.1%}  {a.flips:>6.1%}" for a in self.agents]
        spreads = {"final equity": (self.final_equity, ",.2f"), "total return": (self.total_return, "+.2%")}
        spreads["Sharpe ratio"] = (self.sharpe, ".2f")
        told = [f"{name}: {_told(spread, form)}" for name, (spread, form) in spreads.items()]
        return "\n".join([f"{self.runs} runs over {self.bars:,} bars", *rows, *told, self.finding])

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            **asdict(self),
            "agents": [asdict(each) for each in self.agents],
            "stable": self.stable,
            "finding": self.finding,
        }


def _told(spread: Spread, form: str) -> str:
    if spread.least is None or spread.median is None or spread.greatest is None:
        return "not defined in every run"
    return f"least {spread.least:{form}}, median {spread.median:{form}}, greatest {spread.greatest:{form}}"


def stability(
    make_fund: Callable[[], Orchestrator | Sequence[Agent[Any]]],
    bars: Bars,
    runs: int = 5,
    *,
    broker: Callable[[], Broker] = PaperBroker,
    progress: Progress | None = None,
) -> Stability:
    """Run the same fund over the same bars several times, and say how often it decides the same.

    A language model may answer the same question in two ways; a result of one run is then one draw of many. Compared are
    an opinion's stance and what it decides: directions, approvals and other choices. Numbers such as a confidence, and
    prose, are not. What an agent says of a cycle may also differ because an earlier difference led to another position.

    Each run asks its language models anew: recorded answers would always agree.

    Args:
        make_fund: makes a new fund each time, with a log of its own: an `Orchestrator`, or a list of agents.
        bars: the history.
        runs: how many, at least 2.
        broker: makes the paper broker of a run.
        progress: called after each run with (runs done, runs in all).

    Raises:
        ConfigError: fewer than two runs, or the factory gives the same fund twice.
    """
    if runs < 2:
        raise ConfigError(f"runs={runs}: at least two are needed, to compare one with another")
    reports: list[Report] = []
    funds: list[Orchestrator] = []
    for number in range(runs):
        made = make_fund()
        fund = made if isinstance(made, Orchestrator) else Orchestrator(list(made), bus=MemoryBus())
        if any(fund is other or fund.bus is other.bus for other in funds):
            raise ConfigError("the factory gave a fund or a log that it gave before: make a new fund with a new log each time")
        funds.append(fund)
        reports.append(Backtest(fund, bars, broker()).run())
        if progress is not None:
            progress(number + 1, runs)
    agents = [FUND, *(agent.name for agent in funds[0].pipeline.agents)]
    said = [_said(report, funds[0].pipeline.outputs) for report in reports]
    return Stability(
        runs=runs,
        bars=reports[0].bars,
        agents=tuple(_agreement(agent, [one.get(agent, {}) for one in said]) for agent in agents),
        final_equity=_spread([float(report.final_equity) for report in reports]),
        total_return=_spread([report.total_return for report in reports]),
        sharpe=_spread([report.sharpe for report in reports]),
        llm_cost_usd=float(sum(report.llm_cost_usd for report in reports)),
    )


class Answer(NamedTuple):
    """What was said, in short.

    Attributes:
        text: the choices in it.
        wanted: the direction that was wanted, None where it is not about one.
        lasts: whether it holds until another is on the log: what needs no language model is logged only when it is news.
    """

    text: str
    wanted: str | None = None
    lasts: bool = False


def _said(report: Report, outputs: Mapping[str, type[BaseModel]]) -> dict[str, dict[int, Answer]]:
    """Return what each agent said, by cycle."""
    found: dict[str, dict[int, Answer]] = {FUND: {}}
    for number, cycle in sorted(report.log.cycles.items()):
        for opinion in cycle.opinions:
            found.setdefault(opinion["agent"], {})[number] = _answer(opinion, outputs)
    for decision in report.log.decisions:
        wanted = None if decision.direction is None else str(decision.direction)
        found[FUND][decision.cycle] = Answer(f"{decision.outcome} {decision.symbol} {wanted}", wanted)
    return found


def _answer(opinion: Mapping[str, Any], outputs: Mapping[str, type[BaseModel]]) -> Answer:
    value, lasts = opinion["value"], opinion["answered_by"] in ("function", RULES)
    if opinion["stance"] != Stance.VALUE or not isinstance(value, Mapping):
        return Answer(str(opinion["stance"]), lasts=lasts)
    kind = outputs.get(opinion["output"])
    chosen = {name: part for name, part in value.items() if name == "symbol" or kind is None or _chooses(kind, name)}
    wanted = value.get("direction")
    return Answer(json.dumps(chosen, sort_keys=True), str(wanted) if wanted is not None else None, lasts)


def _chooses(kind: type[BaseModel], name: str) -> bool:
    """Whether a field is a choice: neither prose nor a number on a scale."""
    field = kind.model_fields.get(name)
    annotation: Any = field.annotation if field is not None else None
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return not all(option in (str, float, type(None)) for option in options)


def _agreement(agent: str, runs: Sequence[Mapping[int, Answer]]) -> Agreement:
    cycles = sorted({cycle for one in runs for cycle in one})
    lasting: list[Answer | None] = [None] * len(runs)
    shares, flipped = [], 0
    for cycle in cycles:
        answers = [one.get(cycle, last) for one, last in zip(runs, lasting, strict=True)]
        lasting = [answer if answer is not None and answer.lasts else None for answer in answers]
        pairs = list(combinations([None if answer is None else answer.text for answer in answers], 2))
        shares.append(sum(a == b for a, b in pairs) / len(pairs))
        flipped += len({answer.wanted for answer in answers if answer is not None and answer.wanted is not None}) > 1
    if not cycles:
        return Agreement(agent, 0, 1.0, 0.0)
    return Agreement(agent, len(cycles), sum(shares) / len(cycles), flipped / len(cycles))


def _spread(values: Sequence[float | None]) -> Spread:
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return Spread(None, None, None)
    return Spread(min(there), median(there), max(there))
