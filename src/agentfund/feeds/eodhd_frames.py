"""Frames of EODHD's websockets as ticks and quotes, and what its status messages mean."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agentfund.clock import EPOCH
from agentfund.errors import BadData
from agentfund.feeds.eodhd_symbols import EodhdMarket
from agentfund.feeds.wire_refusals import Refusals
from agentfund.feeds.wire_rows import amount, number, price
from agentfund.feeds.wire_values import shown
from agentfund.market import Quote, Tick

_SECONDS_BELOW = 100_000_000_000  # a time below is in seconds: in milliseconds it would be before 1974
_LATEST_MS = 7_258_118_400_000  # 2200

REFUSALS = Refusals(
    {
        401: "the token is wrong: set EODHD_API_TOKEN to the one of your EODHD account",
        402: "the plan or its limit does not allow it: see your EODHD account",
        403: "the token or its plan has no access to this market: see your EODHD account",
        422: "it does not take what was subscribed to: check the symbols",
        429: "there are too many connections or symbols: close other programs with this token, or raise the limit",
    },
    otherwise="try again later, and ask the provider if it stays",
    final=(401, 403, 422),
    crowded=(429,),
)


@dataclass(slots=True)
class Frames:
    """Reads the frames of one market.

    Args:
        market: which websocket they come from.
        symbols: what was subscribed to, in its normal form.
        mids: whether a quote is a tick of its mid as well, without volume.

    Attributes:
        left_out: frames without a price, which nothing was made of.
        strangers: frames of symbols that nobody subscribed to.
        status: the state of the market as trades told it last, by symbol: open, closed, extended-hours.
    """

    market: EodhdMarket
    symbols: Collection[str]
    mids: bool
    left_out: int = 0
    strangers: int = 0
    status: dict[str, str] = field(default_factory=dict)

    def take(self, text: str) -> tuple[Tick | Quote, ...]:
        """Return what a frame tells: nothing, a tick, a quote, or a quote and the tick of its mid.

        Raises:
            BadData: it is no frame of this market; names the field.
            FeedError: the server refuses something.
            ConfigError: it refuses what no reconnect can mend.
        """
        frame = parsed(text)
        if (status := status_of(frame)) is not None:
            refuse(*status)
            return ()
        symbol = frame.get("s")
        if not isinstance(symbol, str):
            raise BadData(f"EODHD {self.market} frame {shown(text)}, s: there is no symbol; ask the provider")
        symbol = symbol.upper()
        where = f"EODHD {self.market} frame of {symbol}"
        if symbol not in self.symbols:
            self.strangers += 1
            return ()
        if self.market in ("us", "crypto"):
            return self._trade(frame, symbol, where)
        return self._quote(frame, symbol, where)

    def _trade(self, frame: Mapping[str, Any], symbol: str, where: str) -> tuple[Tick, ...]:
        if isinstance(frame.get("ms"), str):
            self.status[symbol] = frame["ms"]
        if not number(frame.get("p"), where, "p"):  # null or zero: some messages only change the state
            self.left_out += 1
            return ()
        traded = "q" if self.market == "crypto" else "v"
        return (Tick("EODHD", symbol, price(frame, "p", where), amount(frame, traded, where), _time(frame, where)),)

    def _quote(self, frame: Mapping[str, Any], symbol: str, where: str) -> tuple[Tick | Quote, ...]:
        names = ("bp", "ap") if self.market == "us-quote" else ("b", "a")
        bid, ask = (price(frame, name, where) if number(frame.get(name), where, name) else None for name in names)
        if bid is None and ask is None:
            self.left_out += 1
            return ()
        quote = Quote(symbol, bid, ask, None, _time(frame, where))
        if not self.mids or bid is None or ask is None or bid > ask:  # between crossed prices lies no price
            return (quote,)
        return quote, Tick("EODHD", symbol, (bid + ask) / 2, 0.0, quote.time)


def parsed(text: str) -> dict[str, Any]:
    """Return a frame as an object.

    Raises:
        BadData: it is none.
    """
    try:
        frame = json.loads(text)
    except ValueError:
        frame = None
    if not isinstance(frame, dict):
        raise BadData(f"EODHD's websocket sent {shown(text)!r}, which is no JSON object; ask the provider")
    return frame


def status_of(frame: Mapping[str, Any]) -> tuple[int, str] | None:
    """Return code and message of a status frame, None where it is another."""
    code = frame.get("status_code", frame.get("status"))
    if code is None:
        return None
    number_told = int(code) if str(code).strip().isdigit() else 0
    return number_told, shown(str(frame.get("message", "")))


def refuse(code: int, message: str) -> None:
    """Raise unless a status says that all is well.

    Raises:
        FeedError: the server refuses; names the fix.
        ConfigError: it refuses what no reconnect can mend.
    """
    if code != 200:
        raise REFUSALS.error(f"EODHD's websocket said {code} {message or 'without a reason'}", code)


def _time(frame: Mapping[str, Any], where: str) -> datetime:
    told = amount(frame, "t", where)
    milliseconds = told * 1000 if told < _SECONDS_BELOW else told
    if not 0 < milliseconds < _LATEST_MS:
        raise BadData(f"{where}, t: {frame['t']!r:.40} is no time in milliseconds since 1970; ask the provider")
    return EPOCH + timedelta(microseconds=round(milliseconds * 1000))
