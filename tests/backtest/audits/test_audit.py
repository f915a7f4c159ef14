"""The audit itself: what it changes, what it says, and what it refuses to call clean."""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Agent, Direction, MemoryBus, Orchestrator, Proposal
from agentfund.backtest.audits.audit import Audit, audit, causal
from agentfund.backtest.audits.checks import ahead_of_each_other
from agentfund.backtest.audits.command import exit_code, load, told
from agentfund.backtest.audits.cuts import choose_cuts, choose_fact_cuts
from agentfund.backtest.audits.fresh import POSSIBLE, Fresh, Lost
from agentfund.backtest.audits.futures import FACT_WAYS, WAYS, World, axis, limit, other
from agentfund.clock import from_micros, to_micros
from agentfund.errors import ConfigError, LookaheadError
from agentfund.feeds import Bars
from agentfund.feeds.facts import Fact, Facts
from agentfund.llms import ScriptedLLM
from agentfund.prompt import Untrusted
from agentfund.specialists import desk
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross
from tests.backtest.audits.leaks import data
from tests.backtest.audits.leaks.agents import Ahead, Averaged, Centred, Rolled, Rule, Standing, Uses, yes
from tests.backtest.audits.leaks.honest import Composed
from tests.backtest.audits.leaks.series import above

MARKET = data.market(160, 4)
FIELDS = ("open", "high", "low", "close", "volume")


def tomorrow(bars: Bars) -> Any:
    """Buy what closes higher at the next bar."""
    close = data.only(bars).close
    return above(np.append(close[1:], close[-1]), close)


def today(bars: Bars) -> Any:
    """Buy what has closed higher."""
    close = data.only(bars).close
    return above(close, np.append(close[:1], close[:-1]))


def never(bars: Bars) -> Any:
    """Want nothing, ever."""
    return np.zeros(len(data.only(bars)))


# -- the futures ----------------------------------------------------------------------------------------------------


@given(
    at=st.integers(1, 158),
    way=st.sampled_from([*WAYS, *FACT_WAYS]),
    seed=st.integers(0, 99),
    opened=st.sampled_from(["close", "open"]),
)
@settings(max_examples=120, deadline=None)
def test_another_future_has_the_same_past(at: int, way: str, seed: int, opened: Any) -> None:
    """Up to the cut every number and every fact is what it was; after it, something is not."""
    bars, facts = data.with_facts(160, 4)
    world = World(bars.with_facts(facts), facts)
    cut = int(axis(bars)[at])
    found = other(world, cut, way, np.random.default_rng(seed), opened)
    before, after = data.only(bars), data.only(found.bars)
    known = before.closed_by(cut)
    for name in ("start", *FIELDS):
        assert np.array_equal(getattr(before, name)[:known], getattr(after, name)[:known])
    until = from_micros(limit(bars, cut, opened))
    assert found.facts is not None
    assert found.bars.facts is found.facts
    assert found.facts.until(until).records == facts.until(until).records
    if way in FACT_WAYS:
        assert found.facts.fingerprint != facts.fingerprint or len(facts.until(until)) == len(facts)
    else:
        same = len(after) == len(before) and all(np.array_equal(getattr(before, n), getattr(after, n)) for n in FIELDS)
        assert not same
    if opened == "open":
        assert after.open[known] == before.open[known]
        assert limit(bars, cut, "open") == int(before.start[known])


def test_a_raised_future_is_higher_wilder_and_busier_and_a_lowered_one_the_contrary() -> None:
    """Far enough that a comparison with the last price comes out on its other side; what has no level moves by its size."""
    before = data.only(MARKET)
    cut = int(before.ends[100])
    for way, sign, stretch, volume in (("raised", 1, 3.0, 2.0), ("lowered", -1, 1 / 3, 0.5)):
        after = data.only(other(World(MARKET), cut, way, np.random.default_rng(0)).bars)
        assert (sign * (after.close[101:] - before.close[100]) > 0).all()
        spread = np.log(before.high[101:] / before.low[101:])
        assert np.allclose(np.log(after.high[101:] / after.low[101:]), stretch * spread)
        assert np.array_equal(after.volume[101:], volume * before.volume[101:])


def test_cuts_are_spread_lie_where_it_matters_and_end_late() -> None:
    """Seeded; the last is the last moment but one, and where something was decided, every other one lies there."""
    moments = axis(MARKET)
    acted = moments[[40, 90, 140]]
    cuts = choose_cuts(MARKET, [acted], 6, np.random.default_rng(3))
    assert cuts == choose_cuts(MARKET, [acted], 6, np.random.default_rng(3))
    assert cuts[-1] == moments[-2]
    assert min(cuts) >= moments[32]
    assert len({*cuts} & {int(at) for at in acted}) >= 2
    with pytest.raises(ConfigError, match="at least one"):
        choose_cuts(MARKET, [], 0, np.random.default_rng(0))


def test_facts_are_cut_right_before_they_are_known() -> None:
    """All kinds take turns: a rare one is tried as well as one that comes every hour."""
    bars, facts = data.with_facts(400, 4)
    cuts = choose_fact_cuts(bars, facts, 6, np.random.default_rng(0))
    moments = axis(bars)
    following = {cut: int(moments[moments.searchsorted(cut, side="right")]) for cut in cuts}
    kinds = {fact.name for fact in facts.records for cut in cuts if cut < to_micros(fact.known_time) <= following[cut]}
    assert kinds == {"news", "eps"}
    assert len(cuts) == 6


# -- what is said ---------------------------------------------------------------------------------------------------


def test_a_finding_says_who_when_how_and_what_it_likely_is() -> None:
    """The first decision that changed, its bar and time, the cut, the way, both decisions, and a hint."""
    found = audit(tomorrow, MARKET)
    (finding,) = found.findings
    assert (finding.kind, finding.who, finding.what, finding.symbol) == ("future", "make", "position", "SIM")
    assert finding.time == finding.cut  # a look one bar ahead shows at the cut itself
    assert finding.bar is not None
    assert finding.time == from_micros(int(data.only(MARKET).ends[finding.bar]))
    assert {finding.before, finding.after} == {"0", "1"}
    assert "a look 1 or more bars ahead" in finding.hint
    assert finding.seen > 5
    assert not found.clean
    assert "it looks ahead" in str(found)
    with pytest.raises(LookaheadError, match="1 finding"):
        found.check()


def test_a_clean_strategy_is_clean_and_says_how_much_was_compared() -> None:
    """Eight cuts, five ways; the decisions that there were, and all values that were compared."""
    found = audit(today, MARKET)
    assert found.clean
    found.check()
    assert len(found.cuts) == 8
    assert found.ways == WAYS
    assert found.decided > 50
    assert found.compared > 40 * 32
    assert f"{found.decided:,} decisions" in str(found)


def test_nothing_decided_is_no_pass() -> None:
    """Nothing was compared that could have changed, so nothing is known."""
    found = audit(never, MARKET)
    assert not found.findings
    assert not found.tested
    assert not found.clean
    assert str(found).startswith("NOT TESTED")
    with pytest.raises(LookaheadError, match="NOT TESTED"):
        found.check()


def test_what_was_not_compared_is_told() -> None:
    """A factory that raises on most other data was not tested; the error is in the notes."""

    def picky(bars: Bars) -> Any:
        if len(data.only(bars)) == 160 and bars.fingerprint != MARKET.fingerprint:
            raise RuntimeError("these are not my bars")
        return today(bars)

    found = audit(picky, MARKET, cuts=6)
    assert found.failed > found.runs / 2
    assert found.compared > 100  # where the future was cut off it went well
    assert not found.clean
    assert any("RuntimeError: these are not my bars" in text for text in found.warnings)


def test_an_error_on_the_data_as_they_are_is_the_callers() -> None:
    """It is raised as it is, not turned into a finding."""

    def broken(bars: Bars) -> Any:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(ZeroDivisionError, match="by nothing"):
        audit(broken, MARKET)


def test_the_same_audit_says_the_same() -> None:
    """To the last letter; another seed cuts elsewhere."""
    assert str(audit(tomorrow, MARKET, seed=5)) == str(audit(tomorrow, MARKET, seed=5))
    assert audit(tomorrow, MARKET, seed=5).cuts != audit(tomorrow, MARKET, seed=6).cuts


def test_chance_is_told_as_chance_and_as_nothing_else() -> None:
    """What differs with the same data would differ in every run, and tell nothing of the future."""

    def dice(bars: Bars) -> Any:
        return np.random.default_rng().integers(0, 2, len(data.only(bars)))

    found = audit(dice, MARKET)
    assert [finding.kind for finding in found.findings] == ["chance"]
    assert "it looks ahead" not in str(found)


def test_progress_ends_at_all_runs() -> None:
    """It is told after each run, and never more than there are."""
    seen: list[tuple[int, int]] = []
    found = audit(today, MARKET, cuts=4, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, found.runs + 1))
    assert all(done <= total for done, total in seen)


def test_it_can_be_written_as_json() -> None:
    """Times as text, findings as objects."""
    written = json.loads(json.dumps(audit(tomorrow, MARKET).to_json()))
    assert written["clean"] is False
    assert written["findings"][0]["what"] == "position"
    assert written["findings"][0]["time"].endswith("+00:00")


def test_hints_tell_a_window_from_a_fit_and_from_the_end() -> None:
    """By how far back a change reaches, and which ways show it."""

    def scaled(bars: Bars) -> Any:
        close = data.only(bars).close
        return np.round((close - close.mean()) / close.std(), 2)

    def length(bars: Bars) -> Any:
        return today(bars) / len(data.only(bars))

    def wraps(bars: Bars) -> Any:
        close = data.only(bars).close
        return above(close, np.roll(close, 1))

    def noisy(bars: Bars) -> Any:
        return today(bars) * (1 + 1e-13 * data.only(bars).close.mean())

    def volume(bars: Bars) -> Any:
        v = data.only(bars).volume
        return above(np.append(v[1:], v[-1]), v)

    told = {each.__name__: audit(each, MARKET).findings[0].hint for each in (scaled, length, wraps, noisy, volume)}
    assert "computed over the whole data" in told["scaled"]
    assert "the end of the data" in told["length"]
    assert "wraps round" in told["wraps"]
    assert "rounding" in told["noisy"]
    assert "the volume of later bars is enough" in told["volume"]


def test_arithmetic_of_other_futures_makes_no_noise() -> None:
    """A formula that divides by zero on invented prices warns nobody; on the real ones it does."""

    def touchy(bars: Bars) -> Any:
        close = data.only(bars).close
        if close[-1] != data.only(MARKET).close[-1]:
            warnings.warn("overflow", RuntimeWarning, stacklevel=2)
        return today(bars)

    assert audit(touchy, MARKET, cuts=2).clean


# -- forms ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_audited_is_refused_in_words() -> None:
    """Each with what was given and what would do."""
    two = data.several(60)
    cases: list[tuple[Any, Bars, str]] = [
        (lambda bars: np.zeros(3), MARKET, "3 values for 160 bars of SIM"),
        (lambda bars: 7, MARKET, "give a Strategy"),
        (lambda bars: {"XXX": np.zeros(160)}, MARKET, "of which there are no bars"),
        (lambda bars: {"XXX": SmaCross()}, MARKET, "of which there are no bars"),
        (lambda bars: np.zeros(60), two, "a mapping by symbol"),
        (today, data.market(12), "at least 20 moments"),
        (lambda bars: desk(ScriptedLLM([])), MARKET, "would ask language models"),
    ]
    for make, bars, words in cases:
        with pytest.raises(ConfigError, match=words):
            audit(make, bars)
    for made in (SmaCross(), [Rule(lambda context: True), yes]):
        with pytest.raises(ConfigError, match='at="open"'):
            audit(lambda bars, made=made: made, MARKET, at="open")


def test_rows_may_be_series_frames_words_and_truth_values() -> None:
    """Whatever holds one thing per bar; words are compared as they are."""
    two = data.several(120)

    def series(bars: Bars) -> Any:
        return data.frame(bars)["close"].diff() > 0

    def words(bars: Bars) -> Any:
        return ["long" if up else None for up in series(bars)]

    def ahead(bars: Bars) -> Any:
        return pd.DataFrame({symbol: data.closes(bars)[symbol].diff(-1) for symbol in ("AAA", "BBB")})

    assert audit(series, MARKET, cuts=3).clean
    assert audit(words, MARKET, cuts=3).clean
    found = audit(ahead, two, cuts=3)
    assert [finding.symbol for finding in found.findings] == ["AAA", "BBB"]


def test_shipped_strategies_and_the_desk_are_clean() -> None:
    """Over arrays, bar by bar, and in a fund."""
    bars = data.market(400, 2)
    for strategy in (SmaCross, RsiReversion, DonchianBreakout):
        assert audit(lambda bars, kind=strategy: kind(), bars, cuts=4).clean
    found = audit(lambda bars: desk(), data.market(800, 4), cuts=1, fresh=False)
    assert not found.findings


def test_a_fund_is_run_no_further_than_the_cut() -> None:
    """What comes after it is compared with nothing, so nobody is asked about it."""
    seen: list[list[int]] = []

    def make(bars: Bars) -> Any:
        mine: list[int] = []
        seen.append(mine)

        def wants(context: Any) -> bool:
            mine.append(to_micros(context.now))
            return bool(context.bars.price > context.bars.close.mean())

        return [Rule(wants), yes]

    found = audit(make, data.market(60, 8), cuts=3, fresh=False)
    assert found.clean
    ends = [mine[-1] for mine in seen]
    last = int(axis(data.market(60, 8))[-1])
    assert ends.count(last) == 3  # as it is, again, and on other prices altogether
    assert {from_micros(end) for end in ends} >= set(found.cuts)


def test_language_models_are_asked_only_when_that_is_meant() -> None:
    """With `ask=True`; the script answers the same question in the same way."""

    class Trader(Agent[Proposal]):
        """Proposes what a language model says."""

        instructions = "Propose a trade."
        sees_portfolio = False

    def answer(prompt: Any) -> Proposal:
        return Proposal(direction=Direction.LONG if len(str(prompt.inputs)) % 2 else Direction.FLAT)

    def make(bars: Bars) -> Any:
        return Orchestrator([Trader(ScriptedLLM(answer)), yes], bus=MemoryBus())

    assert not audit(make, data.market(40, 2), cuts=2, ask=True, fresh=False).findings


def test_facts_reach_a_factory_by_name_by_place_or_with_the_bars() -> None:
    """A second parameter with a default of its own is left alone."""
    bars, facts = data.with_facts(160, 4)
    seen: list[Any] = []

    def by_name(bars: Bars, *, facts: Facts) -> Any:
        seen.append(facts)
        return today(bars)

    def by_place(bars: Bars, known: Facts) -> Any:
        seen.append(known)
        return today(bars)

    def with_bars(bars: Bars, window: int = 3) -> Any:
        assert window == 3
        seen.append(bars.facts)
        return today(bars)

    for make in (by_name, by_place, with_bars):
        seen.clear()
        audit(make, bars, facts=facts, cuts=2)
        assert any(each is facts for each in seen)
        assert any(len(each) < len(facts) for each in seen)


def test_facts_of_words_are_changed_too() -> None:
    """Text from outside stays text from outside."""
    bars, _ = data.with_facts(160, 4)
    ends = data.only(bars).ends
    records = [
        Fact("headline", from_micros(int(at)), from_micros(int(at)) + timedelta(hours=2), {"title": "good", "score": 1.0})  # type: ignore[dict-item]
        for at in ends[::9]
    ]
    facts = Facts(records)

    def make(bars: Bars, facts: Facts) -> Any:
        good = {to_micros(fact.event_time) for fact in facts.records if _title(fact) == "good"}
        return np.array([float(int(end) in good) for end in data.only(bars).ends])

    (finding,) = audit(make, bars, facts=facts, cuts=4).findings
    assert finding.kind == "facts"


def _title(fact: Fact) -> str:
    assert isinstance(fact.value, dict) or hasattr(fact.value, "__getitem__")
    title = fact.value["title"]
    assert isinstance(title, Untrusted)
    return title.text


# -- strategies that the array lane is to trust ---------------------------------------------------------------------


def test_causal_names_the_indicator_and_the_bar() -> None:
    """A look ahead in an indicator is told with its name, its parameters and the first bar that shows it."""
    columns = data.only(data.market())
    for indicator in (Ahead(), Centred(), Standing()):
        with pytest.raises(
            LookaheadError, match=rf"the indicator 'line' \({type(indicator).__name__}\(\)\) looks ahead: at bar \d+"
        ):
            causal(Uses(indicator), columns)


def test_causal_names_the_condition_and_the_bar() -> None:
    """A condition that is shifted, and one that measures all bars; no bar needs to be cut for either."""
    columns = data.only(data.market())
    for strategy in (Rolled(5, 20), Averaged(5, 20)):
        with pytest.raises(LookaheadError, match=r"enter\(now\) looks at other bars than its own: at bar \d+"):
            causal(strategy, columns)


class Lagged(SmaCross):
    """A condition that looks at the bar before: no look ahead, but bar by bar there is no such bar in it."""

    def enter(self, now: Any) -> Any:
        return np.append(np.nan, now.close[:-1]) < now.close


def test_causal_refuses_a_condition_that_looks_back() -> None:
    """It is not elementwise, so over whole arrays it is another rule than bar by bar."""
    with pytest.raises(LookaheadError, match="looks at other bars than its own"):
        causal(Lagged(5, 20), data.only(data.market()))


def test_causal_lets_honest_strategies_pass() -> None:
    """The shipped ones, and random compositions of all indicators; on a single bar, too."""
    columns = data.only(data.market())
    for strategy in (SmaCross(), RsiReversion(), DonchianBreakout(), *map(Composed, range(40))):
        causal(strategy, columns)
        causal(strategy, columns, bars=50)
        causal(strategy, data.part(columns, 1))


class Late(Ahead):
    """One bar late where whole arrays are given: no look ahead, and yet another rule."""

    def batch(self, columns: Any, compiled: bool | None = None) -> Any:
        return np.append(columns.close[:1], columns.close[:-1])


def test_an_indicator_that_is_two_rules_is_found() -> None:
    """Over whole arrays it says something else than bar by bar, so one of the two lanes would lie."""
    found = audit(lambda bars: Uses(Late()), MARKET, cuts=2)
    assert {finding.kind for finding in found.findings} == {"lanes"}
    assert "bar by bar" in found.findings[0].way
    assert "batch() is not what its update() says" in found.findings[0].hint


def test_a_condition_that_only_arrays_understand_is_found() -> None:
    """Bar by bar it raises, so a fund would never act on it."""

    class Lowest(SmaCross):
        def enter(self, now: Any) -> Any:
            return now.close < now.close.min() * 1.01

    found = audit(lambda bars: Lowest(3, 9), MARKET, cuts=3)
    assert {"future", "lanes"} <= {finding.kind for finding in found.findings}
    assert any("AttributeError" in finding.after for finding in found.findings if finding.kind == "lanes")


# -- a run that nothing came before ---------------------------------------------------------------------------------


@pytest.mark.skipif(not POSSIBLE, reason="a process cannot copy itself here")
def test_a_copy_of_the_process_leaves_nothing_behind() -> None:
    """What it changes stays in it; what it returns comes back; what it raises is told."""
    kept: list[int] = []
    assert Fresh(lambda: kept.append(1) or len(kept)).result() == 1  # type: ignore[func-returns-value]
    assert kept == []
    assert Fresh(lambda: np.arange(500_000)).result().sum() == 124_999_750_000

    def broken() -> None:
        raise ValueError("no")

    with pytest.raises(Lost, match="ValueError: no"):
        Fresh(broken).result()


def test_without_copies_the_audit_says_what_it_could_not_test() -> None:
    """As on systems where a process cannot copy itself."""
    found = audit(today, MARKET, cuts=2, fresh=False)
    assert found.clean
    assert any("leaves in memory" in text for text in found.warnings)


def test_instruments_whose_times_are_a_bar_apart_are_noticed() -> None:
    """Labels that are ends where starts are meant show where there is another instrument; a warning, not a finding."""
    one = data.only(data.market(200, 3))
    late = data.part(one, 200)
    shifted = {name: np.append(getattr(one, name)[:1], getattr(one, name)[:-1]) for name in FIELDS}
    late = type(one)(type(one.instrument)("LATE"), one.interval, one.start, **shifted)
    pair = Bars({"SIM": one, "LATE": late}, source="made for a test")
    (told,) = ahead_of_each_other(pair)
    assert told.startswith("SIM moves one bar before LATE")
    assert ahead_of_each_other(data.several(200)) == []


def test_a_calendar_is_clean_and_noted() -> None:
    """It decides the same on other prices and fits these no better than chance."""

    def mondays(bars: Bars) -> Any:
        return np.array([float(from_micros(int(end)).weekday() == 0) for end in data.only(bars).ends])

    found = audit(mondays, data.market())
    assert found.clean
    assert any("decides the same on other prices" in text for text in found.warnings)


# -- the command ----------------------------------------------------------------------------------------------------


def test_the_command_loads_names_modules_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped names, names that it is given, module:name, file.py:name; classes are made anew each time."""
    code = (
        "from agentfund.strategies import SmaCross\n"
        "class Mine(SmaCross):\n    'Mine.'\n"
        "def make(bars):\n    return Mine(3, 9)\n"
        "one = Mine(4, 8)\n"
    )
    (tmp_path / "mine_of_a_test.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)] + [part for part in __import__("sys").path if part])
    bars = data.market(60)
    assert isinstance(load("sma")(bars), SmaCross)
    assert load("other", {"other": lambda bars: 5})(bars) == 5
    for what in ("mine_of_a_test:make", "mine_of_a_test.py:make", f"{tmp_path}/mine_of_a_test.py:make"):
        assert load(what)(bars).fast == 3
    assert load("mine_of_a_test:Mine")(bars) is not load("mine_of_a_test:Mine")(bars)
    assert load("mine_of_a_test:one")(bars).fast == 4
    assert set(load("mine_of_a_test:Mine")(data.several(60))) == set(data.SYMBOLS)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("smaa", "names no factory: give sma, rsi, donchian"),
        ("no_such_module:make", "no module 'no_such_module'"),
        ("no/such/file.py:make", "no file no/such/file.py"),
        ("good.py:mak", "has no 'mak'; it has make"),
        ("good.py:number", "is a int and cannot be called"),
        ("good.py:fund", "made already"),
        ("bad.py:make", "bad.py cannot be run: SyntaxError"),
        ("needs.py:make", "needs.py cannot be run: ModuleNotFoundError"),
    ],
)
def test_what_the_command_cannot_load_is_explained(
    what: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence each, with what there is."""
    fund = "from agentfund import MemoryBus, Orchestrator\nfrom agentfund.specialists import desk\n"
    fund += "fund = Orchestrator(desk(), bus=MemoryBus())\n"
    (tmp_path / "good.py").write_text(fund + "number = 1\ndef make(bars):\n    return []\n", encoding="utf-8")
    (tmp_path / "bad.py").write_text("def make(:\n", encoding="utf-8")
    (tmp_path / "needs.py").write_text("import no_such_package_at_all\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    with pytest.raises(ConfigError, match=words):
        load(what)


def test_the_command_says_what_was_audited_and_ends_with_a_code() -> None:
    """0 where something was tested and nothing found."""
    clean, leaky, empty = (audit(make, MARKET, cuts=2) for make in (today, tomorrow, never))
    assert [exit_code(each) for each in (clean, leaky, empty)] == [0, 1, 1]
    assert told(clean, "mine:make", MARKET).startswith("mine:make on 160 bars of SIM\nclean")
    assert isinstance(clean, Audit)
