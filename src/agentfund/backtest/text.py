"""The report as plain text, made for 96 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from agentfund.backtest.metrics import LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentfund.backtest.report import Report

WIDTH = 96
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
YEARS = 10
"""Most years of which the text shows the months; all are in the page and in the JSON."""


def _amount(value: float | None, unit: str = "") -> str:
    if value is None:
        return "n/a"
    if unit == "bars":
        return f"{value:,.0f}"
    value = -value if unit == "-%" and value else value
    return f"{100 * value:{unit[0] if unit == '+%' else ''},.2f} %" if "%" in unit else f"{value:,.2f}"


def count(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural where it takes one."""
    return f"{number:,} {noun}{'s'[: number != 1]}"


def lines(report: Report) -> Iterable[str]:
    """Return the text report, line by line."""
    figures, currency = report.metrics, report.currency
    rule = "─" * WIDTH
    yield f"{report.symbol}, {report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M} UTC"
    yield f"{report.source}: {count(report.bars, 'bar')}, {count(report.cycles, 'cycle')}"
    if report.stamp is not None:
        yield from _wrapped(f"{report.stamp.verdict}", report.stamp.reason)
    yield rule
    yield f"{'':24}{'fund':>15}{'buy and hold':>15}"
    yield f"{f'Final equity ({currency})':24}{report.final_equity:>15,.2f}{report.hold[-1]:>15,.2f}"
    for name, label, unit in LABELS:
        own, other = _amount(figures[name], unit), _amount(report.benchmark[name], unit)
        note = report.reasons.get(name, "")
        yield f"{label:24}{own:>15}{other:>15}{'  ' + note if note else ''}".rstrip()
    yield f"{'Net of language models':24}{_amount(figures['net_of_llm'], '+%'):>15}"
    yield rule
    ended = sum(trip.closed is not None for trip in report.round_trips)
    exits = Counter(trip.exit for trip in report.round_trips)
    hits = "" if figures["hit_rate"] is None else f", {100 * figures['hit_rate']:.1f} % of them made money"
    mean = "" if figures["expectancy"] is None else f", {figures['expectancy']:,.2f} each"
    factor = "" if figures["profit_factor"] is None else f", profit factor {figures['profit_factor']:.2f}"
    yield f"{'Round trips':16}{ended:,} ended, {exits['open']:,} still open{hits}{mean}{factor}"
    yield f"{'Exits':16}{exits['order']:,} by order, {exits['stop']:,} by stop, {exits['target']:,} by target"
    turned = "" if figures["turnover"] is None else f", turned over {figures['turnover']:.1f} times"
    yield f"{'In the market':16}{100 * (figures['exposure'] or 0):.1f} % of bars{turned}"
    drag = "" if figures["cost_drag"] is None else f", {100 * figures['cost_drag']:.2f} % of the capital"
    yield (
        f"{'Trading costs':16}{report.costs:,.2f} {currency}: commission {report.commissions:,.2f},"
        f" spread and slippage {report.costs - report.commissions:,.2f}{drag}"
    )
    outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in report.outcomes.most_common())
    yield f"{'Decisions':16}{len(report.log.decisions):,}{': ' + outcomes if outcomes else ''}"
    yield f"{'Orders':16}{count(report.orders, 'order')}, {count(len(report.executions), 'fill')}"
    yield (
        f"{'Language models':16}{count(report.llm_calls, 'call')}, billed {report.llm_cost_usd:,.4f} USD"
        f" (list price {report.llm_notional_usd:,.4f} USD)"
    )
    yield from _worth(report)
    if report.by_agent:
        width = max([16, *(len(name) + 2 for name in report.by_agent)])
        yield rule
        yield (
            f"{'Agent':{width}}{'values':>8}{'abstains':>10}{'missing':>9}{'vetoes':>8}{'clamps':>8}{'billed':>10}  answered by"
        )
        for name, row in report.by_agent.items():
            by = ", ".join(f"{route} {number:,}" for route, number in sorted(row.answered_by.items())) or "nobody"
            yield (
                f"{name:{width}}{row.opinions:>8,}{row.abstentions:>10,}{row.unavailable:>9,}{row.vetoes:>8,}{row.clamps:>8,}"
                f"{row.billed_usd:>10,.4f}  {by}"
            )
    yield rule
    for number, sentence in enumerate(report.execution):
        yield f"{'Execution' if not number else '':16}{sentence}"
    for number, sentence in enumerate(report.warnings):
        yield from _wrapped("Warnings" if not number else "", sentence, "! ")


def _wrapped(label: str, sentence: str, mark: str = "") -> list[str]:
    first = f"{label:{16 - len(mark)}}{mark}"
    return textwrap.wrap(sentence, WIDTH, initial_indent=first, subsequent_indent=" " * 16)


def judgements(report: Report) -> Iterable[tuple[str, str]]:
    """Give what the result is worth: a label and a sentence each."""
    yield "Luck", report.luck.sentence
    for null in (report.nulls.random_entry, report.nulls.shuffled):
        if null is not None:
            yield "Chance", null.sentence
    if report.overfitting is not None:
        yield "Overfitting", report.overfitting.sentence
    yield "Gates", report.gates.sentence
    if report.masked:
        yield "Masked", report.masked


def _worth(report: Report) -> Iterable[str]:
    """What the result is worth: luck, chance, gates, proposers and months."""
    yield "─" * WIDTH
    before = ""
    for label, sentence in judgements(report):
        yield from _wrapped("" if label == before else label, sentence)
        before = label
    gates, proposers = report.gates.gates, report.by_proposer
    width = max([16, *(len(name) + 2 for name in (*gates, *proposers))])
    if gates:
        yield f"{'Gate':{width}}{'stopped':>9}{'repeats':>9}{'saved':>14}{'cost':>14}{'net':>14}"
        for name, gate in gates.items():
            counts, money = f"{gate.stopped:>9,}{gate.repeats:>9,}", f"{gate.saved:>14,.2f}{gate.cost:>14,.2f}"
            yield f"{name:{width}}{counts}{money}{gate.net:>+14,.2f}"
    if proposers:
        yield f"{'Proposed by':{width}}{'ended':>9}{'hit rate':>12}{'profit':>14}{'each':>12}{'factor':>10}"
        for name, row in proposers.items():
            hits = "n/a" if row.hit_rate is None else f"{100 * row.hit_rate:.1f} %"
            each, factor = _amount(row.expectancy), _amount(row.profit_factor)
            yield f"{name:{width}}{row.trades:>9,}{hits:>12}{row.profit:>+14,.2f}{each:>12}{factor:>10}"
    if len(report.monthly) > 1:
        yield from _months(report)


def _months(report: Report) -> Iterable[str]:
    """The months in percent, a year in a line; of a long history the newest years."""
    years: dict[int, dict[int, float | None]] = {}
    for year, month, value in report.monthly:
        years.setdefault(year, {})[month] = value
    yield "Months, %   " + "".join(f"{name:>7}" for name in _NAMES)
    for year in sorted(years)[-YEARS:]:
        cells = (years[year].get(month) for month in range(1, 13))
        yield f"{year:<12}" + "".join(f"{'':7}" if cell is None else f"{100 * cell:>7.1f}" for cell in cells).rstrip()
