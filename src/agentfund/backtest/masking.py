"""What masking changes: the same fund over the real and the masked market, and reports of masked runs made real again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentfund.backtest.engine import Backtest
from agentfund.backtest.log import Cycle
from agentfund.backtest.report import Report
from agentfund.brokers.paper import PaperBroker
from agentfund.feeds.masked import Masked
from agentfund.trading import Outcome

if TYPE_CHECKING:
    from datetime import datetime

    from agentfund.backtest.log import Log
    from agentfund.core.orchestrator import Orchestrator
    from agentfund.feeds.history import Bars
    from agentfund.feeds.mask import Mask
    from agentfund.protocols import Broker

TOLD = "agents saw masked data; symbols, times, prices and quantities here are the real ones"


def unmasked(report: Report, masked: Masked) -> Report:
    """Return the report of a masked run over the real bars: real symbols, times, prices and quantities.

    Money is the same in both. In the texts of agents the names of instruments are translated and numbers are not, for
    nobody knows which of them are prices.

    Args:
        report: what a backtest over `masked` came to.
        masked: the feed that it ran over.

    Raises:
        ConfigError: the report is of instruments that the masked market does not have.
    """
    real = masked.feed
    shown = Report(
        _shown(report.log, masked.mask, real),
        real.columns,
        real.source,
        (*real.warnings, TOLD),
        overfitting=report.overfitting,
        bars_per_year=report.bars_per_year,
    )
    shown.luck = report.luck  # what was tried is known by the data that were tried
    return shown


def _shown(log: Log, mask: Mask, real: Bars) -> Log:
    shown = copy.copy(log)
    feed = {**log.started.feed, "class": type(real).__name__, "symbols": list(real.columns), "source": real.source}
    shown.started = replace(log.started, feed=feed)
    shown.ended = log.ended and replace(
        log.ended, prices={mask.show(symbol): mask.show_price(symbol, price) for symbol, price in log.ended.prices.items()}
    )
    shown.last = mask.show(log.last)
    shown.cycles = {
        number: Cycle(mask.show(cycle.time), [mask.show_text(each) for each in cycle.opinions], cycle.calls)
        for number, cycle in log.cycles.items()
    }
    shown.decisions = [mask.show(each).model_copy(update={"reason": mask.show_text(each.reason)}) for each in log.decisions]
    shown.orders = {name: mask.show(order) for name, order in log.orders.items()}
    shown.fills = {name: (mask.show(fill), mask.show(seen)) for name, (fill, seen) in log.fills.items()}
    return shown


@dataclass(frozen=True, slots=True)
class MaskedDifference:
    """What a fund does where it knows what it looks at, and where it does not.

    Figures are fractions; None where a run has none. Rules that look at changes alone do the same in both. Where a
    language model does much better with names and dates, some of it may be memory.

    Args:
        plain: the report over the bars as they are.
        masked: the report of the masked run, made real again.
        agreed: share of the cycles with a decision in either run in which both decided the same, None where there is none.
        decided: number of those cycles.
    """

    plain: Report
    masked: Report
    agreed: float | None
    decided: int

    @property
    def total_return(self) -> float | None:
        """Return of the plain run less that of the masked one."""
        return _less(self.plain.total_return, self.masked.total_return)

    @property
    def sharpe(self) -> float | None:
        """Sharpe ratio of the plain run less that of the masked one."""
        return _less(self.plain.sharpe, self.masked.sharpe)

    def __str__(self) -> str:
        agreed = (
            "nothing was decided in either"
            if self.agreed is None
            else (f"{100 * self.agreed:.1f} % of {self.decided:,} decisions agree")
        )
        returns = " and ".join(_told(each.total_return, "{:+.2%}") for each in (self.plain, self.masked))
        ratios = " and ".join(_told(each.sharpe, "{:.2f}") for each in (self.plain, self.masked))
        return f"with names, dates and levels and without: return {returns}, Sharpe ratio {ratios}; {agreed}"


def masked_difference(
    make_fund: Callable[[], Orchestrator],
    bars: Bars,
    *,
    seed: int,
    make_broker: Callable[[], Broker] = PaperBroker,
    **options: Any,
) -> MaskedDifference:
    """Run a fund over bars as they are and over a masked copy, and compare; the report of the plain run says what differs.

    Where agents ask language models, both runs ask them: it costs twice.

    Args:
        make_fund: makes the fund anew, with a log of its own.
        bars: the bars as they are.
        seed: chooses the mask.
        make_broker: makes the paper broker anew.
        **options: those of `Backtest`.
    """
    masked = Masked(bars, seed=seed)
    plain = Backtest(make_fund(), bars, make_broker(), **options).run()
    blind = unmasked(Backtest(make_fund(), masked, make_broker(), **options).run(), masked)
    one, other = _decisions(plain), _decisions(blind)
    moments = one.keys() | other.keys()
    same = sum(one.get(moment) == other.get(moment) for moment in moments)
    found = MaskedDifference(plain, blind, same / len(moments) if moments else None, len(moments))
    plain.masked = str(found)
    return found


def _decisions(report: Report) -> dict[datetime, tuple[Outcome, str, str]]:
    return {each.time: (each.outcome, each.symbol, str(each.direction)) for each in report.log.decisions}


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _told(figure: float | None, form: str) -> str:
    return "n/a" if figure is None else form.format(figure)
