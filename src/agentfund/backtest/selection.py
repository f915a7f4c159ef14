"""A run as one trial among all that are known to have been tried on its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentfund.backtest import metrics as m
from agentfund.backtest.deflated import Luck
from agentfund.backtest.trials import Trial, TrialLedger
from agentfund.messages import stable_id

if TYPE_CHECKING:
    from agentfund.backtest.report import Report
    from agentfund.backtest.result import Result
    from agentfund.backtest.trials import Source

_TOLD = ("name", "class", "answers_by", "code")


def trial_of(report: Report) -> Trial:
    """Return a report's run as a trial: agents, settings, broker, data and what it came to.

    The name of the fund is no part of what was tried: the same agents under another name are the same trial.
    """
    started = report.log.started
    described = {
        "agents": [{name: card[name] for name in _TOLD if name in card} for card in started.agents],
        "cards": stable_id([sorted(map(str, card.items())) for card in started.agents])[:16],
        "settings": {name: value for name, value in started.settings.items() if name != "limits"},
        "broker": dict(started.broker),
        "cash": str(started.cash),
    }
    return Trial.of(
        f"{started.fund}: {', '.join(str(card.get('name', '')) for card in started.agents)}",
        described,
        report.source,
        report.columns,
        m.returns(report.curve.equity),
        data=str(started.feed.get("fingerprint", "")),
        bars_per_year=report.bars_per_year,
        total=report.metrics["total_return"],
    )


def trial_of_result(result: Result, origin: str, source: Source = "backtest") -> Trial:
    """Return a simulated run as a trial.

    Args:
        result: what `simulate` gave.
        origin: where its bars came from, in words: `bars.source`.
        source: what made it.
    """
    return Trial.of(
        ", ".join(dict.fromkeys(map(str, result.described.get("strategies", {}).values()))) or "a strategy",
        result.described,
        origin,
        result.columns,
        result.returns,
        data=result.fingerprint,
        bars_per_year=m.bars_per_year(len(result.ends), result.span).value,
        total=result.total_return,
        source=source,
    )


def luck_of(run: Report | Result, ledger: TrialLedger | None, origin: str = "") -> Luck:
    """Judge a run by what else is known to have been tried on its data; the run itself counts once.

    Args:
        run: a report, or what `simulate` gave.
        ledger: what was tried; None where nobody counted.
        origin: where a simulated run's bars came from: `bars.source`; a report knows.
    """
    from agentfund.backtest.result import Result

    own, equity = (trial_of_result(run, origin), run.equity) if isinstance(run, Result) else (run.trial, run.curve.equity)
    others = None
    if ledger is not None:
        others = [each.sharpe_in(own.bars_per_year) for each in ledger.trials(own.dataset) if each.draw != own.draw]
    return Luck.of(m.returns(equity), own.bars_per_year, others)
