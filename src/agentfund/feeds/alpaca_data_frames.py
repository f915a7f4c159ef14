"""Frames and rows of Alpaca's market data as bars, ticks and quotes, and what its errors mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from agentfund.clock import EPOCH, from_micros
from agentfund.errors import BadData, ConfigError, FeedError
from agentfund.feeds.wire_refusals import Refusals
from agentfund.feeds.wire_rows import amount, checked, needed, number, price
from agentfund.feeds.wire_values import shown
from agentfund.market import Bar, Halted, Quote, Tick

MINUTE = timedelta(minutes=1)

KEYS = "check APCA_API_KEY_ID and APCA_API_SECRET_KEY, or give key= and secret="
_ALONE = "an account has one connection for each stream: close the other program, or wait until Alpaca has noticed its end"
_REFUSALS = Refusals(
    {
        401: KEYS,
        402: KEYS,
        404: "the login came too late: try again, and check the network",
        405: "the plan allows fewer symbols: subscribe to fewer, or take a plan with more",
        406: _ALONE,
        407: "frames are read too slowly: leave quotes out (quotes=False), subscribe to fewer symbols, or decide faster",
        409: 'the plan does not include this feed: use feed="iex", or take a plan with SIP data',
        429: _ALONE,
    },
    otherwise="try again later, and see Alpaca's status page if it stays",
    final=(401, 402, 405, 409),
    crowded=(406, 429),
)
_BY_TEXT = {
    "auth failed": 402,
    "auth timeout": 404,
    "symbol limit exceeded": 405,
    "connection limit exceeded": 406,
    "slow client": 407,
    "insufficient subscription": 409,
}
_HALTED = {"A": "2", "B": "2", "C": "HP", "O": "HP"}  # codes by tape
_RESUMED = {"A": "3", "B": "3", "C": "T", "O": "T"}
_STOPS = ("halt", "pause")


def refusal(message: str, code: int | None = None) -> FeedError | ConfigError:
    """Return the error for what Alpaca's stream refuses; without a code the message says which it is."""
    told = code if code is not None else next((known for text, known in _BY_TEXT.items() if text in message.lower()), None)
    named = f"{told} " if told is not None else ""
    return _REFUSALS.error(f"Alpaca's stream said {named}{shown(message) or 'no reason'}", told)


@dataclass(slots=True)
class AlpacaFrames:
    """Reads the frames of one stream.

    Args:
        symbols: what was subscribed to.

    Attributes:
        revised: minutes that Alpaca corrected after they were given; they are not given again.
        repeated: minutes that came a second time, or after a later one.
        corrected: trades that were corrected or cancelled after they were given.
        strangers: frames of symbols that nobody subscribed to, or of a kind that is not known.
    """

    symbols: Collection[str]
    revised: int = 0
    repeated: int = 0
    corrected: int = 0
    strangers: int = 0
    _newest: dict[str, datetime] = field(default_factory=dict)

    def begin(self) -> None:
        """Begin a new connection, which may tell a minute again."""
        self._newest.clear()

    def take(self, frame: Any) -> tuple[Bar | Tick | Quote | Halted, ...]:
        """Return what a frame tells: nothing, or one thing.

        Raises:
            BadData: it cannot be read; names kind, symbol and field.
            FeedError: Alpaca refuses something.
            ConfigError: it refuses what no reconnect can mend.
        """
        if not isinstance(frame, Mapping) or not isinstance(frame.get("T"), str):
            raise BadData(f"Alpaca's stream sent {shown(repr(frame))}, which has no kind T; ask the provider")
        kind = frame["T"]
        if kind == "error":
            code = frame.get("code")
            raise refusal(str(frame.get("msg", "")), code if isinstance(code, int) else None)
        if kind in ("success", "subscription"):
            return ()
        symbol = frame.get("S")
        if not isinstance(symbol, str) or not symbol:
            raise BadData(f"Alpaca's stream sent {shown(repr(frame))}, which has no symbol S; ask the provider")
        if symbol not in self.symbols:
            self.strangers += 1
            return ()
        return self._told(kind, symbol, frame)

    def _told(self, kind: str, symbol: str, frame: Mapping[str, Any]) -> tuple[Bar | Tick | Quote | Halted, ...]:
        where = f"Alpaca frame {kind!r} of {symbol}"
        match kind:
            case "b":
                return self._new(bar_of(frame, symbol, MINUTE, where))
            case "t":
                exchange = frame.get("x")
                venue = exchange if isinstance(exchange, str) and exchange else "ALPACA"
                return (Tick(venue, symbol, price(frame, "p", where), amount(frame, "s", where), time_of(frame, where)),)
            case "q":
                return self._quote(symbol, frame, where)
            case "s":
                return _status(symbol, frame, where)
            case "u":
                self.revised += 1
            case "c" | "x":
                self.corrected += 1
            case _:
                self.strangers += 1
        return ()

    def _new(self, bar: Bar) -> tuple[Bar, ...]:
        newest = self._newest.get(bar.symbol)
        if newest is not None and bar.start <= newest:
            self.repeated += 1
            return ()
        self._newest[bar.symbol] = bar.start
        return (bar,)

    def _quote(self, symbol: str, frame: Mapping[str, Any], where: str) -> tuple[Quote, ...]:
        # A side that nobody quotes has a price of zero.
        bid, ask = (price(frame, name, where) if number(frame.get(name), where, name) else None for name in ("bp", "ap"))
        if bid is None and ask is None:
            return ()
        return (Quote(symbol, bid, ask, None, time_of(frame, where)),)


def _status(symbol: str, frame: Mapping[str, Any], where: str) -> tuple[Halted, ...]:
    """Return a halt or its end, nothing for what is neither, such as an imbalance or quotes that come before trading does.

    An unknown code whose words speak of a halt or a pause is one: only a known code ends it.
    """
    code, message, reason, tape = (told if isinstance(told := frame.get(name), str) else "" for name in ("sc", "sm", "rm", "z"))
    resumed = code != "" and code in _RESUMED.get(tape, "")
    halted = code != "" and code in _HALTED.get(tape, "")
    if not resumed and not halted and not any(word in message.lower() for word in _STOPS):
        return ()
    return (Halted(symbol, not resumed, shown(reason or message), time_of(frame, where)),)


def unconfirmed(frame: Mapping[str, Any], channels: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what was asked for and is not in the confirmation of a subscription."""
    missing = []
    for channel, symbols in channels.items():
        told = frame.get(channel)
        confirmed = told if isinstance(told, list) else []
        missing += [f"{channel} of {symbol}" for symbol in symbols if symbol not in confirmed]
    return missing


def bar_of(row: Mapping[str, Any], symbol: str, unit: timedelta, where: str) -> Bar:
    """Return the bar that a frame or a row tells.

    Raises:
        BadData: a number is missing or cannot be, or the start is no multiple of the unit.
    """
    start = time_of(row, where)
    if (start - EPOCH) % unit:
        raise BadData(f"{where}, t: {start.isoformat()} is no multiple of {unit}; ask the provider")
    numbers = (needed(row, name, where) for name in ("o", "h", "l", "c", "v"))
    return checked(Bar(symbol, start, start + unit, *numbers), where)


def time_of(row: Mapping[str, Any], where: str) -> datetime:
    """Return the time of a frame, a timestamp of msgpack, or of a row, a text.

    Raises:
        BadData: it is neither.
    """
    told: Any = row.get("t")
    if hasattr(told, "to_unix_nano"):
        return from_micros(told.to_unix_nano() // 1000)
    try:
        moment = datetime.fromisoformat(told) if isinstance(told, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadData(f"{where}, t: {told!r:.60} is no time with its zone; ask the provider")
    return moment.astimezone(UTC)
