"""What instruments and intervals are called: by users, and by an exchange."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from agentfund.errors import BadData, ConfigError
from agentfund.feeds.wire_values import shown
from agentfund.market import Instrument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A name without a separator can be split only where its end is the name of money.
_MONEY = ("FDUSD", "USDT", "USDC", "TUSD", "USDE", "EUR", "BTC", "ETH", "BNB", "TRY", "BRL", "USD")
LATENESS = timedelta(seconds=5)
"""How long behind its end a closed candle may come: exchanges tell candles every second or two, and busy ones later."""

_FINEST = Decimal("1e-8")
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def pair(exchange: str, symbol: str, *, split: bool) -> tuple[str, str]:
    """Return what is traded and what it is paid in, of "BTC/USDT", "BTC-USDT", or "BTCUSDT" where `split` allows it.

    Raises:
        ConfigError: it is no spot pair.
    """
    parts = symbol.strip().upper().replace("-", "/").split("/")
    if len(parts) == 1 and split and parts[0].isalnum():
        whole = parts[0]
        quote = next((money for money in _MONEY if whole.endswith(money) and len(whole) > len(money)), None)
        if quote is not None:
            return whole.removesuffix(quote), quote
    if len(parts) != 2 or not all(part.isalnum() for part in parts):
        raise ConfigError(f"{symbol!r} is no spot pair of {exchange}: write it as BASE/QUOTE, such as 'BTC/USDT'")
    return parts[0], parts[1]


class Names:
    """The instruments of a source, by the user's names and by the exchange's.

    An instrument that is given by name alone has the finest steps that the exchanges know: an order by it may be refused,
    and is never rounded to another price. `find` of the sources asks for the true ones.

    Args:
        exchange: for errors.
        symbols: names, or instruments with their steps.
        joined: what stands between the two parts of a pair in the exchange's names.
        most: how many one connection takes, None for any number.

    Raises:
        ConfigError: there is none, one is no spot pair, two are the same, or there are too many.
    """

    def __init__(self, exchange: str, symbols: Sequence[str | Instrument], *, joined: str, most: int | None = None) -> None:
        if isinstance(symbols, str):
            raise ConfigError(f"{exchange} takes a list of symbols: [{symbols!r}]")
        if not symbols:
            raise ConfigError(f"{exchange} needs at least one symbol, such as ['BTC/USDT']")
        if most is not None and len(symbols) > most:
            raise ConfigError(
                f"{exchange} takes at most {most} symbols on a connection, not {len(symbols)}: make several sources"
            )
        self._exchange = exchange
        self._symbols: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        instruments = []
        for given in symbols:
            symbol = given if isinstance(given, str) else given.symbol
            base, quote = pair(exchange, symbol, split=not joined)
            known = f"{base}{joined}{quote}"
            if known in self._symbols:
                raise ConfigError(f"{exchange}: {self._symbols[known]!r} and {symbol!r} are both {known}; name it once")
            self._symbols[known] = symbol
            self._ids[symbol] = known
            if isinstance(given, str):
                given = Instrument(given, tick_size=_FINEST, lot_size=_FINEST, currency=quote)
            instruments.append(given)
        self.instruments = tuple(instruments)

    @property
    def ids(self) -> tuple[str, ...]:
        """The exchange's names, in the user's order."""
        return tuple(self._symbols)

    def id(self, symbol: str) -> str:
        """Return the exchange's name.

        Raises:
            ConfigError: the source has no such symbol.
        """
        try:
            return self._ids[symbol]
        except KeyError:
            raise ConfigError(
                f"this source of {self._exchange} has no {symbol!r}; it has {', '.join(map(repr, self._ids))}"
            ) from None

    def symbol(self, known: str, channel: str) -> str:
        """Return the user's name.

        Raises:
            BadData: nobody subscribed to it.
        """
        try:
            return self._symbols[known]
        except KeyError:
            raise BadData(
                f"{self._exchange}, {channel}: it sent {shown(known)}, to which nobody subscribed; report it to the exchange"
            ) from None

    def told_in(self, text: str) -> str:
        """Return the user's name for what a text of the exchange speaks of, empty where it names none."""
        words = _WORD.findall(text.upper())
        return next((self._symbols[word] for word in words if word in self._symbols), "")


class Intervals:
    """The lengths of an exchange's candles.

    Args:
        exchange: for errors.
        names: its name for each.
    """

    def __init__(self, exchange: str, names: Mapping[timedelta, str]) -> None:
        self._exchange = exchange
        self._names = dict(names)

    def name(self, interval: timedelta) -> str:
        """Return the exchange's name.

        Raises:
            ConfigError: it has no such candles; names those it has.
        """
        try:
            return self._names[interval]
        except KeyError:
            has = ", ".join(written(each) for each in sorted(self._names))
            raise ConfigError(f"{self._exchange} has no candles of {interval}; it has {has}") from None


def written(interval: timedelta) -> str:
    """Return an interval in words as short as an exchange's: 5m, 4h."""
    seconds = int(interval.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def step(text: str) -> Decimal:
    """Return a step of price or quantity without needless zeros."""
    value = Decimal(text).normalize()
    return value.quantize(Decimal(1)) if value == value.to_integral_value() else value
