"""Whatever a provider does wrong, the router sees the one error that says who must act, and knows what it may have cost."""

from __future__ import annotations

import asyncio
import base64
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import quote

import pytest

from agentfund.clock import SimulatedClock
from agentfund.errors import (
    BadCredentials,
    BadRequest,
    InvalidOutput,
    LLMError,
    LLMTimeout,
    Overloaded,
    RateLimited,
    Refused,
    UsageCapped,
)
from agentfund.llms.anthropic import Anthropic
from agentfund.llms.failures import failure, told_failure
from agentfund.llms.openai import OpenAI
from agentfund.prompt import Prompt, Usage
from agentfund.testing.provider import Fault, Provider
from agentfund.trading import Proposal

NOW = datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC)
KEY = "sk-planted/0123456789+abcdefgh=="
ROUTES = ("anthropic", "responses", "chat")
Route = Anthropic | OpenAI


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def make(which: str, url: str, timeout_s: float = 5.0) -> Route:
    if which == "anthropic":
        return Anthropic(api_key=KEY, base_url=url, timeout_s=timeout_s, clock=SimulatedClock(NOW))
    form: Callable[..., OpenAI] = OpenAI
    api = "chat" if which == "chat" else "responses"
    return form(api_key=KEY, base_url=f"{url}/v1", api=api, free=False, timeout_s=timeout_s, clock=SimulatedClock(NOW))


def prompt() -> Prompt:
    return Prompt(agent="strategist", instructions="Propose one trade.", inputs={"close": [1.0, 2.0]}, output=Proposal)


async def error_of(route: Route) -> LLMError:
    with pytest.raises(LLMError) as caught:
        await route.complete(prompt())
    return caught.value


# What it becomes, and whether it is billed: not at all, as the provider counted, or at the worst case because nobody knows.
FAULTS: list[tuple[str, Fault, type[LLMError], str]] = [
    ("bad request", Fault.http(400), BadRequest, "no"),
    ("bad key", Fault.http(401), BadCredentials, "no"),
    ("forbidden", Fault.http(403), BadCredentials, "no"),
    ("unknown language model", Fault.http(404), BadCredentials, "no"),
    ("too large", Fault.http(413), BadRequest, "no"),
    ("rate limit", Fault.rate_limited(7), RateLimited, "no"),
    ("spend limit", Fault.spend_limit(), UsageCapped, "no"),
    ("workspace limit", Fault.usage_limits(), UsageCapped, "no"),
    ("low credit", Fault.low_credit(), UsageCapped, "no"),
    ("no quota", Fault.insufficient_quota(), UsageCapped, "no"),
    ("plan limit", Fault.plan_limit(1_900_000_000), UsageCapped, "no"),
    ("payment", Fault.http(402, "pay"), UsageCapped, "no"),
    ("redirect", Fault.http(307, headers={"location": "http://127.0.0.1:1/elsewhere"}), LLMError, "no"),
    ("internal error", Fault.http(500), Overloaded, "no"),
    ("unavailable", Fault.http(503), Overloaded, "no"),
    ("overloaded", Fault.http(529), Overloaded, "no"),
    ("reset", Fault.reset(), Overloaded, "worst"),
    ("cut", Fault.cut(), Overloaded, "worst"),
    ("truncated", Fault.truncated(), Overloaded, "worst"),
    ("wrong shape", Fault.wrong_shape(), Overloaded, "worst"),
    ("web page", Fault.html(), Overloaded, "no"),
    ("refusal", Fault.refusal(), Refused, "counted"),
    ("filtered", Fault.filtered(), Refused, "counted"),
    ("out of tokens", Fault.max_tokens(), InvalidOutput, "counted"),
    ("ten megabytes", Fault.huge(), InvalidOutput, "worst"),
]


@pytest.mark.parametrize("which", ROUTES)
@pytest.mark.parametrize(("fault", "kind", "billed"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
async def test_every_fault_is_one_error_after_one_request(
    provider: Provider, which: str, fault: Fault, kind: type[LLMError], billed: str
) -> None:
    """No retry of an SDK, the right class, and what was paid for is on the error."""
    before = len(provider.requests)
    provider.fail(fault, 1)
    route = make(which, provider.url)
    error = await error_of(route)
    assert type(error) is kind
    assert len(provider.requests) == before + 1
    if billed == "no":
        assert error.completion is None
    else:
        assert error.completion is not None
        counted = provider.requests[-1].usage if billed == "counted" else Usage()
        assert error.completion.usage == counted
        worst = route.worst_case_usd(prompt())
        assert 0 < error.completion.billed_usd <= worst
        assert billed == "counted" or error.completion.billed_usd == worst


@pytest.mark.parametrize("which", ROUTES)
async def test_limits_end_when_the_provider_says(provider: Provider, which: str) -> None:
    """A rate limit in seconds, a cap at a time."""
    provider.fail(Fault.rate_limited(7), 1)
    limited = await error_of(make(which, provider.url))
    provider.fail(Fault.plan_limit(1_900_000_000), 1)
    capped = await error_of(make(which, provider.url))
    assert isinstance(limited, RateLimited)
    assert limited.retry_after == 7.0
    assert isinstance(capped, UsageCapped)
    assert capped.until == datetime.fromtimestamp(1_900_000_000, UTC)


@pytest.mark.parametrize("which", ROUTES)
async def test_an_error_with_status_200_is_an_error(provider: Provider, which: str) -> None:
    """The body of a good status can say that it failed."""
    provider.fail(Fault.stream_error("busy", type="overloaded_error" if which == "anthropic" else "server_error"), 1)
    assert type(await error_of(make(which, provider.url))) is Overloaded


@pytest.mark.parametrize("which", ROUTES)
async def test_a_slow_drip_is_an_answer(provider: Provider, which: str) -> None:
    """Slow is not wrong, as long as the deadline holds."""
    provider.fail(Fault.drip(0.005), 1)
    completion = await make(which, provider.url).complete(prompt())
    assert completion.usage == provider.requests[-1].usage


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.drip(0.05, pieces=100)], ids=["hang", "drip"])
@pytest.mark.parametrize("which", ROUTES)
async def test_a_deadline_ends_the_call_and_its_connection(which: str, fault: Fault) -> None:
    """The whole call is timed, so bytes that keep dripping do not keep it alive; it is booked at its worst case."""
    with Provider(fault) as provider:
        route = make(which, provider.url, timeout_s=0.8)
        began = time.monotonic()
        error = await error_of(route)
        assert time.monotonic() - began < 3.0
        assert type(error) is LLMTimeout
        assert error.completion is not None
        assert error.completion.billed_usd == route.worst_case_usd(prompt())
        assert await until(lambda: provider.requests[0].dropped and provider.connections == 0)


@pytest.mark.parametrize("which", ROUTES)
async def test_a_cancelled_call_closes_its_connection(which: str) -> None:
    """Nobody pays for an answer that nobody waits for any more."""
    with Provider(Fault.hang()) as provider:
        task = asyncio.ensure_future(make(which, provider.url).complete(prompt()))
        assert await until(lambda: len(provider.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await until(lambda: provider.requests[0].dropped and provider.connections == 0)


@pytest.mark.parametrize("which", ROUTES)
async def test_a_server_that_is_down_was_sent_nothing(which: str) -> None:
    """So nothing is booked, and the router may try again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        error = await error_of(make(which, f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert type(error) is Overloaded
    assert "nothing was sent" in str(error)
    assert error.completion is None


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "base64": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "hex": lambda key: key.encode().hex(),
    "percent": lambda key: quote(key, safe=""),
    "cut off": lambda key: key[:20],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", ROUTES)
async def test_a_key_in_a_providers_words_goes_no_further(provider: Provider, which: str, form: str) -> None:
    """Not in the text, not in the representation, not in the traceback, and on no exception that hangs on the error."""
    shown = FORMS[form](KEY)
    faults = [Fault.http(status, f"the key {shown} is wrong") for status in (400, 401, 429, 500, 529)]
    route = make(which, provider.url)
    for fault in (*faults, Fault.refusal(f"I will not use {shown}"), Fault.stream_error(f"{shown}?"), Fault.reset()):
        provider.fail(fault, 1)
        error = await error_of(route)
        told = [str(error), repr(error), "".join(traceback.format_exception(error))]
        assert not any(part in text for part in (shown, KEY, KEY[:20]) for text in told)
        assert error.__cause__ is None
        assert error.__context__ is None


@pytest.mark.parametrize("value", ["sk-test\n0123456789", "sk-tést-0123456789", "sk-test 0123456789"])
@pytest.mark.parametrize("which", ROUTES)
async def test_a_key_that_cannot_be_one_is_not_sent(provider: Provider, which: str, value: str) -> None:
    """A line break in a header would fail deep inside, with the key in the message."""
    before = len(provider.requests)
    kind = Anthropic if which == "anthropic" else OpenAI
    with pytest.raises(BadCredentials, match="copy it once more") as caught:
        await kind(api_key=value, base_url=provider.url).complete(prompt())
    assert value not in str(caught.value)
    assert len(provider.requests) == before


CASES: list[tuple[int, str, str, type[LLMError]]] = [
    (429, "Rate limit reached. Add a payment method: https://platform.openai.com/account/billing", "", RateLimited),
    (429, "You can increase your usage limits; billing details", "requests rate_limit_exceeded", RateLimited),
    (429, "slow down", "rate_limit_error enforced_spend_limit_reached", UsageCapped),
    (429, "slow down", "rate_limit_error contract_spend_limit_reached", UsageCapped),
    (403, "Your credit balance is too low", "", UsageCapped),
    (400, "flagged", "invalid_request_error content_policy_violation", Refused),
    (408, "", "", LLMTimeout),
    (409, "", "", Overloaded),
    (422, "", "", BadRequest),
    (504, "", "", LLMTimeout),
    (302, "moved", "", LLMError),
]


@pytest.mark.parametrize(("status", "message", "code", "kind"), CASES)
def test_words_and_codes_are_told_apart(status: int, message: str, code: str, kind: type[LLMError]) -> None:
    """A rate limit that advertises is no spent account, and a spent account that looks like a rate limit is one."""
    assert type(failure(status, message, code=code, now=NOW)) is kind


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("Mon, 06 May 2030 07:09:09 GMT", 60.0), ("soon", None), ("-1", None), ("1e400", None)],
)
def test_retry_after_is_seconds_or_a_date(told: str, seconds: float | None) -> None:
    """And nothing where it is neither."""
    error = failure(429, "slow down", headers={"retry-after": told}, now=NOW)
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_a_cap_ends_by_header_by_body_or_by_wait() -> None:
    """Whatever the provider says first."""
    at = NOW + timedelta(hours=5)
    header = failure(429, "", headers=unified(at.timestamp()), now=NOW)
    body = told_failure(429, {"error": {"type": "usage_limit_reached", "resets_at": at.timestamp()}}, now=NOW)
    wait = failure(429, "", code="insufficient_quota", headers={"retry-after": "18000"}, now=NOW)
    never = failure(429, "", code="insufficient_quota", headers=unified("never"), now=NOW)
    assert [cap.until for cap in (header, body, wait, never) if isinstance(cap, UsageCapped)] == [at, at, at, None]


@pytest.mark.parametrize("body", [None, "", [], "<html>Bad gateway</html>", {"error": None}, {"error": "text"}, {"error": {}}])
def test_any_body_of_an_error_is_survived(body: object) -> None:
    """Providers, proxies and gateways send what they like."""
    error = told_failure(502, body, now=NOW, instead="Bad Gateway")
    assert type(error) is Overloaded
    assert "<" not in str(error)


def test_what_is_shown_of_an_error_is_short_and_says_the_fix() -> None:
    """A provider may answer with a novel."""
    assert len(str(failure(500, "x" * 10_000, now=NOW))) < 600
    assert "check the key" in str(failure(401, "no", now=NOW))
    assert "name of the language model" in str(failure(404, "no", now=NOW))


def test_a_worst_case_is_money() -> None:
    """The figure that lost calls are booked at is a real one."""
    assert make("anthropic", "http://127.0.0.1:1").worst_case_usd(prompt()) > Decimal("0.01")


def unified(reset: object) -> dict[str, str]:
    return {"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": str(reset)}


async def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        await asyncio.sleep(0.005)
    return true()
