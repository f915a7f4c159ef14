"""What a provider's answer to a failed request means for the router: one table for all routes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from agentfund.errors import (
    BadCredentials,
    BadRequest,
    LLMError,
    LLMTimeout,
    Overloaded,
    RateLimited,
    Refused,
    UsageCapped,
)
from agentfund.secrets import scrub

_SPENT_CODES = ("insufficient_quota", "billing", "spend_limit", "credit", "quota_exceeded", "usage_limit")
_SPENT_WORDS = (
    "credit balance",
    "usage limit",
    "spend limit",
    "billing details",
    "plans & billing",
    "exceeded your current quota",
    "quota exceeded",
)
_REFUSED_CODES = ("content_filter", "content_policy", "policy_violation", "bio_policy", "cyber_policy")
_STATUS = {
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 504,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_error": 500,
    "vector_store_timeout": 500,
    "overloaded_error": 529,
    "server_overloaded": 529,
}
_FIX = {
    401: "check the key or the login",
    403: "the key or the login may not do this",
    404: "check the name of the language model, and base_url",
}
_UNIFIED = "anthropic-ratelimit-unified-"
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError"}
_LONGEST_S = 366 * 86_400.0
_SHOWN = 500


def failure(
    status: int,
    message: str,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
    resets_at: float | None = None,
    now: datetime,
) -> LLMError:
    """Return the error that an HTTP status and a provider's words stand for, without any key in it.

    Args:
        status: of the response; the provider's own, also where a stream began with 200 and failed later.
        message: the provider's words.
        code: the provider's type or code of the error, or both.
        headers: of the response, names in lower case; `retry-after` is read.
        resets_at: when a usage cap ends, in seconds since 1970, where the provider says it outside of the headers.
        now: the wall time, for dates in headers.
    """
    headers = headers or {}
    told = f"{status} {scrub(message).strip()[:_SHOWN]}".strip()
    if status in _FIX:
        told += f" ({_FIX[status]})"
    code = code.lower()
    if status == 402 or (status in (400, 403, 429) and _spent(code, message.lower(), headers)):
        return UsageCapped(told, until=_reset(headers, resets_at, now))
    if any(one in code for one in _REFUSED_CODES):
        return Refused(told)
    if status == 429:
        return RateLimited(told, retry_after=retry_after(headers, now))
    if status in _FIX:  # an unknown language model is this route's fault, not the question's
        return BadCredentials(told)
    if status in (408, 499, 504):
        return LLMTimeout(told)
    if status == 409 or status >= 500:
        return Overloaded(told)
    if 400 <= status < 500:
        return BadRequest(told)
    return LLMError(told)


def told_failure(
    status: int, body: object, *, headers: Mapping[str, str] | None = None, now: datetime, instead: str = ""
) -> LLMError:
    """Return the error that a provider's error JSON stands for; Anthropic's and OpenAI's are known.

    Args:
        status: of the response; below 300 the status that belongs to the error's type or code is taken.
        body: as it came: the whole JSON or its `error`, or a text.
        headers: of the response, names in lower case.
        now: the wall time, for dates in headers.
        instead: said where the body has no message.
    """
    told = body.get("error", body) if isinstance(body, Mapping) else {}
    told = told if isinstance(told, Mapping) else {"message": told}
    details = told.get("details")
    codes = [told.get("type"), told.get("code"), details.get("error_code") if isinstance(details, Mapping) else None]
    known = [code for code in codes if isinstance(code, str)]
    message = told.get("message") or (body if isinstance(body, str) and not body.lstrip().startswith("<") else instead)
    if status < 300:
        status = next((_STATUS[code] for code in reversed(known) if code in _STATUS), 400)
    resets_at = told.get("resets_at")
    return failure(
        status,
        str(message),
        code=" ".join(known),
        headers=headers,
        resets_at=resets_at if isinstance(resets_at, (int, float)) else None,
        now=now,
    )


def sdk_failure(error: BaseException, now: datetime) -> tuple[LLMError, bool]:
    """Return the error that an exception of the SDKs, or of the HTTP client below them, stands for.

    The second value says whether the question may have been answered, and so billed, without our knowing. The exception
    holds headers and so the key: raise the result outside of the `except` block, so that it does not hang on it.
    """
    response: Any = getattr(error, "response", None)
    status = getattr(error, "status_code", None)
    cause = error.__cause__ or error
    kinds = {kind.__name__ for one in (error, cause) for kind in type(one).__mro__}
    if isinstance(status, int) and response is not None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = getattr(error, "body", None)
        return told_failure(status, body, headers=headers, now=now, instead=response.reason_phrase), False
    if kinds & _NOT_SENT:
        return Overloaded(f"the provider cannot be reached ({type(cause).__name__}); nothing was sent"), False
    if "APITimeoutError" in kinds or "TimeoutException" in kinds:
        return LLMTimeout("the provider took too long; the call may still be billed"), True
    if "APIConnectionError" in kinds or "TransportError" in kinds:
        return Overloaded(f"the connection broke before the answer was complete ({type(cause).__name__})"), True
    return LLMError(f"the SDK failed with {type(error).__name__}"), True


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


def _spent(code: str, message: str, headers: Mapping[str, str]) -> bool:
    if any(one in code for one in _SPENT_CODES) or headers.get(f"{_UNIFIED}status") == "rejected":
        return True
    # OpenAI's rate limits advise to pay more, in words that a spent account is told too.
    return "rate_limit_exceeded" not in code and any(one in message for one in _SPENT_WORDS)


def _reset(headers: Mapping[str, str], resets_at: float | None, now: datetime) -> datetime | None:
    """Return when a cap ends, by the provider's `…-unified-reset` (seconds since 1970) or `retry-after`."""
    for told in (headers.get(f"{_UNIFIED}reset"), resets_at):
        try:
            return datetime.fromtimestamp(float(told or "none"), UTC)
        except (ValueError, OverflowError, OSError):
            continue
    seconds = retry_after(headers, now)
    return None if seconds is None else now + timedelta(seconds=seconds)
