from __future__ import annotations

import logging
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfund.errors import BudgetExceeded, ConfigError, MissingExtra
from agentfund.llms.prices import ADDED_TOKENS, Price, Prices
from agentfund.prompt import Usage

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KNOWN = {
    "claude-opus-5-5": "anthropic",
    "claude-sonnet-5-5": "anthropic",
    "claude-haiku-5-5": "anthropic",
    "claude-fable-5-2": "anthropic",
    "gpt-6.1-sol": "openai",
    "gpt-6.1-terra": "openai",
    "gpt-6-luna": "openai",
    "gpt-5.6-luna": "openai",
    "gpt-5.5": "openai",
}
TOKENS = st.integers(0, 400_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read = draw(TOKENS)
    cached = draw(st.integers(0, read))
    return Usage(read, draw(st.integers(0, 128_000)), cached, draw(st.integers(0, read - cached)))


@pytest.mark.parametrize(
    ("provider", "llm", "usage", "usd"),
    [
        # 100 anew at 4, 800 cached at 0.20, 100 stored at 5, 300 written at 20, per million
        ("anthropic", "claude-opus-5-5", Usage(1000, 300, 800, 100), "0.00706"),
        ("anthropic", "claude-sonnet-5-5", Usage(1_000_000, 100_000, 500_000, 0), "2.05"),
        # from 100,001 tokens on the whole request costs five times as much
        ("anthropic", "claude-haiku-5-5", Usage(100_000, 1000), "0.0105"),
        ("anthropic", "claude-haiku-5-5", Usage(100_001, 1000), "0.0525005"),
        ("anthropic", "claude-haiku-5-5", Usage(200_000, 1000, 100_000, 50_000), "0.06375"),
        ("openai", "gpt-6.1-sol", Usage(1000, 300, 800, 100), "0.00353"),
        ("openai", "gpt-6.1-terra", Usage(272_000, 0), "0.272"),
        ("openai", "gpt-6.1-terra", Usage(272_001, 1000), "0.551502"),
        ("openai", "gpt-6-luna", Usage(3, 1), "0.0000008"),
        # no price of its own for what is stored: as new
        ("openai", "gpt-5.5", Usage(1000, 0, 0, 1000), "0.005"),
    ],
)
def test_a_call_costs_what_the_provider_lists(provider: str, llm: str, usage: Usage, usd: str) -> None:
    """The sums are made by hand from the price lists; nothing is rounded."""
    assert Prices().cost(provider, llm, usage, when=NOW) == Decimal(usd)


@given(usages(), st.sampled_from(sorted(KNOWN)))
def test_the_sum_is_that_of_the_table(usage: Usage, llm: str) -> None:
    """Its rates are kept here for speed; its own arithmetic gives the same."""
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    listed = genai_prices.calc_price(tokens, llm, provider_id=KNOWN[llm], genai_request_timestamp=NOW).total_price
    assert Prices().cost(KNOWN[llm], llm, usage, when=NOW) == listed


@given(usages(), st.sampled_from(sorted(KNOWN)), st.integers(0, 1000), st.integers(0, 1000))
def test_no_call_costs_more_than_its_worst_case(usage: Usage, llm: str, bytes_more: int, tokens_more: int) -> None:
    """Whatever is cached or stored, at every size: tokens are no more than bytes and what the provider adds."""
    sent = max(usage.input_tokens - ADDED_TOKENS, 0) + bytes_more
    prices = Prices()
    most = prices.worst_case(KNOWN[llm], llm, sent, usage.output_tokens + tokens_more, when=NOW)
    cost = prices.cost(KNOWN[llm], llm, usage, when=NOW)
    assert cost is not None
    assert cost <= most


def test_the_worst_case_of_a_small_prompt_is_not_that_of_a_large_one() -> None:
    """A price for large requests counts only where the prompt could be one; else a budget would hold back calls for nothing."""
    small = Prices().worst_case("anthropic", "claude-haiku-5-5", 3000, 2048, when=NOW)
    # 4,024 tokens stored at 0.125 and 2,048 written at 0.50, per million
    assert small == Decimal("0.001527")
    assert Prices().worst_case("anthropic", "claude-haiku-5-5", 100_000, 0, when=NOW) == Decimal("0.06314")


def test_a_price_has_a_date() -> None:
    """The same tokens cost a fifth since a day, which begins at midnight UTC wherever the caller is."""
    usage, east = Usage(1_000_000, 0), timezone(timedelta(hours=9))
    prices = Prices()
    before = prices.cost("openai", "gpt-5.6-luna", usage, when=datetime(2026, 7, 29, 23, 59, tzinfo=UTC))
    after = prices.cost("openai", "gpt-5.6-luna", usage, when=datetime(2026, 7, 30, tzinfo=UTC))
    still_before = prices.cost("openai", "gpt-5.6-luna", usage, when=datetime(2026, 7, 30, 8, tzinfo=east))
    assert (before, after, still_before) == (Decimal(2), Decimal("0.4"), Decimal(2))


@given(usages(), st.sampled_from(sorted(KNOWN)))
def test_a_batch_costs_half(usage: Usage, llm: str) -> None:
    """So do the providers list it."""
    whole = Prices().cost(KNOWN[llm], llm, usage, when=NOW)
    assert Prices().cost(KNOWN[llm], llm, usage, when=NOW, batch=True) == whole / 2  # type: ignore[operator]


def test_ones_own_price_wins() -> None:
    """A negotiated price, or one of a language model that no table knows; amounts are what they print as."""
    prices = Prices({"claude-opus-5-5": Price(1, "2", 0.1, Decimal("1.1")), "qwen3": Price(0, 0)})
    assert prices.cost("anthropic", "claude-opus-5-5", Usage(1_000_000, 1_000_000, 500_000), when=NOW) == Decimal("2.55")
    assert prices.worst_case("openai", "qwen3", 10**6, 10**6, when=NOW) == 0


def test_what_is_not_said_of_a_cache_costs_as_new() -> None:
    """So a short price is never too low for what is read."""
    assert Price(3, 15) == Price(3, 15, 3, 3)
    assert replace(Price(3, 15), output_usd=Decimal(16)) == Price(3, 16)


def test_an_unknown_language_model_has_no_price() -> None:
    """It is not free: its cost is not known, and a budget refuses it in words that say what to do."""
    assert Prices().cost("openai", "qwen3", Usage(1, 1), when=NOW) is None
    assert Prices().cost("nobody", "gpt-6.1-sol", Usage(1, 1), when=NOW) is None
    with pytest.raises(BudgetExceeded, match=r"'qwen3'.*prices=\{\"qwen3\": Price\("):
        Prices().worst_case("openai", "qwen3", 1, 1, when=NOW)


def test_the_table_is_an_extra(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without it no call is let through that a budget must hold; a paid call loses nothing but its list price."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(MissingExtra, match=r"agentfund\[prices\]"):
        Prices().worst_case("anthropic", "claude-opus-5-5", 1, 1, when=NOW)
    with caplog.at_level(logging.WARNING):
        prices = Prices()
        assert [prices.cost("anthropic", "claude-opus-5-5", Usage(1, 1), when=NOW) for _ in range(3)] == [None] * 3
    assert caplog.text.count("agentfund[prices]") == 1
    own = Prices({"claude-opus-5-5": Price(4, 20)})
    assert own.cost("anthropic", "claude-opus-5-5", Usage(1, 1), when=NOW) == Decimal("0.000024")


@pytest.mark.parametrize("wrong", [-1, float("nan"), "inf", "much"])
def test_a_price_is_a_number_from_zero_up(wrong: float | str) -> None:
    """Anything else would let calls through for nothing."""
    with pytest.raises(ConfigError, match="output_usd"):
        Price(1, wrong)


def test_a_table_holds_prices() -> None:
    """A bare number says not which of the four it is."""
    with pytest.raises(ConfigError, match="Price"):
        Prices({"gpt-6.1-sol": 3})  # type: ignore[dict-item]


def test_no_price_depends_on_the_hour() -> None:
    """Rates are kept for a day, which is right as long as the table has none of these for the two providers."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import TimeOfDateConstraint

    for provider in ("anthropic", "openai"):
        for model in get_snapshot().find_provider(None, provider, None).models:
            for listed in model.prices if isinstance(model.prices, list) else ():
                assert not isinstance(listed.constraint, TimeOfDateConstraint)
