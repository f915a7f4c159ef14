"""Bars of the past, page by page, without a seam and without the bar that is still open."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from agentfund.clock import to_micros, utc
from agentfund.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from agentfund.market import Bar

    Ask = Callable[[int, int], Awaitable[Sequence[Bar]]]

# A server's clock is told to the second, and what it answers may be as old as its cache.
_SETTLED = timedelta(seconds=2)


def span(interval: timedelta, start: datetime, end: datetime) -> tuple[int, int, int]:
    """Return the first start that is asked for, the end, and the interval, in milliseconds since 1970."""
    step = interval // timedelta(milliseconds=1)
    first = -(-to_micros(utc(start)) // (step * 1000)) * step
    return first, to_micros(utc(end)) // 1000, step


def start_ms(bar: Bar) -> int:
    """Return a bar's start in milliseconds since 1970."""
    return to_micros(bar.start) // 1000


async def forwards(exchange: str, ask: Ask, first: int, last: int, step: int) -> list[Bar]:
    """Page from the oldest bar on: `ask(low, high)` gives the oldest bars that start within, oldest first.

    Raises:
        BadData: a page is out of order.
    """
    bars: list[Bar] = []
    low = first
    while low <= last:
        page = await ask(low, last)
        if not page:
            break
        _check(exchange, page, low, last)
        bars.extend(page)
        low = start_ms(page[-1]) + step
    return bars


async def backwards(exchange: str, ask: Ask, first: int, last: int, step: int, limit: int) -> list[Bar]:
    """Page by stretches of `limit` bars: `ask(low, high)` gives the newest bars that start within, newest first.

    A stretch is asked for again from its oldest bar down until nothing comes, so a server that gives fewer bars than it
    promises leaves no hole.

    Raises:
        BadData: a page is out of order.
    """
    bars: list[Bar] = []
    for low in range(first, last + 1, step * limit):
        high = min(low + step * (limit - 1), last)
        stretch: list[Bar] = []
        while high >= low:
            page = list(reversed(await ask(low, high)))
            if not page:
                break
            _check(exchange, page, low, high)
            stretch[:0] = page
            high = start_ms(page[0]) - step
        bars.extend(stretch)
    return bars


def _check(exchange: str, page: Sequence[Bar], low: int, high: int) -> None:
    starts = [start_ms(bar) for bar in page]
    if starts[0] < low or starts[-1] > high or any(later <= earlier for earlier, later in pairwise(starts)):
        raise BadData(
            f"{exchange} sent bars of {page[0].symbol} that are out of order or were not asked for, from {page[0].start} to "
            f"{page[-1].start}; the exchange changed its format, or a cache on the way is broken"
        )


def closed(bars: Sequence[Bar], end: datetime, now: datetime | None) -> list[Bar]:
    """Return the bars that end by `end` and have certainly closed.

    The newest has closed where the exchange's own clock is well beyond its end. All others have: a later one is there.

    Args:
        bars: oldest first, with one beyond `end` where there is one.
        end: where to stop.
        now: the exchange's clock when it answered, None where it does not tell it.
    """
    settled = len(bars)
    if bars and (now is None or bars[-1].end + _SETTLED > now):
        settled -= 1
    return [bar for bar in bars[:settled] if bar.end <= end]
