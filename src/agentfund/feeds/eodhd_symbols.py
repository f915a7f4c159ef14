"""Symbols of EODHD: one normal form for what its REST API, its websockets and people write in three."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from agentfund.errors import ConfigError
from agentfund.market import Instrument

EodhdMarket = Literal["us", "us-quote", "forex", "crypto"]

_SUFFIXES: dict[str, str] = {"us": ".US", "us-quote": ".US", "forex": ".FOREX", "crypto": ".CC"}
_FORMS = {
    "us": (r"[A-Z0-9]+(-[A-Z0-9]+)*", "AAPL or BRK-B"),
    "us-quote": (r"[A-Z0-9]+(-[A-Z0-9]+)*", "AAPL or BRK-B"),
    "forex": (r"[A-Z]{6}", "EURUSD"),
    "crypto": (r"[A-Z0-9]+-[A-Z0-9]+", "BTC-USD"),
}
_LOT = Decimal("1e-8")


@dataclass(frozen=True, slots=True)
class Listed:
    """An instrument, and what EODHD calls it.

    Args:
        instrument: with the symbol in its normal form: `AAPL`, `EURUSD`, `BTC-USD`; so the websockets call it too.
        code: what the REST API calls it: `AAPL.US`, `EURUSD.FOREX`, `BTC-USD.CC`.
    """

    instrument: Instrument
    code: str


def markets() -> tuple[str, ...]:
    """Return the markets that there are."""
    return tuple(_SUFFIXES)


def normal(symbol: str, market: EodhdMarket) -> str:
    """Return a symbol in its normal form: without the exchange, in capitals, `/` taken for what the market writes.

    Raises:
        ConfigError: it is no symbol of that market.
    """
    bare = symbol.strip().upper().removesuffix(_SUFFIXES[market])
    bare = bare.replace("/", "-" if market == "crypto" else "")
    form, example = _FORMS[market]
    if not re.fullmatch(form, bare):
        raise ConfigError(f"{symbol!r} is no symbol of EODHD's market {market!r}: write it as {example}")
    return bare


def listed(given: Instrument | str, market: EodhdMarket) -> Listed:
    """Return an instrument under its normal symbol; a symbol alone makes one with steps fine enough for any of the market.

    Raises:
        ConfigError: it is no symbol of that market.
    """
    symbol = normal(given if isinstance(given, str) else given.symbol, market)
    code = symbol + _SUFFIXES[market]
    if isinstance(given, Instrument):
        return Listed(replace(given, symbol=symbol), code)
    if market == "forex":
        tick = Decimal("0.001") if symbol.endswith("JPY") else Decimal("0.00001")
        return Listed(Instrument(symbol, tick_size=tick, lot_size=Decimal(1), currency=symbol[3:]), code)
    if market == "crypto":
        return Listed(Instrument(symbol, tick_size=_LOT, lot_size=_LOT, currency=symbol.rpartition("-")[2]), code)
    return Listed(Instrument(symbol), code)
