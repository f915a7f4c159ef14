"""Asking a provider again, where it did not answer: with jitter, as late as it asks for, and never beyond a deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from agentfund.errors import FeedError

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from agentfund.protocols import Clock

T = TypeVar("T")

_FIRST_S, _LONGEST_S, _JITTER_S = 1.0, 15.0, 0.5


class AskAgain(FeedError):
    """A question that may be answered later.

    Args:
        message: what went wrong.
        fix: what to do if asking again does not help.
        retry_after: seconds that the provider asks to wait, None where it names none.
    """

    def __init__(self, message: str, fix: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.fix = fix
        self.retry_after = retry_after


async def retried(ask: Callable[[], Awaitable[T]], clock: Clock, until: float) -> T:
    """Return an answer, asking again after `AskAgain` until `until` on the clock's monotonic counter.

    Args:
        ask: asks once.
        clock: counts the time and waits.
        until: no question is asked later.

    Raises:
        FeedError: there is no answer by then, or the provider asks to wait longer.
    """
    from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

    backoff = wait_exponential(multiplier=_FIRST_S, max=_LONGEST_S) + wait_random(0, _JITTER_S)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after if isinstance(error, AskAgain) and error.retry_after is not None else 0.0
        return max(asked, backoff(state))

    def stop(state: RetryCallState) -> bool:
        return clock.monotonic() + state.upcoming_sleep > until

    async def once() -> T:  # tenacity only awaits what it can see to be a coroutine function
        return await ask()

    retrying = AsyncRetrying(retry=retry_if_exception_type(AskAgain), wait=wait, stop=stop, sleep=clock.sleep, reraise=True)
    try:
        return await retrying(once)
    except AskAgain as error:
        wish = f"; it asks to wait {error.retry_after:.0f} s" if error.retry_after is not None else ""
        raise FeedError(f"{error}{wish}: {error.fix}") from None


def seconds_asked(header: str | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header, which names seconds or a date; None where there is none."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    moment = http_date(header)
    return max(0.0, (moment - now).total_seconds()) if moment is not None else None


def http_date(header: str | None) -> datetime | None:
    """Return the moment that a header names, None where it names none."""
    try:
        moment = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
