"""What an exchange writes, read strictly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.wire_names import Names, pair, step
from agentfund.feeds.wire_once import Once
from agentfund.feeds.wire_values import Fields, parse, shown
from agentfund.market import Bar
from agentfund.secrets import Secret


def fields(value: Any) -> Fields:
    return Fields("bourse", "trades", {"x": value})


@pytest.mark.parametrize("text", ["0.1", "64000", "-2", "1e-8", "1.50000000", "12345678.12345678"])
def test_a_number_in_quotes_is_what_it_says(text: str) -> None:
    """To the last bit."""
    assert fields(text).number("x") == float(text)


@pytest.mark.parametrize("wrong", ["", " 1", "1 ", "1_0", "0x1", "1.2.3", "+1", ".5", "١", "1e", None, 1, 1.5, True, [], {}])
def test_what_is_no_number_in_quotes_is_named(wrong: Any) -> None:
    """By exchange, channel and field."""
    with pytest.raises(BadData, match="bourse, trades, field 'x': a number in quotes was expected"):
        fields(wrong).number("x")


@pytest.mark.parametrize("wrong", ["17145216000", "1714521600000000", -1, 1.5e12, True, None, "1e12", "", "١٧١٤٥٢١٦٠٠٠٠٠"])
def test_seconds_and_microseconds_are_no_milliseconds(wrong: Any) -> None:
    """A time in another unit would be centuries away."""
    with pytest.raises(BadData, match="milliseconds since 1970 were expected"):
        fields(wrong).moment("x")


def test_milliseconds_are_exact() -> None:
    """As a number and as a text."""
    assert fields(1714521600123).moment("x") == fields("1714521600123").moment("x")
    assert fields(1714521600123).moment("x") == datetime(2024, 5, 1, 0, 0, 0, 123000, tzinfo=UTC)


def test_a_missing_field_is_named() -> None:
    """Whatever it should have been."""
    for ask in ("number", "text", "flag", "rows", "moment", "key", "price", "volume"):
        with pytest.raises(BadData, match="bourse, trades, field 'y': it is missing"):
            getattr(fields("1"), ask)("y")
    with pytest.raises(BadData, match="field 3: it is missing"):
        Fields("bourse", "candles", ["1", "2"]).number(3)


def test_a_value_of_another_kind_is_named() -> None:
    """A text is no flag, a number no text, and nothing is turned into anything."""
    for ask, wrong in (("flag", "true"), ("flag", 1), ("text", 5), ("text", ""), ("rows", {}), ("key", True), ("key", None)):
        with pytest.raises(BadData, match="was expected"):
            getattr(fields(wrong), ask)("x")
    assert fields(12345678901234567890).key("x") == "12345678901234567890"


def test_an_error_shows_no_secret_and_no_endless_text() -> None:
    """What others wrote is cut, made printable and blotted."""
    key = Secret("sk-very-secret-0123456789")
    told = shown("a\x1b[2J" + key.reveal() + "b" * 1000)
    assert key.reveal() not in told
    assert "\x1b" not in told
    assert len(told) < 250


def test_json_of_two_kinds_is_read() -> None:
    """Texts and bytes."""
    assert parse("bourse", '{"a": [1, "2"]}') == parse("bourse", b'{"a": [1, "2"]}') == {"a": [1, "2"]}
    for wrong in ("NaN", "[Infinity]", b"\xff\xfe", "{}{}"):
        with pytest.raises(BadData, match="bourse sent something that is not JSON"):
            parse("bourse", wrong)


@pytest.mark.parametrize("symbol", ["BTC/USDT", "btc/usdt", "BTC-USDT", "BTCUSDT", " btcusdt "])
def test_a_pair_may_be_written_in_any_way_that_is_clear(symbol: str) -> None:
    """What has no separator is split where money begins."""
    assert pair("bourse", symbol, split=True) == ("BTC", "USDT")


@pytest.mark.parametrize(
    "symbol", ["BTCXYZ", "USDT", "BTC/USDT:USDT", "BTC-USDT-SWAP", "BTC USDT", "/", "", "BTC/", "BTC_USDT"]
)
def test_a_pair_that_is_not_clear_is_refused(symbol: str) -> None:
    """Contracts and other things have other units."""
    with pytest.raises(ConfigError, match="is no spot pair of bourse: write it as BASE/QUOTE"):
        pair("bourse", symbol, split=True)


def test_the_symbol_that_a_refusal_speaks_of_is_found() -> None:
    """Not another whose name is part of it."""
    names = Names("bourse", ["BTC/USDT", "WBTC/USDT"], joined="")
    assert names.told_in("Invalid symbol :[publicTrade.WBTCUSDT]") == "WBTC/USDT"
    assert names.told_in("channel:trades,instId:XWBTCUSDT") == ""
    dashed = Names("bourse", ["BTC/USDT"], joined="-")
    assert dashed.told_in("channel:trades,instId:BTC-USDT doesn't exist") == "BTC/USDT"
    assert dashed.told_in("instId:BTC-USDT-SWAP doesn't exist") == ""


def test_a_step_has_no_needless_zeros() -> None:
    """And no exponent where it is whole."""
    assert [str(step(text)) for text in ("0.01000000", "1.00000000", "10", "0.1")] == ["0.01", "1", "10", "0.1"]
    assert step("0.00000001") == Decimal("1e-8")


def test_memory_of_what_was_given_is_bounded() -> None:
    """The oldest ids are forgotten; a bar that is not newer is not new."""
    once = Once()
    assert all(once.trade("A", str(at)) for at in range(10_000))
    assert not once.trade("A", "9999")
    assert once.trade("A", "0")
    start = datetime(2024, 5, 1, tzinfo=UTC)
    minute = timedelta(minutes=1)
    bar = Bar("A", start, start + minute, 1, 1, 1, 1, 1)
    assert once.bar(bar)
    assert not once.bar(bar)
    assert not once.bar(bar._replace(start=start - minute))
    assert once.bar(bar._replace(start=start + minute))
    assert once.bar(bar._replace(symbol="B"))
