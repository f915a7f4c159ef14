"""Bars that do not say what they are of."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund import Backtest, MemoryBus, Orchestrator
from agentfund.clock import from_micros, to_micros
from agentfund.errors import ConfigError
from agentfund.feeds import Bars, Fact, Facts, Masked, SimulatedMarket
from agentfund.feeds.mask import Mask
from agentfund.llms import ScriptedLLM
from agentfund.market import Columns, Instrument, Market
from agentfund.prompt import Prompt, Untrusted
from agentfund.protocols import Feed
from agentfund.specialists import desk
from agentfund.testing.feed import FeedContract
from agentfund.trading import Account, Decision, Direction, Fill, Order, OrderState, OrderStatus, Outcome, Side
from tests import market as made

WEEK = timedelta(weeks=1)


def real(count: int = 120, seed: int = 1, symbol: str = "AAPL", volume: float = 12_345.0) -> Bars:
    """Bars with a name, a date and a level."""
    bars = made.bars(made.wave(count, seed=seed), symbol=symbol)
    (columns,) = bars.columns.values()
    return Bars(replace(columns, volume=np.full(len(columns), volume)), source=f"{symbol}_15m.csv.gz")


def two(count: int = 60) -> Bars:
    """Two instruments on one clock."""
    return Bars({**real(count).columns, **real(count, 2, "MSFT").columns}, source="two files")


class TestMasked(FeedContract):
    """A masked feed keeps the contract."""

    def make_feed(self) -> Feed:
        return Masked(two(), seed=3)


@given(st.integers(0, 500))
@settings(deadline=None, max_examples=60)
def test_returns_weekdays_and_ticks_stay(seed: int) -> None:
    """Levels, names and dates are others; changes, weekdays, times of day and whole ticks are the same."""
    bars = two()
    masked = Masked(bars, seed=seed)
    assert sorted(masked.columns) == ["ASSET1", "ASSET2"]
    for hidden, (name, columns) in zip(masked.columns.values(), bars.columns.items(), strict=True):
        assert masked.unmask(hidden.instrument.symbol) == name
        ratio = hidden.close / columns.close
        assert set(ratio.tolist()) == {ratio[0]}
        assert 1 <= abs(np.log2(ratio[0])) <= 8
        assert (hidden.close * hidden.volume).tolist() == (columns.close * columns.volume).tolist()
        shift = int(hidden.start[0] - columns.start[0])
        assert set((hidden.start - columns.start).tolist()) == {shift}
        assert shift % (WEEK // timedelta(microseconds=1)) == 0
        assert shift > 0
        ticks = [Decimal(str(price)) / hidden.instrument.tick_size for price in hidden.close.tolist()]
        assert ticks == [Decimal(str(price)) / columns.instrument.tick_size for price in columns.close.tolist()]
        lots = [Decimal(str(v)) / hidden.instrument.lot_size for v in hidden.volume.tolist()]
        assert lots == [Decimal(str(v)) / columns.instrument.lot_size for v in columns.volume.tolist()]


def test_the_same_seed_gives_the_same_mask_and_another_seed_another() -> None:
    """Chosen by the seed alone, part by part."""
    bars = two()
    assert Masked(bars, seed=5).fingerprint == Masked(bars, seed=5).fingerprint
    prints = {Masked(bars, seed=seed).fingerprint for seed in range(20)}
    assert len(prints | {bars.fingerprint}) == 21
    whole, dated = Masked(bars, seed=5).mask, Masked(bars, seed=5, symbols=False, prices=False, volume=False).mask
    assert dated.shift == whole.shift
    assert dict(dated.symbols) == {"AAPL": "AAPL", "MSFT": "MSFT"}
    assert dict(dated.prices) == {}


def test_parts_can_be_left_as_they_are() -> None:
    """With everything switched off, it is the same data."""
    bars = real()
    same = Masked(bars, seed=1, symbols=False, dates=False, prices=False, volume=False)
    assert same.fingerprint == bars.fingerprint
    (volume,) = Masked(bars, seed=1, symbols=False, dates=False, prices=False).columns.values()
    assert volume.close.tolist() == bars.columns["AAPL"].close.tolist()
    assert volume.volume.tolist() != bars.columns["AAPL"].volume.tolist()
    (price,) = Masked(bars, seed=1, symbols=False, dates=False, volume=False).columns.values()
    assert price.volume.tolist() == bars.columns["AAPL"].volume.tolist()
    assert price.close.tolist() != bars.columns["AAPL"].close.tolist()


@given(st.integers(0, 300), st.sampled_from([100.0, 12_345.0, 0.0]))
@settings(deadline=None, max_examples=25)
def test_a_rule_trades_the_same_to_the_last_lot(seed: int, volume: float) -> None:
    """The same decisions, the same lots, the same prices and fees, also where a bar's volume limits what can be traded."""
    bars = Bars({**real(90, 1, volume=volume).columns, **real(90, seed, "MSFT", volume=volume).columns}, source="two files")
    masked = Masked(bars, seed=seed)
    plain = Backtest(made.fund(), bars, made.broker()).run()
    blind = Backtest(made.fund(), masked, made.broker()).run()
    assert plain.orders > 0
    shown = [masked.unmask(e.fill) for e in blind.executions]
    own = [e.fill for e in plain.executions]
    assert [replace(f, id="", order_id="") for f in shown] == [replace(f, id="", order_id="") for f in own]
    decisions = [masked.unmask(d) for d in blind.log.decisions]
    facts = [(d.time, d.outcome, d.symbol, d.direction, d.price) for d in decisions]
    assert facts == [(d.time, d.outcome, d.symbol, d.direction, d.price) for d in plain.log.decisions]
    assert blind.final_equity == plain.final_equity
    np.testing.assert_allclose(blind.curve.equity, plain.curve.equity, rtol=1e-12)


def prices(bars: Bars) -> set[str]:
    """The numbers that stand for levels, as a prompt would write them."""
    columns = bars.columns.values()
    return {repr(value) for c in columns for name in ("open", "high", "low", "close") for value in getattr(c, name).tolist()}


def numbers(value: Any) -> set[str]:
    """All numbers in JSON values."""
    if isinstance(value, dict):
        return set().union(*map(numbers, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(numbers, value)) if value else set()
    return {repr(float(value))} if isinstance(value, (int, float)) and not isinstance(value, bool) else set()


def test_no_prompt_of_the_desk_tells_what_it_is_about() -> None:
    """Neither the ticker nor the date nor a level of the real market is in any question; of the plain run they are."""
    bars = real(60)
    news = Fact("headline", made.START, made.START, Untrusted("AAPL beats"), symbol="AAPL")
    bars = bars.with_facts(Facts([news]))

    def questions(feed: Bars) -> list[str]:
        asked: list[str] = []

        def answer(prompt: Prompt) -> Any:
            asked.append(prompt.question)
            assert prompt.rule is not None
            given = prompt.rule()
            return given if isinstance(given, prompt.output) else None

        fund = Orchestrator(desk(ScriptedLLM(answer)), bus=MemoryBus(), mode="autonomous")
        report = Backtest(fund, feed, made.broker()).run()
        assert report.llm_calls > 50
        return asked

    def levels(asked: list[str]) -> set[str]:
        return set().union(*(numbers(json.loads(question)["inputs"]["market"]) for question in asked))

    plain, blind = questions(bars), questions(Masked(bars, seed=11))
    assert any("AAPL" in question for question in plain)
    assert len(levels(plain) & prices(bars)) > 40
    for question in blind:
        assert "AAPL" not in question
        assert "ASSET1" in question
        assert "2024" not in re.findall(r"\d+", question)
    assert levels(blind) & prices(bars) == set()


def test_nothing_that_agents_are_given_leads_back() -> None:
    """No public attribute of the market, its windows or its facts holds a real name, time or price."""
    bars = two(10).with_facts(Facts([Fact("MSFT_eps", made.START, made.START, 1.5, symbol="MSFT", id="MSFT-2024")]))
    masked = Masked(bars, seed=2)
    market = asyncio.run(_first(masked))
    seen = " ".join(
        [
            repr(market),
            repr(masked),
            masked.source,
            *masked.warnings,
            *map(str, market.windows),
            *(repr(window.last) + repr(window.instrument) for window in market.windows.values()),
            *map(repr, market.facts),
        ]
    )
    assert "AAPL" not in seen
    assert "MSFT" not in seen
    assert "2024" not in seen
    assert repr(masked.mask) == "<Mask of 2 instruments>"


async def _first(feed: Bars) -> Market:
    return next(iter([market async for market in feed.stream()]))


def test_of_facts_text_is_left_out_and_numbers_are_moved_in_time() -> None:
    """Symbols and times are those of the masked market; ids do not tell; text is gone, alone and as a part."""
    start = made.START
    bars = real(10).with_facts(
        Facts(
            [
                Fact("eps", start, start + WEEK, 1.5, symbol="AAPL"),
                Fact("eps", start, start + 2 * WEEK, 1.4, symbol="AAPL"),
                Fact("headline", start, start, Untrusted("AAPL up"), symbol="AAPL", id="a"),
                Fact("rivals", start, start, {"eps": 2.0, "said": Untrusted("strong")}, symbol="MSFT", id="msft-1"),
            ]
        )
    )
    masked = Masked(bars, seed=4)
    facts = masked.facts
    assert facts is not None
    assert facts.names == ("eps", "rivals")
    asset, rival = masked.mask.hide("AAPL"), masked.mask.hide("MSFT")
    assert {asset, rival} == {"ASSET1", "ASSET2"}
    first, second = (one for one in facts if one.name == "eps")
    assert (first.symbol, first.value, second.value, second.revision) == (asset, 1.5, 1.4, 1)
    assert first.known_time == masked.mask.hide(start + WEEK)
    (other,) = (one for one in facts if one.name == "rivals")
    assert (other.symbol, other.id, dict(other.value)) == (rival, "0", {"eps": 2.0})  # type: ignore[arg-type]


def test_real_facts_are_not_put_beside_masked_bars() -> None:
    """Facts of the masked market are taken; those of the real one would tell."""
    bars = real(10).with_facts(Facts([Fact("eps", made.START, made.START, 1.5, symbol="AAPL")]))
    masked = Masked(bars, seed=4)
    assert masked.facts is not None
    assert masked.with_facts(masked.facts.until(made.START)).facts is not masked.facts
    assert masked.with_facts(None).facts is None
    for fact in (bars.facts, Facts([Fact("news", made.START, made.START, Untrusted("up"))])):
        with pytest.raises(ConfigError, match="would tell what is masked"):
            masked.with_facts(fact)


def test_a_masked_simulated_market_is_no_real_past() -> None:
    """What a language model could not remember before, it cannot remember masked."""
    assert Masked(SimulatedMarket(bars=30), seed=1).simulated
    assert not Masked(real(10), seed=1).simulated


def test_closes_of_their_own_are_moved_too() -> None:
    """Bars that close irregularly stay as long as they were."""
    (columns,) = real(10).columns.values()
    end = columns.start + np.arange(1, 11) * 1_000_000
    bars = Bars(replace(columns, end=end), source="x")
    (hidden,) = Masked(bars, seed=1).columns.values()
    assert (hidden.ends - hidden.start).tolist() == (end - columns.start).tolist()


def test_odd_prices_keep_their_changes_to_the_last_bit() -> None:
    """Prices that are no decimals, as adjusted ones, too."""
    (columns,) = real(50).columns.values()
    odd = {name: getattr(columns, name) / 3 for name in ("open", "high", "low", "close")}
    bars = Bars(replace(columns, **odd), source="x")
    (hidden,) = Masked(bars, seed=1).columns.values()
    changes = odd["close"][1:] / odd["close"][:-1]
    assert (hidden.close[1:] / hidden.close[:-1]).tolist() == changes.tolist()


def test_impossible_masks_are_refused() -> None:
    """A seed below zero, times out of reach, and what cannot be mapped."""
    with pytest.raises(ConfigError, match="seed=-1"):
        Masked(real(10), seed=-1)
    far = Columns(
        Instrument("F"),
        timedelta(days=1),
        np.array([to_micros(datetime(2195, 1, 1, tzinfo=UTC))]),
        *(np.ones(1), np.ones(1), np.ones(1), np.ones(1), np.ones(1)),
    )
    with pytest.raises(ConfigError, match="its times cannot be moved by"):
        Masked(Bars(far, source="x"), seed=1)
    Masked(Bars(far, source="x"), seed=1, dates=False)
    masked = Masked(real(10), seed=1)
    with pytest.raises(ConfigError, match="'AAPL' is no instrument of the masked market"):
        masked.unmask("AAPL")
    with pytest.raises(ConfigError, match="a float cannot be masked"):
        masked.unmask(1.0)
    with pytest.raises(ConfigError, match="the same masked name"):
        Mask({"A": "X", "B": "X"})


def order(**changes: Any) -> Order:
    """An order with everything in it."""
    given: dict[str, Any] = {
        "id": "o",
        "symbol": "AAPL",
        "side": Side.BUY,
        "quantity": Decimal("12.5"),
        "time": made.START,
        "limit_price": Decimal("101.25"),
        "stop_price": Decimal("99.75"),
        "stop_loss": Decimal("98.01"),
        "take_profit": Decimal("105.55"),
    }
    return Order(**{**given, **changes})


@given(st.integers(0, 300))
@settings(deadline=None, max_examples=40)
def test_there_and_back_is_where_one_was(seed: int) -> None:
    """Whatever is hidden and shown is what it was, exactly; money is never changed."""
    mask = Masked(two(5), seed=seed).mask
    fill = Fill("f", "o", "MSFT", Side.SELL, Decimal("3.0001"), Decimal("250.01"), Decimal(1), made.START, Decimal(250))
    things = [
        "AAPL",
        made.START,
        order(),
        order(limit_price=None, stop_price=None, stop_loss=None, take_profit=None),
        OrderState(order(), OrderStatus.WORKING, Decimal("2.5"), "why", Decimal("3.5")),
        fill,
        Account(Decimal("123.45"), {"AAPL": Decimal("-2.5"), "MSFT": Decimal(7)}),
        Decision(
            id="d",
            cycle=1,
            time=made.START,
            outcome=Outcome.ORDERED,
            decided_by="x",
            reason="y",
            symbol="AAPL",
            direction=Direction.LONG,
            price=101.25,
        ),
    ]
    thing: Any
    for thing in things:
        hidden = mask.hide(thing)
        assert mask.show(hidden) == thing
        assert hidden != thing
    assert mask.hide(fill).fee == fill.fee
    assert mask.hide(fill).quantity * mask.hide(fill).price == fill.quantity * fill.price
    assert mask.hide(things[6]).cash == Decimal("123.45")  # type: ignore[type-var, attr-defined]


def test_what_is_not_masked_has_no_name_there() -> None:
    """Other holdings of an account are seen, each apart, and not told by name."""
    mask = Masked(real(5), seed=1).mask
    hidden = mask.hide(Account(Decimal(1), {"TSLA": Decimal(1), "AAPL": Decimal(2), "NVDA": Decimal(3)}))
    assert len(hidden.positions) == 3
    assert not {"TSLA", "NVDA"} & set(hidden.positions)
    assert mask.hide("TSLA") == "OTHER"


def test_texts_are_shown_with_real_names_as_whole_words() -> None:
    """ASSET1 is no part of ASSET12, and keys are translated, too."""
    mask = Mask({"AAPL": "ASSET1", "MSFT": "ASSET12"})
    assert mask.show_text({"ASSET12": ["buy ASSET1, not ASSET123", 5]}) == {"MSFT": ["buy AAPL, not ASSET123", 5]}
    assert mask.hide_price("AAPL", 2.5) == Decimal("2.5")


def test_prices_are_shown_by_masked_name() -> None:
    """A level in the masked market leads back to the real one."""
    bars = real(5)
    masked = Masked(bars, seed=3)
    ((name, hidden),) = masked.columns.items()
    for one, other in zip(hidden.close.tolist(), bars.columns["AAPL"].close.tolist(), strict=True):
        assert masked.mask.show_price(name, one) == Decimal(str(other))
    assert masked.unmask(from_micros(int(hidden.start[0]))) == made.START
    assert masked.feed is bars


def test_a_mask_does_not_slip_out_by_pickling_the_market() -> None:
    """A window holds masked columns and nothing else."""
    window = asyncio.run(_first(Masked(real(5), seed=1))).bars
    held = pickle.dumps({name: getattr(window, name) for name in ("open", "close", "start", "interval", "instrument")})
    assert b"AAPL" not in held
