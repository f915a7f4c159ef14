"""A run of the desk for the command line: its bars, its language models, its estimate, and the backtest itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentfund.errors import AgentFundError, BusUnavailable, ConfigError, LLMUnavailable, LogMismatch
from agentfund.terminal import progress, say

if TYPE_CHECKING:
    from agentfund.backtest.estimate import Estimate
    from agentfund.backtest.report import Report
    from agentfund.core.agent import Agent
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.feeds.files import Options
    from agentfund.feeds.history import Bars
    from agentfund.outputs import Outputs
    from agentfund.protocols import LLM, Broker, Bus, Feed


@dataclass(frozen=True, slots=True)
class Asked:
    """The language models that a run asks.

    Args:
        llm: what the agents are given; None where their rules answer.
        unusable: routes that cannot be used here, each with the reason and the fix.
        dead: whether none of them can be used.
        budgeted: whether a budget holds what they cost.
        recorded: whether answers may come from a cassette that is there already.
        insist: routes that are asked although they tell a language model of today.
    """

    llm: LLM | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)
    dead: bool = False
    budgeted: bool = False
    recorded: bool = False
    insist: tuple[str, ...] = ()


RULES = Asked()

DESK = "desk"
"""What --agents names where it names nothing else."""

BARS = 300
"""Most bars that an estimate rehearses."""

RECORDED_BARS = 5_000
"""The same where answers are on a cassette: they are found only when the run is rehearsed from its beginning."""

DEADLINE_S = 100.0
"""Seconds that a call may take: of a history nothing is late, and what is cut off is paid for all the same."""


def read_bars(
    data: Path,
    symbol: str | None,
    tz: str,
    bar_minutes: float | None,
    on_bad: Literal["raise", "drop"],
    first: datetime | None,
    last: datetime | None,
) -> Bars:
    """Return the bars of a file, between two moments.

    Raises:
        ConfigError: the file cannot be used; in the words of the command line.
    """
    from agentfund.feeds.history import Bars

    if data.is_dir():
        raise ConfigError(f"{data} is a folder; give one of the files in it as --data")
    said: Options = {"on_bad": on_bad}
    if tz:
        said["tz"] = tz
    if bar_minutes is not None:
        said["interval"] = timedelta(minutes=bar_minutes)
    try:
        feed = Bars.from_file(data, symbol, **said)
    except AgentFundError as error:
        raise ConfigError(_as_options(str(error))) from None
    return feed.between(first, last) if first or last else feed


def asked(llm: str, per_run: str, per_day: str, record: Path | None, insist: str, *, to_record: bool = True) -> Asked:
    """Return what --llm, --budget-usd, --budget-usd-per-day, --record and --insist say.

    Args:
        llm: names of routes, best first.
        per_run: most USD of the run.
        per_day: most USD of a day.
        record: a cassette.
        insist: names of routes.
        to_record: whether a cassette is made where there is none.

    Raises:
        ConfigError: they do not fit together, or a route cannot be built.
    """
    if not llm:
        options = {"--budget-usd": per_run, "--budget-usd-per-day": per_day, "--record": record, "--insist": insist}
        for option, given in options.items():
            if given:
                raise ConfigError(f"{option} is about language models: say which with --llm, such as --llm anthropic")
        return RULES
    from agentfund.core.router import Router
    from agentfund.llms.recorded import RecordedLLM
    from agentfund.routes import routes, unusable

    found = routes(llm)
    named, there_are = _names(insist), [route.name for route in found]
    if unknown := [name for name in named if name not in there_are]:
        raise ConfigError(f"--insist {unknown[0]}: --llm names no such route; there is {', '.join(there_are)}")
    try:
        router = Router(found, budget_usd_per_run=per_run or None, budget_usd_per_day=per_day or None, deadline_s=DEADLINE_S)
    except ConfigError as error:
        raise ConfigError(_as_options(str(error))) from None
    there = record is not None and record.exists()
    told = unusable(found)
    dead = len(told) == len(found)
    answering: LLM = router
    if record is not None and (there or to_record):
        _make(record.parent)
        answering = RecordedLLM(record, router, mode="replay" if there and dead else "auto")
    return Asked(
        llm=answering,
        unusable=told,
        dead=dead,
        budgeted=router.budget is not None,
        recorded=there,
        insist=named,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}; give another --record") from error


def foretell(
    asked: Asked, feed: Bars, broker: Broker, bus: Bus, *, agents: str = DESK, bars: int = BARS, seconds_per_call: float = 5.0
) -> Estimate:
    """Return what a run will ask and cost; where no route can be used, what it would."""
    from agentfund.backtest.estimate import estimate

    without = () if asked.dead else tuple(asked.unusable)
    fund = _fund(asked, bus, agents, feed)
    more: dict[str, Any] = {"bars": bars, "seconds_per_call": seconds_per_call, "insist": asked.insist, "without": without}
    return estimate(fund, feed, broker, **more)


def say_unusable(asked: Asked) -> None:
    """Tell the person which routes cannot be used, and why."""
    for name, why in asked.unusable.items():
        say(f"{name} cannot be used here: {why}")


def agree(asked: Asked, feed: Bars, broker: Broker, log: Path | None, *, agents: str = DESK, yes: bool) -> None:
    """Show the estimate, and go on where a budget holds the run and would not stop it, or where the person has said yes.

    Raises:
        ConfigError: no route can be used, no budget holds the run, or one would stop it.
    """
    from agentfund.buses.memory import MemoryBus
    from agentfund.buses.sqlite import SqliteBus

    say_unusable(asked)
    if asked.dead and not asked.recorded:
        raise ConfigError("no route of --llm can be used here; what each of them needs is said above")
    if asked.dead:
        say("nobody can be asked, so each answer must be on the cassette")
        return
    bus: Bus = SqliteBus(log) if log is not None and log.exists() else MemoryBus()
    try:
        told = foretell(asked, feed, broker, bus, agents=agents, bars=RECORDED_BARS if asked.recorded else BARS)
    finally:
        asyncio.run(bus.close())
    if told.lines:
        say(shown(told))
    if yes:
        return
    if told.over_budget:
        raise ConfigError("a budget would stop this run: raise it, take fewer bars with --from and --to, or begin with --yes")
    if not asked.budgeted and told.billed_usd != 0:
        cost = "at a price that nobody knows" if told.billed_usd is None else f"for about {told.billed_usd:,.2f} USD"
        raise ConfigError(f"this run would ask language models {cost}, and no budget holds it: give --budget-usd, or --yes")


def shown(told: Estimate) -> str:
    """Return an estimate as text, in the words of the command line."""
    return _as_options(str(told))


def backtest(
    feed: Bars,
    broker: Broker,
    outputs: Outputs,
    again: str,
    asked: Asked = RULES,
    *,
    agents: str = DESK,
    trials: Path | None = None,
) -> Report:
    """Run agents over history, leave everything in the folder, and tell the person what happens meanwhile.

    Raises:
        KeyboardInterrupt: with where it stopped, and how it can be carried on.
        LogMismatch: the folder holds another run.
        BusUnavailable: the log cannot be written.
    """
    from agentfund.backtest.engine import Backtest
    from agentfund.buses.sqlite import SqliteBus
    from agentfund.core.journal import lines
    from agentfund.logs import earlier, messages
    from agentfund.outputs import write

    ledger = trials or outputs.folder / "trials.jsonl"
    if ledger.is_dir():
        raise ConfigError(f"--trials {ledger} is a folder; give a file, such as {ledger / 'trials.jsonl'}")
    bus = SqliteBus(outputs.log)
    fund = _fund(asked, bus, agents, feed)
    news, done = [earlier(outputs.log)], 0

    def stopped() -> str:
        return f"stopped after bar {max(done, fund.context.state.cycle):,}; {again}"

    try:
        with progress("backtest") as show:

            def tell(now: int, total: int) -> None:
                nonlocal done
                done = now
                while news and (text := news.pop()):  # only now is it known that the log belongs to this run
                    say(text)
                show(now, total)

            report = Backtest(fund, feed, broker, progress=tell, insist=asked.insist, trials=ledger).run()
        outputs.claim_results()
        report.save(outputs.folder)
        write(outputs.folder / "journal.md", lines(messages(outputs.log, fund.name)))
    except LogMismatch as error:
        what = str(error).partition(". ")[0]
        raise LogMismatch(f"{outputs.log}: {what}; --fresh starts anew in this folder, another --out leaves it alone") from None
    except BusUnavailable as error:
        raise BusUnavailable(f"{error}\n{stopped()}") from None
    except LLMUnavailable as error:
        told = str(error).removesuffix(": run again to carry on")
        raise LLMUnavailable(f"{told}\n{stopped()}") from None
    except ConfigError as error:
        raise ConfigError(_as_options(str(error))) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(stopped()) from None
    finally:
        asyncio.run(bus.close())
    return report


def _fund(asked: Asked, bus: Bus, agents: str, feed: Bars) -> Orchestrator:
    from agentfund.core.orchestrator import Orchestrator

    return Orchestrator(agents_of(agents, asked.llm, feed), bus=bus)


def agents_of(what: str, llm: LLM | None, feed: Feed) -> list[Agent[Any]]:
    """Return the agents that --agents names: the desk, a strategy, or what a factory makes."""
    from agentfund.core.agent import Agent
    from agentfund.specialists.desk import desk
    from agentfund.strategies import Strategy

    if what == DESK:
        return desk(llm)
    from agentfund.backtest.audits.command import load, ran

    made = ran(load(what), f"--agents {what}")(feed)
    if isinstance(made, Strategy):
        return [made] if llm is None else desk(llm, strategist=made)
    if isinstance(made, Agent):
        return [made]
    if isinstance(made, (list, tuple)) and all(isinstance(each, Agent) for each in made):
        return list(made)
    raise ConfigError(f"--agents {what} gives {type(made).__name__}; it must give a strategy, or a list of agents")


def _as_options(text: str) -> str:
    """Return an error's advice in the words of the command line."""
    text = text.replace(", or say which is which with columns=", "")
    text = re.sub(r"(pass )?on_bad='(\w+)'", r"give --on-bad \2", text)
    text = text.replace("give interval=, such as interval=timedelta(days=1)", "give --bar-minutes, such as --bar-minutes 1440")
    text = re.sub(r"\b(budget_)?usd_per_run\b", "--budget-usd", text)
    text = re.sub(r"\b(budget_)?usd_per_day\b", "--budget-usd-per-day", text)
    text = re.sub(r"say Backtest\(\.\.\., insist=\[(.*?)\]\)", lambda found: "give --insist " + found[1].replace("'", ""), text)
    return re.sub(r"\btz='?([\w/+-]+)'?", r"--tz \1", text)
