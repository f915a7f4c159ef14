"""What an exchange on this machine trades, and the words in which its wires speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from agentfund.clock import to_micros

FOR_EVER = 10**13
"""In milliseconds since 1970: later than anything."""


def ms(moment: datetime) -> int:
    """Return milliseconds since 1970."""
    return to_micros(moment) // 1000


@dataclass(frozen=True, slots=True)
class Candle:
    """A candle as an exchange keeps it: prices and volume are texts, as they are on the wire."""

    start: datetime
    interval: timedelta
    open: str
    high: str
    low: str
    close: str
    volume: str

    @property
    def end(self) -> datetime:
        """When it closes."""
        return self.start + self.interval


@dataclass(frozen=True, slots=True)
class Push:
    """A message to those who have subscribed.

    Args:
        topic: what they subscribed to.
        body: the message's JSON.
    """

    topic: str
    body: Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What a wire makes of a client's message.

    Args:
        texts: answers, in order.
        topics: what the client is subscribed to from now on, beyond what it was.
    """

    texts: Sequence[str] = ()
    topics: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of the REST API.

    Args:
        status: of HTTP.
        body: JSON, or bytes as they are.
        headers: beyond the usual.
    """

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Shop:
    """What an exchange has.

    Args:
        pairs: what it trades, such as `("BTC", "USDT")`.
        now: its clock.
        most: the most candles on a page, below the real limit; None for the real one.
        candles: by pair and interval, oldest first; those that end after `now` are open.
    """

    pairs: tuple[tuple[str, str], ...] = (("BTC", "USDT"), ("ETH", "USDT"))
    now: datetime = datetime(2024, 5, 1, tzinfo=UTC)
    most: int | None = None
    candles: dict[tuple[tuple[str, str], timedelta], list[Candle]] = field(default_factory=dict)

    def within(self, pair: tuple[str, str], interval: timedelta, low: int, high: int) -> list[Candle]:
        """Return the candles whose start in milliseconds lies within, oldest first; none of the future."""
        held = self.candles.get((pair, interval), [])
        return [each for each in held if low <= ms(each.start) <= high and each.start <= self.now]

    def page(self, limit: int) -> int:
        """Return how many candles a page holds."""
        return limit if self.most is None else min(limit, self.most)


class Wire(Protocol):
    """How an exchange speaks."""

    def hear(self, text: str, path: str, topics: Sequence[str], shop: Shop) -> Reply:
        """Answer a client's message; `topics` is what it has subscribed to on a connection to `path`."""
        ...

    def trade(self, pair: tuple[str, str], key: str, price: str, volume: str, time: datetime, shop: Shop) -> Push:
        """Return the message of a trade."""
        ...

    def candle(self, pair: tuple[str, str], candle: Candle, shop: Shop, *, closed: bool) -> Push:
        """Return the message of a candle."""
        ...

    def best(self, pair: tuple[str, str], bid: str | None, ask: str | None, shop: Shop) -> Push:
        """Return the message of the best prices."""
        ...

    def get(self, path: str, query: Mapping[str, str], shop: Shop) -> Page:
        """Answer a question to the REST API."""
        ...
