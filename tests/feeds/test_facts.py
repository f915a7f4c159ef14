"""What may be known when: two times for each fact, and views that end now."""

from __future__ import annotations

import asyncio
import gzip
import pickle
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Abstain, Backtest, Direction, Proposal, agent
from agentfund.errors import BadData, ConfigError, FeedError, LookaheadError
from agentfund.feeds import Bars, Fact, Facts, SimulatedMarket
from agentfund.prompt import Untrusted
from tests import market as made

DAY = timedelta(days=1)
T0 = datetime(2024, 3, 1, tzinfo=UTC)


def fact(event: float, known: float, value: Any = 1.0, **more: Any) -> Fact:
    """A fact about so many days after the first of March, known so many days after it."""
    more.setdefault("name", "eps")
    return Fact(event_time=T0 + event * DAY, known_time=T0 + known * DAY, value=value, **more)


drawn = st.lists(
    st.builds(
        lambda name, symbol, event, delay, value, forecast: fact(
            event, event + (-delay if forecast else delay), value, name=name, symbol=symbol, forecast=forecast
        ),
        st.sampled_from(["eps", "cpi"]),
        st.sampled_from(["", "X"]),
        st.integers(0, 6),
        st.integers(0, 5),
        st.floats(-5, 5),
        st.booleans(),
    ),
    max_size=25,
    unique_by=lambda one: (one.key, one.known_time),
)


@given(drawn, st.integers(-7, 14), st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_view_is_what_a_plain_search_finds(records: list[Fact], day: int, forecasts: bool) -> None:
    """Latest, series, revisions and what is new are those of a look at every record."""
    facts, now = Facts(records), T0 + day * DAY
    view = facts.at(now)
    known = [one for one in facts.records if one.known_time <= now]
    assert list(view) == known
    assert len(view) == len(known)
    for name in ("eps", "cpi"):
        for symbol in ("", "X"):
            mine = [one for one in known if (one.name, one.symbol) == (name, symbol) and (forecasts or not one.forecast)]
            newest = {one.event_time: one for one in mine}
            expected = tuple(newest[event] for event in sorted(newest))
            assert view.series(name, symbol, forecasts=forecasts) == expected
            assert view.latest(name, symbol, forecasts=forecasts) == (expected[-1] if expected else None)
            for event in {one.event_time for one in records}:
                versions = [o for o in known if o.key == (name, symbol, event, "")]
                assert list(view.revisions(name, symbol, event_time=event)) == versions
                assert [o.revision for o in versions] == list(range(len(versions)))
    since = now - 2 * DAY
    assert list(view.since(since, symbol="X")) == [o for o in known if o.known_time > since and o.symbol == "X"]


@given(drawn, drawn, st.integers(0, 9))
@settings(deadline=None, max_examples=100)
def test_what_becomes_known_later_changes_nothing_before(one: list[Fact], other: list[Fact], day: int) -> None:
    """Two records of the world that agree up to a moment show the same up to it, whatever follows."""
    now = T0 + day * DAY
    later = [each for each in other if each.known_time > now]
    taken = {(each.key, each.known_time) for each in later}
    first = Facts(each for each in one if (each.key, each.known_time) not in taken)
    second = Facts([*first.until(now), *later]) if not _clash(first.until(now), later) else first
    for moment in (now, now - DAY, now - 3 * DAY):
        assert list(first.at(moment)) == list(second.at(moment))
        for name in ("eps", "cpi"):
            assert first.at(moment).series(name, "X") == second.at(moment).series(name, "X")
            assert first.at(moment).latest(name, "X", forecasts=True) == second.at(moment).latest(name, "X", forecasts=True)


def _clash(known: Facts, later: list[Fact]) -> bool:
    return bool({each.key for each in known if each.revision} & {each.key for each in later})


def test_a_revision_is_seen_from_the_moment_at_which_it_is_known() -> None:
    """First the number that was published, then the one that it was corrected to."""
    facts = Facts([fact(0, 30, 1.0), fact(0, 60, 0.7), fact(31, 61, 2.0)])
    assert facts.at(T0 + 29 * DAY).latest("eps") is None
    for day, value, revision in ((30, 1.0, 0), (59, 1.0, 0), (60, 0.7, 1), (61, 2.0, 0)):
        latest = facts.at(T0 + day * DAY).latest("eps")
        assert latest is not None
        assert (latest.value, latest.revision) == (value, revision)
    assert [one.value for one in facts.at(T0 + 61 * DAY).series("eps")] == [0.7, 2.0]
    assert [one.value for one in facts.at(T0 + 61 * DAY).revisions("eps", event_time=T0)] == [1.0, 0.7]


def test_a_view_can_go_back_and_never_forward() -> None:
    """`as_of` shows an earlier state of knowledge; a later one is refused, by a microsecond too."""
    view = Facts([fact(0, 1), fact(2, 3)]).at(T0 + 2 * DAY)
    assert len(view) == 1
    assert len(view.as_of(T0)) == 0
    assert len(view.as_of(view.now)) == 1
    with pytest.raises(LookaheadError, match="lies after now"):
        view.as_of(view.now + timedelta(microseconds=1))
    with pytest.raises(LookaheadError):
        view.as_of(T0).as_of(T0 + DAY)


def test_a_view_offers_no_public_way_to_the_rest() -> None:
    """Nothing that can be reached from a view without a look behind an underscore holds a later fact."""
    late = fact(5, 6, 42.0, symbol="X")
    view = Facts([fact(0, 1, symbol="X"), late]).at(T0 + 2 * DAY)
    for name in dir(view):
        if name.startswith("_"):
            continue
        found = getattr(view, name)
        if callable(found):
            continue
        assert not isinstance(found, Facts), name
        assert late not in (found if isinstance(found, tuple) else (found,)), name
    assert late not in view
    assert late not in view.since(T0 - 100 * DAY)
    assert "42" not in repr(view)
    with pytest.raises(TypeError):
        vars(view)


def test_forecasts_are_apart_from_what_happened() -> None:
    """What was said beforehand is asked for by name; what happened then takes its place."""
    facts = Facts([fact(10, 1, 5.0, forecast=True), fact(0, 2, 3.0), fact(10, 12, 6.0)])
    early, late = facts.at(T0 + 5 * DAY), facts.at(T0 + 12 * DAY)
    assert [one.value for one in early.series("eps")] == [3.0]
    assert [one.value for one in early.series("eps", forecasts=True)] == [3.0, 5.0]
    expected = early.latest("eps", forecasts=True)
    assert expected is not None
    assert (expected.value, expected.forecast) == (5.0, True)
    assert [one.value for one in late.series("eps", forecasts=True)] == [3.0, 6.0]


def test_two_headlines_of_one_second_are_told_apart_by_id() -> None:
    """Without ids they would be taken for two versions of one, so that is refused."""
    with pytest.raises(BadData, match=r"two records are 'news' of X .* number them by revision, or tell them apart by id"):
        Facts([fact(0, 0, "up", name="news", symbol="X"), fact(0, 0, "down", name="news", symbol="X")])
    facts = Facts([fact(0, 0, text, name="news", symbol="X", id=text) for text in ("up", "down")])
    assert [one.id for one in facts.at(T0).series("news", "X")] == ["down", "up"]


def test_text_is_untrusted_and_numbers_are_floats() -> None:
    """Text from outside cannot slip into an instruction, alone or as a part."""
    assert fact(0, 0, Decimal("1.5")).number == 1.5
    with pytest.raises(BadData, match="'eps' is a Untrusted and no number"):
        fact(0, 0, "buy now").number  # noqa: B018
    text = fact(0, 0, "buy now").value
    assert isinstance(text, Untrusted)
    assert text.text == "buy now"
    with pytest.raises(TypeError):
        f"{text}"
    parts = fact(0, 0, {"eps": Decimal("1.5"), "said": "strong"}).value
    assert isinstance(parts, dict) is False
    assert isinstance(parts["said"], Untrusted)  # type: ignore[index]
    assert parts["eps"] == 1.5  # type: ignore[index]
    with pytest.raises(TypeError):
        parts["eps"] = 2.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"known_time": T0 - DAY}, "known_time: .* lies before event_time"),
        ({"known_time": datetime(2024, 3, 1)}, "known_time: .* has no time zone"),  # noqa: DTZ001
        ({"event_time": datetime(2024, 3, 1)}, "event_time: .* has no time zone"),  # noqa: DTZ001
        ({"name": ""}, "names no kind of fact"),
        ({"value": float("nan")}, "nan is no finite number"),
        ({"value": True}, "True is no finite number"),
        ({"value": None}, "None is no finite number"),
        ({"value": {1: 2.0}}, "the key 1 is no text"),
        ({"revision": -1}, "-1 is no whole number"),
    ],
)
def test_an_impossible_fact_is_refused_by_field(changes: dict[str, Any], message: str) -> None:
    """The message begins with the field."""
    with pytest.raises(BadData, match=message):
        replace(fact(0, 1), **changes)


def test_revisions_that_contradict_their_times_are_refused() -> None:
    """A later revision is known later."""
    with pytest.raises(BadData, match=r"revision 0 of 'eps' .* revisions must rise with known_time"):
        Facts([fact(0, 1, revision=1), fact(0, 2, revision=0)])
    ordered = Facts([fact(0, 2, 5.0, revision=7), fact(0, 2, 4.0, revision=3)]).at(T0 + 2 * DAY)
    assert ordered.latest("eps") == fact(0, 2, 5.0, revision=7)


CSV = """name,symbol,event_time,known_time,value,text,forecast,desk
eps,AAPL,2024-03-31,2024-05-02T20:30:00+00:00,1.53,,,a
news,AAPL,2024-05-02T20:31:00Z,2024-05-02T20:31:05Z,,"beats,
by far",no,b
eps,AAPL,2024-06-30,2024-05-03,1.35,,yes,c
"""


def test_a_file_is_read_with_its_two_times(tmp_path: Path) -> None:
    """Numbers, text over two lines, forecasts; a known day counts from its end, where its zone says it is."""
    for name, data in (("facts.csv", CSV.encode()), ("facts.csv.gz", gzip.compress(CSV.encode()))):
        (tmp_path / name).write_bytes(data)
        facts = Facts.from_csv(tmp_path / name, tz="America/New_York")
        assert (len(facts), facts.source, facts.warnings, facts.names) == (3, name, (), ("eps", "news"))
        eps, news, forecast = facts.records
        assert (eps.value, eps.event_time) == (1.53, datetime(2024, 3, 31, 4, tzinfo=UTC))
        assert isinstance(news.value, Untrusted)
        assert (news.value.text, news.value.source) == ("beats,\nby far", name)
        assert forecast.known_time == datetime(2024, 5, 4, 4, tzinfo=UTC)
        assert forecast.forecast


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("eps,X,2024-03-31,2024-05-02T20:30:00,1", "f.csv, row 3, event_time: '2024-03-31' has no time zone; .* tz='UTC'"),
        ("eps,X,2024-03-31T00:00Z,2024-05-02T20:30:00,1", "f.csv, row 3, known_time: .* has no time zone"),
        ("eps,X,2024-03-31T00:00Z,2024-02-02T20:30:00Z,1", "f.csv, row 3, known_time: .* lies before event_time"),
        ("eps,X,2024-03-31T00:00Z,,1", "f.csv, row 3, known_time: it is empty or missing; a fact counts from"),
        (",X,2024-03-31T00:00Z,2024-05-02T00:00Z,1", "f.csv, row 3, name: it is empty"),
        ("eps,X,31.3.2024,2024-05-02T00:00Z,1", "f.csv, row 3, event_time: '31.3.2024' is no time"),
        ("eps,X,2024-03-31T00:00Z,2024-05-02T00:00Z,", "f.csv, row 3, value: give a number as value or words as text"),
        ("eps,X,2024-03-31T00:00Z,2024-05-02T00:00Z,n/a", "f.csv, row 3, value: 'n/a' is no number"),
        ("eps,X,2024-03-31T00:00Z,2024-05-02T00:00Z,nan", "f.csv, row 3, value: nan is no finite number"),
        ("eps,X,2024-03-31T00:00Z,2024-05-02T00:00Z", "f.csv, row 3: there are 4 values where the header has 5 names"),
        ('eps,X,2024-03-31T00:00Z,2024-05-02T00:00Z,"1', "f.csv, row 3: it cannot be read as comma-separated text"),
        ("cpi,,2024-03-01T00:00Z,2024-03-05T00:00Z,2", "two records are 'cpi' of no symbol"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    """File, row, field and the fix."""
    path = tmp_path / "f.csv"
    path.write_text(f"name,symbol,event_time,known_time,value\ncpi,,2024-03-01T00:00Z,2024-03-05T00:00Z,1\n{row}\n")
    with pytest.raises(BadData, match=message):
        Facts.from_csv(path)


def test_a_file_without_the_second_time_is_refused(tmp_path: Path) -> None:
    """When it became known is not to be guessed."""
    path = tmp_path / "f.csv"
    path.write_text("event_time,value\n2024-03-31T00:00Z,1\n")
    with pytest.raises(BadData, match="known_time: it is empty or missing"):
        Facts.from_csv(path, name="eps")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadData, match="no column is one of name, symbol"):
        Facts.from_csv(path)
    with pytest.raises(BadData, match="there is no such file"):
        Facts.from_csv(tmp_path / "none.csv")


def test_names_and_columns_can_be_said(tmp_path: Path) -> None:
    """A file of one kind and instrument with columns of its own names."""
    path = tmp_path / "f.csv"
    path.write_text("period,released,actual\n2024-03-31T00:00Z,2024-05-02T20:30Z,1.5\n")
    columns = {"event_time": "period", "known_time": "released", "value": "actual"}
    (one,) = Facts.from_csv(path, name="eps", symbol="X", columns=columns)
    assert (one.name, one.symbol, one.value) == ("eps", "X", 1.5)
    with pytest.raises(BadData, match="columns= says that value is 'nothing'"):
        Facts.from_csv(path, columns={"value": "nothing"})
    with pytest.raises(ConfigError, match="columns= names price; it can name name"):
        Facts.from_csv(path, columns={"price": "actual"})
    with pytest.raises(ConfigError, match="has a column name; leave name= out"):
        Facts.from_csv(path, name="eps", columns={**columns, "name": "period"})
    with pytest.raises(ConfigError, match="tz='Mars' is no time zone"):
        Facts.from_csv(path, tz="Mars")


def test_times_that_clocks_skip_or_repeat_are_refused() -> None:
    """There is no such moment, or there are two."""
    for text in ("2024-03-10T02:30", "2024-11-03T01:30"):
        row = {"name": "eps", "event_time": "2024-01-01", "known_time": text, "value": 1}
        with pytest.raises(BadData, match=r"record 0, known_time: .* occurs twice or never in America/New_York"):
            Facts.from_records([row], tz="America/New_York")


def test_records_are_mappings_or_facts() -> None:
    """Both, mixed; a key that is no field is named."""
    row = {"name": "eps", "event_time": date(2024, 3, 1), "known_time": T0 + DAY, "value": {"q": 1, "said": "x"}}
    facts = Facts.from_records([row, fact(3, 4)], tz="UTC", source="two")
    assert [one.event_time for one in facts] == [T0, T0 + 3 * DAY]
    with pytest.raises(BadData, match="two, record 1: know_time is no field"):
        Facts.from_records([fact(0, 0), {"know_time": 1}], source="two")
    with pytest.raises(BadData, match="record 0: it is a int"):
        Facts.from_records([3])  # type: ignore[list-item]


def test_a_frame_is_read_and_days_in_disguise_are_told_of() -> None:
    """A column of days parsed as midnights would show every fact up to a day too early."""
    frame = pd.DataFrame(
        {
            "event_time": pd.to_datetime(["2024-03-31", "2024-06-30"]).tz_localize("UTC"),
            "known_time": pd.to_datetime(["2024-05-02 20:30", "2024-08-01 20:30"]).tz_localize("UTC"),
            "value": [1.5, 1.4],
        }
    )
    facts = Facts.from_frame(frame, name="eps", symbol="X")
    assert [one.value for one in facts] == [1.5, 1.4]
    assert facts.warnings == ()
    indexed = Facts.from_frame(frame.set_index("event_time"), name="eps", symbol="X")
    assert indexed.fingerprint == facts.fingerprint
    days = frame.assign(known_time=frame["known_time"].dt.normalize())
    told = Facts.from_frame(days, name="eps", symbol="X").warnings
    assert len(told) == 1
    assert "every known_time is midnight" in told[0]
    with pytest.raises(BadData, match="DataFrame, iloc 1, known_time: it is empty or missing"):
        Facts.from_frame(frame.assign(known_time=frame["known_time"].shift(-1)), name="eps")
    with pytest.raises(BadData, match=r"DataFrame, iloc 0, event_time: .* has no time zone"):
        Facts.from_frame(frame.assign(event_time=frame["event_time"].dt.tz_localize(None)), name="eps")


def test_the_same_facts_have_the_same_fingerprint() -> None:
    """The order of the records does not count; any field does."""
    one, other = fact(0, 1, {"a": 1.0, "b": "x"}, symbol="X"), fact(2, 3)
    base = Facts([one, other]).fingerprint
    assert Facts([other, one]).fingerprint == base
    for changes in ({"value": 2.0}, {"symbol": "Y"}, {"id": "1"}, {"known_time": T0 + 5 * DAY}, {"name": "n"}, {"revision": 1}):
        assert Facts([replace(one, **changes), other]).fingerprint != base


def moments(feed: Bars) -> list[Any]:
    """All moments of a feed."""

    async def collect() -> list[Any]:
        return [market async for market in feed.stream()]

    return asyncio.run(collect())


def test_the_market_shows_what_was_known_at_its_moment() -> None:
    """Each moment has its view, in streams of one instrument and of several, and after cutting."""
    bars = made.bars(made.wave(8))
    at = [market.now for market in moments(bars)]
    facts = Facts([Fact("n", moment, moment, float(i)) for i, moment in enumerate(at)])
    two = Bars({**bars.columns, **made.bars(made.wave(8), symbol="B").columns}, source="x", facts=facts)
    for feed in (bars.with_facts(facts), two, two.between(at[1], at[6]), two.tail(3)):
        for market in moments(feed):
            latest = market.facts.latest("n")
            assert latest.value == float(at.index(market.now))
            assert market.facts.now == market.now
            assert len(market.facts) == at.index(market.now) + 1
    with pytest.raises(FeedError, match="this feed has no facts beside its bars"):
        moments(bars)[0].facts  # noqa: B018


def test_facts_are_part_of_the_data() -> None:
    """Their fingerprint is in the feed's, their warnings are the feed's, and the bars are shared."""
    bars = made.bars(made.wave(8))
    facts = Facts([fact(0, 1)], warnings=("told",))
    feed = bars.with_facts(facts)
    assert bars.facts is None
    assert feed.facts is facts
    assert feed.columns is bars.columns
    assert feed.warnings == (*bars.warnings, "told")
    assert len({bars.fingerprint, feed.fingerprint, bars.with_facts(Facts([])).fingerprint}) == 3
    assert feed.with_facts(None).fingerprint == bars.fingerprint


def test_a_simulated_market_stays_one_with_facts() -> None:
    """What a feed is does not change with what is known beside it."""
    market = SimulatedMarket(bars=20)
    assert market.with_facts(Facts([])).simulated
    assert market.with_facts(Facts([])).regimes == market.regimes


def test_an_agent_reads_facts_and_never_later_ones() -> None:
    """An agent that trades on a release does so at the first close at which it is known."""
    bars = made.bars(made.wave(30))
    at = [market.now for market in moments(bars)]
    release = Fact("surprise", at[2], at[10] + timedelta(minutes=1), 1.0, symbol="SIM")
    seen: list[tuple[datetime, bool]] = []

    @agent
    def reader(context: Any) -> Proposal | Abstain:
        """Buy on the release."""
        latest = context.market.facts.latest("surprise", "SIM")
        seen.append((context.now, latest is not None))
        return Abstain("nothing new") if latest is None else Proposal(direction=Direction.LONG)

    report = Backtest(made.fund(reader, made.yes), bars.with_facts(Facts([release])), made.broker()).run()
    assert seen == [(moment, moment > at[10]) for moment in at]
    assert report.log.decisions[0].time == at[11]


def test_facts_survive_a_copy_to_another_process() -> None:
    """Numbers, text and mappings go through pickle."""
    facts = Facts([fact(0, 1, 2.0), fact(0, 1, {"a": 1.0, "b": "said"}, name="news")])
    again = pickle.loads(pickle.dumps(facts))
    assert again.fingerprint == facts.fingerprint
    assert list(again.at(T0 + DAY)) == list(facts)
