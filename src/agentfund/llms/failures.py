"""What a provider's answer to a failed request means for the router: one table for all routes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from agentfund.errors import (
    BadCredentials,
    BadRequest,
    LLMError,
    LLMTimeout,
    Overloaded,
    RateLimited,
    UsageCapped,
)
from agentfund.secrets import scrub

_SPENT_CODES = ("insufficient_quota", "billing", "spend_limit", "credit", "quota_exceeded")
_SPENT_WORDS = ("credit balance", "usage limit", "spend limit", "billing", "exceeded your current quota", "quota exceeded")
_LONGEST_S = 366 * 86_400.0
_SHOWN = 500


def failure(
    status: int,
    message: str,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
    now: datetime,
) -> LLMError:
    """Return the error that an HTTP status and a provider's words stand for, without any key in it.

    Args:
        status: of the response; the provider's own, also where a stream began with 200 and failed later.
        message: the provider's words.
        code: the provider's type or code of the error.
        headers: of the response, names in lower case; `retry-after` is read.
        now: the wall time, for dates in headers.
    """
    headers = headers or {}
    told = f"{status} {scrub(message).strip()[:_SHOWN]}".strip()
    spent = any(one in code.lower() for one in _SPENT_CODES) or any(one in message.lower() for one in _SPENT_WORDS)
    if status == 402 or (status in (400, 403, 429) and spent):
        return UsageCapped(told, until=_reset(headers, now))
    if status == 429:
        return RateLimited(told, retry_after=retry_after(headers, now))
    if status in (401, 403, 404):  # an unknown language model is this route's fault, not the question's
        return BadCredentials(told)
    if status in (408, 499, 504):
        return LLMTimeout(told)
    if status == 409 or status >= 500:
        return Overloaded(told)
    if 400 <= status < 500:
        return BadRequest(told)
    return LLMError(told)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that `retry-after-ms` or `retry-after` (seconds or a date) asks to wait; None where neither does."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        told = headers.get(name, "")
        try:
            seconds = float(told) / unit
        except ValueError:
            try:
                seconds = (parsedate_to_datetime(told) - now).total_seconds()
            except (ValueError, TypeError, IndexError):
                continue
        if 0 <= seconds <= _LONGEST_S:
            return seconds
    return None


def _reset(headers: Mapping[str, str], now: datetime) -> datetime | None:
    """Return when a cap ends, by the provider's `…-unified-reset` (seconds since 1970) or `retry-after`."""
    try:
        return datetime.fromtimestamp(float(headers["anthropic-ratelimit-unified-reset"]), UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        pass
    seconds = retry_after(headers, now)
    return None if seconds is None else now + timedelta(seconds=seconds)
