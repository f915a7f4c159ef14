"""What to know before believing a report."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from agentfund.backtest.log import RULES, Log
from agentfund.backtest.text import count
from agentfund.messages import Stance
from agentfund.trading import OrderStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentfund.backtest.report import Report

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


_SHOWN = 3


def caveats(report: Report, told: Iterable[str]) -> Iterable[str]:
    """Return them, one sentence each.

    Args:
        report: the report, with its figures.
        told: what the data's own warnings say already.
    """
    log, closed = report.log, sum(trip.closed is not None for trip in report.round_trips)
    if "simulated" in report.source.lower() and not any("simulated" in sentence for sentence in told):
        yield "the market is simulated: what is earned here says nothing about a real one"
    if log.ended is None:
        yield "the log has no end: the run was interrupted, and the report stops at its last message"
    elif abs(log.ended.equity - report.final_equity) >= Decimal("0.01"):
        yield (
            f"the run ended with {log.ended.equity:,.2f}, its fills give {report.final_equity:,.2f}:"
            " the bars or the log are not the run's"
        )
    said = [opinion for cycle in log.cycles.values() for opinion in cycle.opinions]
    if not log.decisions:
        first = next((f" ({o['agent']}: {o['reason']})" for o in said if o["stance"] == "abstains" and o["reason"]), "")
        yield f"nothing was proposed, so nothing was decided{first}"
    elif not log.orders:
        yield "no decision was ordered"
    routes = Counter[str]()
    for row in report.by_agent.values():
        routes.update(row.answered_by)
    asked = sum(RULES in row.answered_by for row in report.by_agent.values())
    spoke = sum(bool(row.answered_by) for row in report.by_agent.values())
    if asked and not report.llm_calls and set(routes) <= {RULES, "function"}:
        number = _NUMBERS[asked] if asked < len(_NUMBERS) else str(asked)
        if 1 < asked == len(report.by_agent):
            who = f"all {number} agents answered by their rule twins"
        elif asked == spoke:
            who = "every agent that answered did so by its rule twin"
        else:
            who = f"{number} of {count(spoke, 'agent')} answered by their rule twins"
        yield f"{who}; no language model was used"
    for route, added in log.started.settings.get("not_asked", {}).items():
        yield f"{route} was not asked: it puts {added} into every prompt, which could help a language model to remember"
    for route, added in log.started.settings.get("insisted", {}).items():
        yield f"{route} puts {added} into every prompt: what it says about the past may be memory"
    yield from _unavailable(log)
    codes = Counter(decision.code for decision in log.decisions if decision.code)
    if codes:
        yield "the gate denied: " + ", ".join(f"{code} {number} times" for code, number in codes.most_common())
    degraded = sum(bool(o["degraded"]) for cycle in log.cycles.values() for o in cycle.opinions)
    if degraded:
        yield f"{degraded} opinion{'s'[: degraded != 1]} came from a rule because no language model could answer"
    for status in (OrderStatus.REJECTED, OrderStatus.UNKNOWN):
        count_of = sum(answer.status is status for answer in log.answers.values())
        if count_of:
            yield f"{count_of} order{'s'[: count_of != 1]} ended {status}"
    if report.stamp is not None and report.stamp.verdict != "CLEAN":
        yield f"{report.stamp.verdict}: {report.stamp.reason}"
    luck, chosen = report.luck, report.overfitting
    if luck.counted and luck.trials > 1 and luck.deflated.value is not None and not luck.stands:
        yield (
            f"{luck.trials:,} trials are known on this data, and luck explains the best of so many"
            f" (deflated Sharpe ratio {luck.deflated.value:.2f}, below 0.95)"
        )
    if chosen is not None and chosen.probability >= 0.5:
        yield f"the way the run was chosen overfits: probability {chosen.probability:.2f} that its like is in the worse half"
    if report.trading_costs is None:
        yield "the broker states no costs: buy and hold is shown without any"
    if 0 < closed < 30:
        yield f"{closed} round trip{'s'[: closed != 1]}: too few to tell skill from luck"
    days = (report.end - report.start) // timedelta(days=1)
    if days < 90:
        yield f"the window is {count(days, 'day')} long: yearly figures extrapolate"


def _unavailable(log: Log) -> Iterable[str]:
    """Give what kept agents from answering, most common first; reasons that differ in numbers only are one."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    times = Counter[tuple[str, str]]()
    for number, cycle in log.cycles.items():
        for opinion in cycle.opinions:
            if opinion["stance"] == Stance.UNAVAILABLE:
                reason = _unrepeated(opinion["reason"])
                kind = opinion["agent"], re.sub(r"\d+", "0", reason)
                found.setdefault(kind, (number, reason))
                times[kind] += 1
    for kind, many in times.most_common(_SHOWN):
        number, reason = found[kind]
        when = f"at bar {number:,}" if many == 1 else f"{many:,} times, first at bar {number:,}"
        yield f"{kind[0]} was unavailable {when}, which never moves the book: {reason}"


def _unrepeated(reason: str) -> str:
    """Return what a router inside of a router said without the words that both begin with."""
    begin = re.search("no route could answer [^:]+: ", reason)
    if begin is None:
        return reason
    rest = re.sub(rf"[^:; ][^:;]*: LLMUnavailable: {re.escape(begin[0])}", "", reason[begin.end() :])
    return reason[: begin.end()] + rest
