"""The report of a small log written by hand: what it says, what it refuses, what it leaves on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from agentfund.backtest.overfitting import overfitting
from agentfund.backtest.report import Report
from agentfund.backtest.trials import TrialLedger
from agentfund.clock import to_micros
from agentfund.errors import ConfigError
from agentfund.market import Columns, Instrument
from agentfund.messages import (
    Answered,
    Call,
    Called,
    Clamp,
    Decided,
    Ended,
    Event,
    Filled,
    Intended,
    Message,
    Observed,
    Opined,
    Opinion,
    Stance,
    Started,
)
from agentfund.trading import Costs, Decision, Direction, Fill, Order, OrderStatus, Outcome, Proposal, Side, Verdict

START = datetime(2024, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
CASH = Decimal(1000)
STATED = str(Costs())


class Marked(NamedTuple):
    """A stamp, as the report needs it."""

    verdict: str
    reason: str


class Bars:
    """Bars held in memory, as the report needs them."""

    def __init__(self, *closes: float, source: str = "closes.csv", warnings: Sequence[str] = ()) -> None:
        close = np.asarray(closes, dtype=np.float64)
        starts = to_micros(START) + np.arange(len(close)) * (DAY // timedelta(microseconds=1))
        column = Columns(Instrument("ACME"), DAY, starts, close, close, close, close, np.ones(len(close)))
        self.columns: Mapping[str, Columns] = {"ACME": column}
        self.source = source
        self.warnings = warnings


class Story:
    """A log written line by line: each call adds a message at the close of a bar, counted from 0."""

    def __init__(self, costs: Any = STATED) -> None:
        self.messages: list[Message] = []
        agents = tuple({"name": name} for name in ("strategist", "risk_gate"))
        broker = {"class": "PaperBroker", "costs": costs}
        self.add(0, Started("run", "fund", "backtest", agents, {}, {"fingerprint": "abc"}, broker, CASH, "0.1.0"))

    def add(self, bar: int, *events: Event) -> Story:
        for event in events:
            number, time = str(len(self.messages)), START + (bar + 1) * DAY
            self.messages.append(Message.of(event, id=number, stream="fund", producer="test", time=time, cycle=bar + 1))
        return self

    def decide(self, bar: int, outcome: Outcome, thesis: str = "it rises", by: str = "rules", code: str = "") -> str:
        """A cycle in which the strategist wants to be long; returns the decision's id."""
        vetoes = (("risk_gate", "too much"),) if outcome is Outcome.VETOED else ()
        decision = Decision(
            id=f"d{bar}",
            cycle=bar + 1,
            time=START + (bar + 1) * DAY,
            outcome=outcome,
            decided_by="consensus",
            reason="because",
            symbol="ACME",
            direction=Direction.LONG,
            proposed_by=("strategist",),
            vetoes=vetoes,
            code=code,
            price=10.0,
        )
        proposal = Proposal(direction=Direction.LONG, thesis=thesis)
        self.add(
            bar,
            Observed({"ACME": Decimal(10)}, CASH, CASH, CASH),
            Opined(Opinion("strategist", "Proposal", Stance.VALUE, proposal, "", (Clamp("stop_pct", 0.1, 0.5),), by)),
            Opined(Opinion("risk_gate", "Verdict", Stance.VALUE, Verdict(approved=not vetoes, reason="ok"), answered_by=by)),
            Decided(decision),
        )
        if outcome is Outcome.ORDERED:
            order = Order(f"o{bar}", "ACME", Side.BUY, Decimal(10), START + (bar + 1) * DAY, decision=decision.id)
            self.add(bar, Intended(order), Answered(order.id, OrderStatus.WORKING))
        return decision.id

    def fill(self, bar: int, side: Side, price: str, order: str, **more: Any) -> Story:
        reference = more.pop("reference", price)
        one = Fill(
            f"{order}-{bar}",
            order,
            "ACME",
            side,
            Decimal(10),
            Decimal(price),
            Decimal(1),
            START + bar * DAY,
            Decimal(reference),
        )
        return self.add(bar, Filled(one))

    def end(self, bars: int, equity: str) -> list[Message]:
        return self.add(bars - 1, Ended(bars, bars, {"ACME": Decimal(10)}, Decimal(equity))).messages


def won() -> list[Message]:
    """Bought 10 at 11 (the market said 10.5) on the third day, sold at 13 on the fifth, a dollar of commission each."""
    story = Story()
    story.decide(1, Outcome.ORDERED)
    story.fill(2, Side.BUY, "11", "o1", reference="10.5").fill(4, Side.SELL, "13", "o1")
    story.decide(4, Outcome.VETOED)
    story.decide(5, Outcome.DENIED, code="max_exposure")
    return story.end(7, "1018")


CLOSES = (10.0, 10.0, 12.0, 9.0, 13.0, 13.0, 13.0)


def test_a_report_is_the_fold_of_its_log() -> None:
    """1000 - 110 - 1 + 130 - 1 = 1018, and the curve goes through every close on the way."""
    report = Report.of(won(), Bars(*CLOSES))
    assert report.final_equity == Decimal(1018)
    assert report.curve.equity.tolist() == [1000, 1000, 1009, 979, 1018, 1018, 1018]
    assert report.total_return == pytest.approx(0.018)
    assert report.max_drawdown == pytest.approx(1 - 979 / 1009)
    assert report.costs == 1 + 1 + 10 * Decimal("0.5")


def test_it_counts_what_became_of_the_decisions() -> None:
    """Three decisions: one ordered, one vetoed, one denied; one order, two fills, one round trip."""
    told = Report.of(won(), Bars(*CLOSES)).to_json()
    assert {name: told[name] for name in ("decisions", "vetoes", "denials", "orders", "fills", "trades", "bars", "cycles")} == {
        "decisions": 3,
        "vetoes": 1,
        "denials": 1,
        "orders": 1,
        "fills": 2,
        "trades": 1,
        "bars": 7,
        "cycles": 7,
    }
    assert told["by_agent"]["risk_gate"]["vetoes"] == 1
    assert told["by_agent"]["strategist"]["clamps"] == 3


def test_its_json_is_json_and_knows_no_nan() -> None:
    """A strict writer takes it; what is not known is null, with a reason beside it."""
    told = Report.of(Story().end(2, "1000"), Bars(10, 10)).to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["sharpe"] is None
    assert "sharpe" in told["reasons"]


def test_costs_of_language_models_stand_beside_the_equity_and_not_in_it() -> None:
    """Two calls, one of them failed: billed 0.30 of 1000, list price 0.50."""
    story = Story()
    story.add(
        0,
        Called(Call("strategist", "api", "x", "ok", billed_usd=Decimal("0.2"), notional_usd=Decimal("0.5"))),
        Called(Call("strategist", "api", "x", "LLMTimeout", billed_usd=Decimal("0.1"))),
        Opined(Opinion("strategist", "Proposal", Stance.UNAVAILABLE, reason="timeout", answered_by="api")),
    )
    report = Report.of(story.end(2, "1000"), Bars(10, 10))
    assert (report.llm_calls, report.llm_cost_usd, report.llm_notional_usd) == (2, Decimal("0.3"), Decimal("0.5"))
    assert report.final_equity == 1000
    assert report.metrics["net_of_llm"] == pytest.approx(-0.0003)
    assert report.by_agent["strategist"].unavailable == 1
    assert report.by_agent["strategist"].billed_usd == Decimal("0.3")


@pytest.mark.parametrize("costs", [str(Costs(commission_min=2)), asdict(Costs(commission_min=2))])
def test_buy_and_hold_pays_the_costs_that_the_broker_stated(costs: Any) -> None:
    """As words or as numbers, they are the same costs; at an unchanged price they are all that is lost."""
    report = Report.of(Story(costs).end(3, "1000"), Bars(10, 10, 10))
    assert report.trading_costs == Costs(commission_min=2)
    assert report.hold[-1] == pytest.approx(1000 - 4 - 2 * 0.2, abs=0.01)
    assert f"Costs: {Costs(commission_min=2)}." in report.text()


def test_a_fund_that_never_ordered_and_had_no_language_model_says_so() -> None:
    """Also where the market came from: three things that one must not overlook."""
    story = Story()
    story.decide(1, Outcome.VETOED)
    report = Report.of(story.end(3, "1000"), Bars(10, 10, 10, source="simulated market, seed 7"))
    assert "no decision was ordered" in report.warnings
    assert "all two agents answered by their rule twins; no language model was used" in report.warnings
    assert any(sentence.startswith("the market is simulated") for sentence in report.warnings)


def unavailable(bar: int, reason: str, agent: str = "strategist") -> tuple[int, Opined]:
    return bar, Opined(Opinion(agent, "Proposal", Stance.UNAVAILABLE, reason=reason, answered_by="api"))


def test_what_failed_again_and_again_is_one_warning() -> None:
    """Reasons that differ in numbers only are one; at most three, most common first, each with where it began."""
    story = Story()
    story.add(*unavailable(0, "TypeError: once"))
    for bar in range(1, 6):
        story.add(*unavailable(bar, f"LLMTimeout: nothing within {bar} s"))
    for bar in (2, 3, 4):
        story.add(*unavailable(bar, f"LLMTimeout: nothing within {bar} s", "risk_gate"))
    for bar in (5, 6):
        story.add(*unavailable(bar, "Refused: no"))
    told = [sentence for sentence in Report.of(story.end(7, "1000"), Bars(*CLOSES)).warnings if "unavailable" in sentence]
    assert told == [
        "strategist was unavailable 5 times, first at bar 2, which never moves the book: LLMTimeout: nothing within 1 s",
        "risk_gate was unavailable 3 times, first at bar 3, which never moves the book: LLMTimeout: nothing within 2 s",
        "strategist was unavailable 2 times, first at bar 6, which never moves the book: Refused: no",
    ]


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (
            "LLMUnavailable: no route could answer a: router: LLMUnavailable: no route could answer a: local: Overloaded: busy",
            "LLMUnavailable: no route could answer a: local: Overloaded: busy",
        ),
        (
            "LLMUnavailable: no route could answer a: x: Refused: no; in: LLMUnavailable: no route could answer a: b: Refused",
            "LLMUnavailable: no route could answer a: x: Refused: no; b: Refused",
        ),
        ("LLMUnavailable: no route could answer a: b: Refused: no", "LLMUnavailable: no route could answer a: b: Refused: no"),
    ],
)
def test_what_routers_inside_of_routers_said_is_not_repeated(reason: str, shown: str) -> None:
    """The first words are enough."""
    story = Story().add(*unavailable(0, reason, "a"))
    warnings = Report.of(story.end(2, "1000"), Bars(10, 10)).warnings
    assert f"a was unavailable at bar 1, which never moves the book: {shown}" in warnings


def test_the_warnings_of_the_data_come_first_and_once() -> None:
    """What the feed says about its bars is not lost, and not said twice."""
    report = Report.of(Story().end(2, "1000"), Bars(10, 10, warnings=("3 bars missing", "3 bars missing")))
    assert report.warnings[0] == "3 bars missing"
    assert report.warnings.count("3 bars missing") == 1


def test_a_run_that_was_interrupted_is_reported_up_to_its_last_message() -> None:
    """No Ended: bars that the fund never saw are not in the report."""
    story = Story()
    story.decide(1, Outcome.VETOED)
    report = Report.of(story.messages, Bars(*CLOSES))
    assert report.bars == 2
    assert any("interrupted" in sentence for sentence in report.warnings)


def test_a_log_that_does_not_fit_its_bars_is_noticed() -> None:
    """The run ended with 1017, its fills on these bars give 1018."""
    messages = won()
    assert not any("not the run's" in sentence for sentence in Report.of(messages, Bars(*CLOSES)).warnings)
    wrong = [*messages[:-1], *Story().end(7, "1017")[-1:]]
    assert any("not the run's" in sentence for sentence in Report.of(wrong, Bars(*CLOSES)).warnings)


def test_a_log_read_back_from_json_gives_the_same_report() -> None:
    """Nothing in it depends on objects that only the run had."""
    messages = won()
    fields = ("id", "stream", "key", "type", "payload", "producer", "time", "cycle")
    read = [Message(**{name: getattr(message, name) for name in fields}) for message in messages]
    assert Report.of(read, Bars(*CLOSES)).html() == Report.of(messages, Bars(*CLOSES)).html()


def test_the_text_states_the_rules_of_execution_and_fits_its_width() -> None:
    """Who reads only the text knows how orders were filled."""
    text = str(Report.of(won(), Bars(*CLOSES)))
    for words in (
        "no earlier than the open of bar t+1",
        "stop is taken before the target",
        "gap through a stop",
        "buy and hold",
    ):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 96


def test_the_tables_hold_what_happened() -> None:
    """One row for each trade, decision, opinion, fill and bar."""
    report = Report.of(won(), Bars(*CLOSES))
    (trade,) = report.trades.to_dict("records")
    assert [trade[name] for name in ("profit", "bars", "exit", "decision")] == [18.0, 2, "order", "d1"]
    assert report.decisions["outcome"].tolist() == ["ordered", "vetoed", "denied"]
    assert report.decisions["cost"].tolist() == [7.0, 0.0, 0.0]
    assert len(report.opinions) == 6
    assert report.fills["bar"].tolist() == [START + 3 * DAY, START + 5 * DAY]
    assert report.equity["equity"].tolist() == report.curve.equity.tolist()


def test_one_bar_without_any_decision_is_a_report_too() -> None:
    """Nothing happened, and every table and page can still be made."""
    report = Report.of(Story().end(1, "1000"), Bars(10))
    assert report.metrics["buy_and_hold"] is None
    assert report.final_equity == 1000
    assert len(report.equity) == 1
    for table in (report.trades, report.decisions, report.opinions, report.fills):
        assert table.empty
    assert "n/a" in report.text()


def test_no_bar_at_all_is_an_error_with_a_name() -> None:
    """A report on nothing is refused."""
    with pytest.raises(ConfigError, match="holds no bar"):
        Report.of(Story().messages, Bars())


def test_saving_leaves_complete_files_that_can_be_read_again(tmp_path: Path) -> None:
    """Text, page, figures and tables, and Parquet because it was asked for."""
    report = Report.of(won(), Bars(*CLOSES))
    folder = report.save(tmp_path / "new" / "folder", formats=("parquet",))
    tables = ("equity", "trades", "decisions", "fills")
    expected = {"report.html", "report.txt", "report.json", *(f"{t}.csv" for t in tables), *(f"{t}.parquet" for t in tables)}
    assert {file.name for file in folder.iterdir()} == expected
    assert json.loads((folder / "report.json").read_text()) == report.to_json()
    assert pd.read_csv(folder / "equity.csv")["equity"].tolist() == report.curve.equity.tolist()
    assert pd.read_parquet(folder / "trades.parquet")["profit"].tolist() == [18.0]


def test_a_disk_that_fills_up_leaves_the_old_files_and_nothing_half_written(tmp_path: Path) -> None:
    """The error names the file and the fix."""
    resource = pytest.importorskip("resource", reason="only POSIX can limit the size of a file")
    report = Report.of(won(), Bars(*CLOSES))
    (tmp_path / "report.html").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ConfigError, match=r"cannot write .*report\.html: .*; free space"):
            report.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where the folder should be, a folder where a file should be, a format that nobody knows."""
    report = Report.of(won(), Bars(*CLOSES))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*file: .*another folder"):
        report.save(tmp_path / "file")
    (tmp_path / "taken" / "report.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"report\.json: a folder of that name"):
        report.save(tmp_path / "taken")
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["report.json"]
    with pytest.raises(ConfigError, match="unknown format"):
        report.save(tmp_path, formats=("xlsx",))


def test_a_spreadsheet_does_not_run_what_an_agent_wrote(tmp_path: Path) -> None:
    """A thesis that begins like a formula gets an apostrophe in front."""
    story = Story()
    story.decide(0, Outcome.VETOED, thesis='=HYPERLINK("x")')
    report = Report.of(story.end(2, "1000"), Bars(10, 10))
    table = pd.read_csv(report.save(tmp_path) / "decisions.csv")
    assert table["thesis"].tolist() == ['\'=HYPERLINK("x")']
    assert report.decisions["thesis"].tolist() == ['=HYPERLINK("x")']


def test_show_prints_the_text_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    """In a terminal there is no page to display."""
    report = Report.of(won(), Bars(*CLOSES))
    report.show()
    assert capsys.readouterr().out == report.text() + "\n"


def test_without_a_ledger_one_trial_is_known() -> None:
    """Who does not count is told so, in the text and in the figures."""
    report = Report.of(won(), Bars(*CLOSES))
    assert "1 trial known (no ledger was given)" in report.text()
    told = report.to_json()["luck"]
    assert (told["trials"], told["counted"]) == (1, False)


def test_trials_on_the_same_data_count_and_the_run_itself_counts_once() -> None:
    """Nine others and the run; recorded or not, it is the tenth. Another file and another instrument do not count."""
    first = Report.of(won(), Bars(*CLOSES))
    ledger = TrialLedger()
    ledger.extend(replace(first.trial, described={"try": number}, sharpe=0.02 * number) for number in range(9))
    ledger.add(replace(first.trial, described={"try": 0}, origin="other.csv"))
    ledger.add(replace(first.trial, described={"try": 0}, symbols=("OTHER",)))
    before = Report.of(won(), Bars(*CLOSES), trials=ledger)
    ledger.add(before.trial)
    after = Report.of(won(), Bars(*CLOSES), trials=ledger)
    assert before.luck == after.luck
    assert after.luck.trials == 10
    assert after.luck.deflated.value < first.luck.deflated.value  # type: ignore[operator]
    assert any("10 trials are known on this data, and luck explains" in sentence for sentence in after.warnings)


def test_another_name_of_the_fund_is_no_other_trial() -> None:
    """What was tried are agents, settings and broker, on some bars."""
    messages = won()
    renamed = [
        replace(m, payload={**m.payload, "fund": "other", "run": "other"}, _event=None) if m.type == "Started" else m
        for m in messages
    ]
    assert Report.of(renamed, Bars(*CLOSES)).trial.id == Report.of(messages, Bars(*CLOSES)).trial.id
    changed = [replace(m, payload={**m.payload, "cash": "2000"}, _event=None) if m.type == "Started" else m for m in messages]
    assert Report.of(changed, Bars(*CLOSES)).trial.id != Report.of(messages, Bars(*CLOSES)).trial.id


def test_the_best_of_a_hundred_random_agents_is_reported_as_luck() -> None:
    """Over 252 days each buys on random days and holds for a while; the report of the best says what it is worth.

    Alone it looks like skill: its probabilistic Sharpe ratio lies above 0.95.
    """
    rng = np.random.default_rng(8)
    closes = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.01, 252))), 2).tolist()
    ledger, reports = TrialLedger(), []
    for number in range(100):
        story = Story(str(Costs(commission_bps=0, half_spread_bps=0, slippage_bps=0)))
        for day in range(1, 250, 6):
            if rng.random() < 0.6:
                story.decide(day, Outcome.ORDERED, thesis=f"agent {number}")
                for side, bar in ((Side.BUY, day + 1), (Side.SELL, day + 4)):
                    story.fill(bar, side, str(closes[bar]), f"o{day}")
        report = Report.of(story.end(252, "1000"), Bars(*closes), trials=ledger)
        ledger.add(report.trial)
        reports.append((report.sharpe or 0.0, story))
    best = max(reports, key=lambda one: one[0])[1]
    alone, report = (Report.of(best.messages, Bars(*closes), trials=each) for each in (None, ledger))
    assert alone.luck.probabilistic.value > 0.95  # type: ignore[operator]
    assert report.luck.trials == 100
    assert not report.luck.stands
    assert report.luck.deflated.value < 0.8  # type: ignore[operator]
    assert "not told from" in report.text()
    assert any("luck explains the best of so many" in sentence for sentence in report.warnings)
    assert report.to_json()["luck"]["stands"] is False


def test_a_stamp_stands_at_the_top_and_a_bad_one_is_a_warning() -> None:
    """Whether language models could know it is said before any figure."""
    report = Report.of(won(), Bars(*CLOSES), stamp=Marked("CONTAMINATED", "the model knew"))
    assert report.text().splitlines()[2] == "CONTAMINATED    the model knew"
    assert "CONTAMINATED: the model knew" in report.warnings
    clean = Report.of(won(), Bars(*CLOSES), stamp=Marked("CLEAN", "it could not know"))
    assert not any("CLEAN" in sentence for sentence in clean.warnings)
    assert Report.of(won(), Bars(*CLOSES)).to_json()["stamp"] is None


@pytest.mark.parametrize(
    ("source", "outcome", "route", "verdict"),
    [
        ("closes.csv", "ok", "api", "CONTAMINATED"),
        ("a simulated market", "ok", "api", None),
        ("closes.csv", "LLMTimeout", "api", None),
        ("closes.csv", "ok", "rules", None),
    ],
)
def test_a_language_model_that_answered_about_real_bars_is_stamped(
    source: str, outcome: str, route: str, verdict: str | None
) -> None:
    """Nobody has to ask for it; of an unknown one nothing good is assumed. A simulated market is in no memory."""
    story = Story()
    story.add(0, Called(Call("strategist", route, "nobody-knows-it", outcome)))
    report = Report.of(story.end(2, "1000"), Bars(10, 10, source=source))
    assert (None if report.stamp is None else report.stamp.verdict) == verdict


def test_the_overfitting_of_a_sweep_is_told() -> None:
    """Noise: choosing the best of it is warned of."""
    found = overfitting(np.random.default_rng(3).normal(0, 0.01, (200, 20)) - 0.01 * np.eye(20).repeat(10, axis=0), 10)
    report = Report.of(won(), Bars(*CLOSES), overfitting=found)
    assert report.to_json()["overfitting"]["probability"] == found.probability
    assert "probability of backtest overfitting" in report.text()
    assert any("overfits" in sentence for sentence in report.warnings) is (found.probability >= 0.5)


def test_what_each_proposer_made_is_told() -> None:
    """The strategist's one round trip made 18."""
    ((name, row),) = Report.of(won(), Bars(*CLOSES)).by_proposer.items()
    assert (name, row.trades, row.profit, row.hit_rate, row.profit_factor, row.expectancy) == (
        "strategist",
        1,
        18.0,
        1.0,
        None,
        18.0,
    )


def test_bars_per_year_can_be_given_where_counting_them_is_worse() -> None:
    """Seven bars of a market that has 252 a year: the square root of the ratio is between the two Sharpe ratios."""
    counted, given = Report.of(won(), Bars(*CLOSES)), Report.of(won(), Bars(*CLOSES), bars_per_year=252)
    assert counted.bars_per_year == pytest.approx(365.25)
    assert given.sharpe / counted.sharpe == pytest.approx(np.sqrt(252 / 365.25))  # type: ignore[operator]
    assert given.to_json()["bars_per_year"] == 252
    with pytest.raises(ConfigError, match="above zero"):
        Report.of(won(), Bars(*CLOSES), bars_per_year=0)
