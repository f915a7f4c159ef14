"""Feeds and brokers by the names of a command line: each error names its cause and its fix."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentfund.brokers.alpaca import Alpaca
from agentfund.clock import JumpingClock, ScaledClock, SimulatedClock, SystemClock
from agentfund.errors import ConfigError
from agentfund.feeds.live import Live
from agentfund.live.opening import open_broker, open_feed, open_hours
from tests.live.day import write_ticks

MADE = """
from agentfund import PaperBroker
from agentfund.feeds import Recorded, SimulatedMarket

def source(symbols):
    return Recorded(SimulatedMarket(symbols[0], bars=20))

def nothing(symbols):
    return 7

def failing(symbols):
    raise RuntimeError("no line to the exchange")

def paper(symbols):
    return PaperBroker()
"""


@pytest.fixture
def made(tmp_path: Path) -> str:
    """A file with factories."""
    path = tmp_path / "made.py"
    path.write_text(MADE, encoding="utf-8")
    return str(path)


def opened(name: str, symbols: tuple[str, ...] = ("SIM",), **more: Any) -> Any:
    """Open a feed as the command line does by default."""
    return open_feed(name, symbols, **{"bar_minutes": 5.0, "back": 10, "data": None, "speed": 1.0, **more})


@pytest.mark.parametrize(
    ("name", "more", "cause", "fix"),
    [
        ("recorded", {}, "needs --data FILE", "a file of ticks or bars"),
        ("recorded", {"data": Path("/nowhere/ticks.csv")}, "/nowhere/ticks.csv", "a file of ticks or bars"),
        ("nonsense", {}, "--feed nonsense", "or file.py:name"),
        ("nonsense", {"data": Path("x.csv")}, "--data is the file of a recording", "say --feed recorded"),
        ("nonsense", {"symbols": ()}, "--symbols is empty", "such as --symbols"),
        ("no_such_file.py:feed", {}, "no_such_file.py", ""),
    ],
)
def test_a_feed_that_cannot_be_opened_says_why_and_what_to_do(name: str, more: dict[str, Any], cause: str, fix: str) -> None:
    """Each in the words of the command line."""
    with pytest.raises(ConfigError) as told:
        opened(name, **more)
    assert cause in str(told.value)
    assert fix in str(told.value)


def test_a_file_that_holds_neither_ticks_nor_bars_is_named_with_both_reasons(tmp_path: Path) -> None:
    """Whoever mistook a file sees what each reader missed."""
    path = tmp_path / "shopping.csv"
    path.write_text("what,how many\nmilk,2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds neither ticks .* nor bars"):
        opened("recorded", data=path)


def test_a_factory_that_gives_no_feed_is_told_by_what_it_gave(made: str) -> None:
    """Not by an attribute that is missing later."""
    with pytest.raises(ConfigError, match="gives int, which is no feed and no source"):
        opened(f"{made}:nothing")


def test_a_factory_that_fails_is_told_with_its_error(made: str) -> None:
    """The cause is in the user's own file."""
    with pytest.raises(ConfigError, match="no line to the exchange"):
        opened(f"{made}:failing")


def test_a_factory_may_give_a_source(made: str) -> None:
    """It becomes a live feed on the machine's clock, which counts as a market of this moment."""
    found = opened(f"{made}:source", bar_minutes=15.0)
    assert isinstance(found.feed, Live)
    assert isinstance(found.clock, SystemClock)
    assert found.real


@pytest.mark.parametrize(("speed", "clock"), [(0.0, JumpingClock), (50.0, ScaledClock)])
def test_a_recording_runs_by_a_clock_of_its_own(tmp_path: Path, speed: float, clock: type) -> None:
    """And is no market of this moment; its symbol is the file's name where none is given."""
    path = tmp_path / "GOLD_2024.csv"
    write_ticks(path, hours=0.2)
    found = opened("recorded", (), data=path, speed=speed)
    assert isinstance(found.clock, clock)
    assert not found.real
    assert [each.symbol for each in found.feed.instruments] == ["GOLD"]


def test_bars_of_another_length_are_refused_when_asked_for(made: str) -> None:
    """A length that does not divide a day has no grid."""
    with pytest.raises(ConfigError, match="divide"):
        opened(f"{made}:source", bar_minutes=7.0)


@pytest.mark.parametrize(
    ("name", "cause", "fix"),
    [
        ("nonsense", "--broker nonsense", "there is alpaca, ccxt:EXCHANGE, or file.py:name"),
        ("ibkr", "needs more than a name", "--broker my.py:ibkr"),
        ("paper", "--broker paper", "there is alpaca"),
    ],
)
def test_a_broker_that_cannot_be_opened_says_why_and_what_to_do(name: str, cause: str, fix: str) -> None:
    """Each in the words of the command line."""
    with pytest.raises(ConfigError) as told:
        open_broker(name, ["SIM"], real=False)
    assert cause in str(told.value)
    assert fix in str(told.value)


def test_alpaca_without_keys_says_which_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of the variables."""
    monkeypatch.delenv("APCA_API_KEY_ID", raising=False)
    monkeypatch.delenv("APCA_API_SECRET_KEY", raising=False)
    with pytest.raises(ConfigError, match="APCA_API_KEY_ID and APCA_API_SECRET_KEY"):
        open_broker("alpaca", ["AAPL"], real=False)


@pytest.mark.parametrize(("real", "shown"), [(False, "<Alpaca paper account>"), (True, "<Alpaca LIVE account>")])
def test_real_money_is_an_explicit_word(monkeypatch: pytest.MonkeyPatch, real: bool, shown: str) -> None:
    """Nothing but --real leads to it."""
    monkeypatch.setenv("APCA_API_KEY_ID", "PKNOBODY0000000000001")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "nothing-that-opens-anything")
    broker = open_broker("alpaca", ["AAPL"], real=real)
    assert isinstance(broker, Alpaca)
    assert repr(broker) == shown


def test_a_factory_that_gives_no_broker_is_told_by_what_it_gave(made: str) -> None:
    """And one that gives a broker is taken at its word."""
    with pytest.raises(ConfigError, match="gives int, which is no broker"):
        open_broker(f"{made}:nothing", ["SIM"], real=False)
    assert hasattr(open_broker(f"{made}:paper", ["SIM"], real=False), "submit")


def test_hours_of_a_calendar_cover_the_year_ahead() -> None:
    """And no calendar is nobody's word, which the gate takes for closed."""
    clock = SimulatedClock()
    clock.advance(timedelta(days=20_000).total_seconds())
    found = open_hours("24/7", clock)
    assert found is not None
    assert found.is_open("BTC/USDT", clock.now() + timedelta(days=300))
    assert open_hours("", clock) is None
    with pytest.raises(ConfigError, match="NOWHERE"):
        open_hours("NOWHERE", clock)
