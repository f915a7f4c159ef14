"""Leaks in what is read besides bars."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from agentfund.feeds import Bars
from agentfund.feeds.facts import Facts
from tests.backtest.audits.leaks import data
from tests.backtest.audits.leaks.data import frame
from tests.backtest.audits.leaks.planted import LEAKS, TWINS
from tests.backtest.audits.leaks.series import above


def _series(facts: Facts, name: str, time: str, *, last: bool = False) -> Any:
    found = [fact for fact in facts.records if fact.name == name and (last or not fact.revision)]
    if last:
        found = list({fact.event_time: fact for fact in sorted(found, key=lambda fact: fact.revision)}.values())
    rows = sorted((getattr(fact, time), fact.value) for fact in found)
    made = pd.Series([value for _, value in rows], index=pd.DatetimeIndex([at for at, _ in rows], tz="UTC"), dtype=float)
    return made[~made.index.duplicated(keep="last")]


def _held(series: Any, bars: Bars) -> Any:
    return above(series.reindex(frame(bars).index, method="ffill"), 0.0)


@LEAKS(data.with_facts, "facts")
def news_at_the_time_of_the_event(bars: Bars, facts: Facts) -> Any:
    return _held(_series(facts, "news", "event_time"), bars)


@TWINS(data.with_facts)
def news_when_it_was_known(bars: Bars, facts: Facts) -> Any:
    return _held(_series(facts, "news", "known_time"), bars)


@LEAKS(data.with_facts, "facts")
def news_of_the_day_from_its_morning(bars: Bars, facts: Facts) -> Any:
    news = _series(facts, "news", "known_time")
    return _held(news.groupby(news.index.normalize()).sum(), bars)


@LEAKS(data.with_facts, "facts")
def news_in_another_zone(bars: Bars, facts: Facts) -> Any:
    """Times of New York taken for UTC: everything is known five hours early."""
    news = _series(facts, "news", "known_time")
    news.index = news.index.tz_convert("America/New_York").tz_localize(None).tz_localize("UTC")
    return _held(news, bars)


@LEAKS(data.with_facts, "facts")
def news_of_the_nearest_bar(bars: Bars, facts: Facts) -> Any:
    news = _series(facts, "news", "known_time")
    return above(news.reindex(frame(bars).index, method="nearest"), 0.0)


@LEAKS(data.with_facts, "facts")
def news_scaled_by_all_news(bars: Bars, facts: Facts) -> Any:
    news = _series(facts, "news", "known_time")
    return np.round((((news - news.mean()) / news.std()).reindex(frame(bars).index, method="ffill")).fillna(0.0), 3)


@LEAKS(data.with_facts, "facts")
def earnings_at_the_end_of_the_quarter(bars: Bars, facts: Facts) -> Any:
    eps = _series(facts, "eps", "event_time").reindex(frame(bars).index, method="ffill")
    return above(eps, 1.0)


@TWINS(data.with_facts)
def earnings_when_they_were_known(bars: Bars, facts: Facts) -> Any:
    eps = _series(facts, "eps", "known_time").reindex(frame(bars).index, method="ffill")
    return above(eps, 1.0)


@LEAKS(data.with_facts, "facts")
def earnings_in_their_last_revision(bars: Bars, facts: Facts) -> Any:
    """Since the day of the first publication, but with the numbers as they were corrected later."""
    eps = _series(facts, "eps", "event_time", last=True)
    eps.index = eps.index + timedelta(days=1)
    return above(eps.reindex(frame(bars).index, method="ffill"), 1.0)


@LEAKS(data.with_facts, "facts", at="open")
def news_within_the_bar_at_its_open(bars: Bars, facts: Facts) -> Any:
    news = _series(facts, "news", "known_time")
    return _held(news, bars)


@TWINS(data.with_facts, at="open")
def news_before_the_bar_at_its_open(bars: Bars, facts: Facts) -> Any:
    news = _series(facts, "news", "known_time")
    starts = pd.DatetimeIndex(frame(bars).index) - pd.Timedelta(minutes=15)
    return above(news.reindex(starts, method="ffill"), 0.0)


@LEAKS(data.with_facts, "facts")
def left_out_what_was_revised_later(bars: Bars, facts: Facts) -> Any:
    bad = {fact.event_time for fact in facts.records if fact.name == "eps" and fact.revision}
    eps = _series(facts, "eps", "known_time")
    first = {fact.known_time: fact.event_time for fact in facts.records if fact.name == "eps" and not fact.revision}
    kept = eps[[first[time.to_pydatetime()] not in bad for time in eps.index]]
    return (
        np.where(np.isnan(kept.reindex(frame(bars).index, method="ffill")), 0.0, 1.0)
        if len(kept)
        else np.zeros(len(frame(bars)))
    )
