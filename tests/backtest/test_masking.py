"""The same fund with names, dates and levels, and without."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Backtest, Direction, MemoryBus, Orchestrator, Proposal, agent
from agentfund.backtest.lanes import simulate
from agentfund.backtest.masking import TOLD, masked_difference, unmasked
from agentfund.feeds import Bars, Masked, SimulatedMarket
from agentfund.llms import ScriptedLLM
from agentfund.specialists import desk
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross
from tests import market as made


def pair() -> Bars:
    """Two instruments on one clock."""
    one, other = made.bars(made.wave(150), symbol="AAPL"), made.bars(made.wave(150, seed=2), symbol="MSFT")
    return Bars({**one.columns, **other.columns}, source="two files", warnings=("a warning of AAPL",))


def test_a_report_of_a_masked_run_is_made_real_again() -> None:
    """Line by line it is the report of the plain run, but for ids and the word that agents saw masked data."""
    bars = pair()
    masked = Masked(bars, seed=9)
    blind = Backtest(made.fund(), masked, made.broker()).run()
    plain = Backtest(made.fund(), bars, made.broker()).run()
    assert "ASSET" in blind.text()
    assert "AAPL" not in blind.text()
    shown = unmasked(blind, masked)
    assert TOLD in shown.warnings
    text = shown.text()
    assert "ASSET" not in text
    cut = text.index("Execution")
    assert text[:cut] == plain.text()[: plain.text().index("Execution")]
    assert "a warning of AAPL" in text
    assert shown.luck == blind.luck
    assert shown.trades.drop(columns=_ids(shown.trades)).equals(plain.trades.drop(columns=_ids(plain.trades)))
    assert shown.decisions["time"].tolist() == plain.decisions["time"].tolist()
    assert json.dumps(shown.to_json()["metrics"]) == json.dumps(plain.to_json()["metrics"])
    assert not any("its fills give" in warning for warning in shown.warnings)


def test_dates_that_are_not_real_make_no_window_clean() -> None:
    """A masked window lies in a far future: nothing is said of it; the real one is judged once the report is made real."""

    def ask(feed: Bars) -> Any:
        llm = ScriptedLLM(lambda _: None, name="claude-haiku-4-5")
        return Backtest(Orchestrator(desk(llm), bus=MemoryBus(), mode="autonomous"), feed, made.broker()).run()

    masked = Masked(made.bars(made.wave(30), symbol="AAPL"), seed=1)
    blind = ask(masked)
    assert blind.start.year > 2030
    assert blind.stamp.verdict == "CONTAMINATED"
    assert "the dates of a masked market are not real" in blind.stamp.reason
    judged = unmasked(blind, masked).stamp
    assert judged is not None
    assert judged.verdict == "CONTAMINATED"
    assert "the window ends on 2024-01-0" in judged.reason
    assert ask(Masked(SimulatedMarket(bars=30), seed=1)).stamp is None


def _ids(frame: Any) -> list[str]:
    return [name for name in frame.columns if frame[name].astype(str).str.fullmatch(r"[0-9a-f]{32}.*").any()]


def test_a_rule_shows_no_difference() -> None:
    """A rule that looks at changes alone decides the same and earns the same."""
    difference = masked_difference(made.fund, pair(), seed=3, make_broker=made.broker)
    assert difference.decided > 3
    assert difference.agreed == 1.0
    assert difference.total_return == 0.0
    assert difference.sharpe is not None
    assert abs(difference.sharpe) < 1e-9
    assert "100.0 % of" in str(difference)
    assert str(difference).startswith("with names, dates and levels and without: return ")
    assert str(difference) in " ".join(difference.plain.text().split())
    assert difference.plain.to_json()["masked"] == str(difference)


@agent
def remembers(context: Any) -> Proposal | None:
    """Knows what AAPL did, and nothing else."""
    if context.state.cycle % 7 or "AAPL" not in context.market.windows:
        return None
    return Proposal(direction=Direction.LONG, symbol="AAPL", thesis="I remember")


def test_a_memory_of_names_is_seen() -> None:
    """An agent that knows the ticker acts on it where it sees it, and has nothing to say where it does not."""

    def fund() -> Orchestrator:
        return made.fund(remembers, made.yes)

    difference = masked_difference(fund, pair(), seed=3, make_broker=made.broker)
    assert difference.plain.orders > 0
    assert difference.masked.orders == 0
    assert difference.agreed == 0.0
    assert difference.total_return == difference.plain.total_return


def test_nothing_decided_is_no_agreement() -> None:
    """Where neither run decides anything, there is nothing that could agree."""

    @agent
    def silent(context: Any) -> Proposal | None:
        """Say nothing."""
        return None

    difference = masked_difference(lambda: made.fund(silent, made.yes), pair(), seed=1)
    assert (difference.agreed, difference.decided) == (None, 0)
    assert "nothing was decided in either" in str(difference)


@given(st.integers(0, 200))
@settings(deadline=None, max_examples=12)
def test_strategies_earn_the_same_masked(seed: int) -> None:
    """Trades begin and end at the same bars, also where averages tie, and equity is the same to the last bit."""
    bars = made.bars(made.wave(400, seed=seed))
    masked = Masked(bars, seed=seed)
    for strategy in (SmaCross(fast=5, slow=15), RsiReversion(period=7), DonchianBreakout(period=12)):
        plain, blind = simulate(strategy, bars), simulate(strategy, masked)
        assert len(plain.trades) > 1
        assert plain.trades.entry_bar.tolist() == blind.trades.entry_bar.tolist()
        assert plain.trades.exit_bar.tolist() == blind.trades.exit_bar.tolist()
        assert plain.equity.tolist() == blind.equity.tolist()
