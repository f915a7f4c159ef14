"""The route to OpenAI's API, and to servers that speak it: two wire forms, three ways to ask for JSON, and no price at home."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from agentfund.core.router import Router
from agentfund.errors import BadCredentials, BudgetExceeded, ConfigError, LLMError, Overloaded
from agentfund.llms.openai import LLMS, OpenAI
from agentfund.llms.prices import Price
from agentfund.prompt import Completion, Prompt, Usage
from agentfund.protocols import identity
from agentfund.testing import LLMContract
from agentfund.testing.provider import Fault, Provider, Request
from agentfund.trading import Proposal

KEY = "sk-test-0123456789"
ABSTAIN = '{"value":null,"abstain":"no edge"}'
FORMS = ("responses", "chat")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(ABSTAIN) as running:
        yield running


def prompt(**more: Any) -> Prompt:
    given: dict[str, Any] = {
        "agent": "coder",
        "instructions": "Propose one trade.",
        "inputs": {"close": [1.0, 2.0]},
        "output": Proposal,
    }
    return Prompt(**given | more)


def route(provider: Provider, llm: Any = None, **more: Any) -> OpenAI:
    given: dict[str, Any] = {"api_key": KEY, "base_url": f"{provider.url}/v1", "free": False}
    return OpenAI(llm, **given | more)


class OpenAIContract(LLMContract):
    form = ""

    @pytest.fixture(autouse=True)
    def _servers(self) -> Iterator[None]:
        with Provider(ABSTAIN) as good, Provider(Fault.http(503)) as bad, Provider(Fault.hang()) as slow:
            self.good, self.bad, self.slow = good, bad, slow
            yield

    def make_llm(self) -> OpenAI:
        return route(self.good, api=self.form)

    def make_failing_llm(self) -> OpenAI:
        return route(self.bad, api=self.form)

    def make_slow_llm(self) -> OpenAI:
        return route(self.slow, api=self.form)

    def requests(self) -> int:
        return len(self.bad.requests)


class TestResponsesContract(OpenAIContract):
    """The shipped suite over Responses."""

    form = "responses"


class TestChatContract(OpenAIContract):
    """The shipped suite over Chat Completions."""

    form = "chat"


@pytest.mark.parametrize("form", FORMS)
async def test_the_answer_comes_as_it_is_and_a_router_parses_it(provider: Provider, form: str) -> None:
    """The text is the language model's own, and the router's budget holds around it."""
    completion = await Router([route(provider, api=form)], budget_usd_per_day=1).complete(prompt())
    assert completion.text == ABSTAIN
    assert completion.answer is not None
    assert completion.answer.abstain == "no edge"
    assert completion.request_id == "req_00000001"


async def test_reasoning_is_counted_and_is_no_part_of_the_answer() -> None:
    """Items that are no message are left out; their tokens are not."""
    with Provider(ABSTAIN, thinking="let me think about it") as provider:
        completion = await route(provider).complete(prompt())
    assert completion.text == ABSTAIN
    assert completion.usage.output_tokens > -(-len(ABSTAIN) // 4)


async def test_a_responses_request_is_what_the_api_wants(provider: Provider) -> None:
    """Strict schema, nothing stored, no temperature."""
    await route(provider, effort="high").complete(prompt(tier="small", max_output_tokens=77))
    body = dict(provider.requests[0].request.body)
    assert body["text"]["format"]["strict"] is True
    assert body["text"]["format"]["schema"]["additionalProperties"] is False
    assert (body["model"], body["max_output_tokens"], body["store"]) == ("gpt-6-luna", 77, False)
    assert body["reasoning"] == {"effort": "high"}
    assert set(body) == {"model", "instructions", "input", "max_output_tokens", "store", "text", "reasoning"}


async def test_a_chat_request_is_what_most_servers_know(provider: Provider) -> None:
    """The old name of the limit, and none of OpenAI's own extras."""
    await route(provider, api="chat", effort="low").complete(prompt(max_output_tokens=77))
    body = dict(provider.requests[0].request.body)
    assert body["response_format"]["json_schema"]["strict"] is True
    assert set(body) == {"model", "messages", "max_tokens", "response_format", "reasoning_effort"}


def test_openais_own_server_gets_openais_own_extras() -> None:
    """The new name of the limit, a key for its cache, and word to store nothing."""
    chat, responses = OpenAI(api="chat")._chat_request(prompt()), OpenAI()._request(prompt())
    assert chat["max_completion_tokens"] == 2048
    assert chat["prompt_cache_key"] == responses["prompt_cache_key"] == "coder"
    assert chat["store"] is responses["store"] is False


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["object", "none"])
async def test_servers_without_a_schema_mode_are_told_in_words(provider: Provider, form: str, mode: str) -> None:
    """The schema stands in the instructions, and the router's parsing is as strict as ever."""
    await route(provider, api=form, schema=mode).complete(prompt())
    request = provider.requests[0].request
    assert '"position_scale"' in request.system
    asked = request.body.get("text", {}).get("format") or request.body.get("response_format")
    assert asked == ({"type": "json_object"} if mode == "object" else None)


async def test_limits_that_the_strict_mode_refuses_are_told_in_words(provider: Provider) -> None:
    """Otherwise the whole request would be refused; a field may be called like a limit."""

    class Odd(BaseModel):
        maxLength: Annotated[str, Field(max_length=5, description="short")]  # noqa: N815
        pattern: Annotated[str, Field(pattern="^[A-Z]+$")]
        price: Decimal
        link: Annotated[str, Field(json_schema_extra={"format": "uri"})]

    await route(provider).complete(prompt(output=Odd))
    told = provider.requests[0].request.body["text"]["format"]["schema"]["$defs"]["Odd"]["properties"]
    assert told["maxLength"] == {"type": "string", "description": "short (maxLength: 5)"}
    assert told["pattern"]["pattern"] == "^[A-Z]+$"
    assert "(?" not in str([part.get("pattern") for part in told["price"]["anyOf"]])
    assert "format" not in told["link"]


@pytest.mark.parametrize("form", FORMS)
async def test_usage_and_money_are_the_servers_call_by_call(form: str) -> None:
    """Whatever is answered, however long, cached or not: the completion says what the server counted, to the token."""

    def answer(request: Request) -> str | Fault:
        return Fault.refusal() if request.number % 5 == 0 else "x" * (request.number * 7)

    price = Price(Decimal(2), Decimal(10), Decimal("0.1"), Decimal("2.5"))
    with Provider(answer, caching=True, thinking="hm") as provider:
        asked = route(provider, "own", api=form, prices={"own": price})
        for number in range(1, 21):
            completion = await paid(asked, prompt(inputs={"n": "y" * number}))
            served = provider.requests[-1]
            assert completion.usage == served.usage
            assert completion.billed_usd == completion.notional_usd == price.cost(served.usage)
        assert provider.requests[-1].usage.cached_tokens > 0


async def paid(asked: OpenAI, question: Prompt) -> Completion:
    """What was paid for, whether it is an answer or not."""
    try:
        return await asked.complete(question)
    except LLMError as error:
        return error.completion or Completion("", "", "")


async def test_a_local_server_needs_no_key_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it never sees the key of the environment; a budget of nothing takes it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment-00000")
    with Provider(ABSTAIN, key="unused") as provider:
        asked = OpenAI("qwen3", base_url=f"{provider.url}/v1/", api="chat")
        completion = await Router([asked], budget_usd_per_day=0).complete(prompt())
        assert completion.billed_usd == completion.notional_usd == Decimal(0)
        assert completion.usage == provider.requests[0].usage
        assert await asked.check() == ""


async def test_a_local_server_may_count_nothing() -> None:
    """Some leave the usage out; a free answer is an answer all the same, a paid one is booked at its worst case."""
    body = b'{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        free = await OpenAI("m", base_url=url, api="chat").complete(prompt())
        assert (free.text, free.usage, free.billed_usd) == ("hi", Usage(), Decimal(0))
        paid = OpenAI("m", base_url=url, api="chat", api_key=KEY, prices={"m": Price(1, 1)})
        completion = await paid.complete(prompt())
        assert completion.billed_usd == paid.worst_case_usd(prompt()) > 0
        assert completion.notional_usd is None


async def test_a_local_server_that_is_down_is_said_beforehand() -> None:
    """The check names the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        assert f"no server answers at {url}" in await OpenAI("qwen3", base_url=url).check()


FREE = [
    ("http://127.0.0.1:11434/v1", {}, True),
    ("http://localhost:11434/v1", {}, True),
    ("http://192.168.1.20:8000/v1", {}, True),
    ("http://gpu-box:8000/v1", {}, True),
    ("https://models.lan/v1", {}, True),
    ("https://api.example.com/v1", {}, False),
    ("https://8.8.8.8/v1", {}, False),
    ("http://127.0.0.1:4000/v1", {"free": False}, False),
    ("http://127.0.0.1:4000/v1", {"prices": {"qwen3": Price(1, 1)}}, False),
    ("https://api.example.com/v1", {"free": True}, True),
]


@pytest.mark.parametrize(("url", "more", "free"), FREE)
def test_what_stands_on_ones_own_network_is_free_unless_told(url: str, more: dict[str, Any], free: bool) -> None:
    """A gateway to something that is billed must be named as one; what is unknown stops a budget."""
    asked = OpenAI("qwen3", base_url=url, **more)
    if free:
        assert asked.worst_case_usd(prompt()) == 0
    elif "prices" in more:
        assert asked.worst_case_usd(prompt()) > 0
    else:
        with pytest.raises(BudgetExceeded):
            asked.worst_case_usd(prompt())


async def test_the_environment_steers_nothing_else(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither key, address, organisation, project nor headers of the environment reach a server of one's own."""
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", f"environment-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other\nX-Mine: yes")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    await route(provider).complete(prompt())
    headers = provider.requests[0].request.headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert not {"x-mine", "openai-organization", "openai-project"} & set(headers)
    assert "environment" not in str(dict(headers))
    with pytest.raises(BadCredentials, match="give api_key"):
        await OpenAI(base_url="https://api.example.com/v1").complete(prompt())


async def test_without_a_key_it_builds_and_says_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router can hold routes that are not set up yet."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY is not set" in await OpenAI().check()
    with pytest.raises(BadCredentials, match="OPENAI_API_KEY is not set"):
        await OpenAI().complete(prompt())
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert await OpenAI().check() == ""


async def test_the_wrong_wire_form_is_named() -> None:
    """A server that speaks the other one answers with what cannot be an answer, or not at all."""
    with Provider(Fault.http(404, "no such endpoint")) as provider:
        with pytest.raises(BadCredentials, match="base_url"):
            await route(provider).complete(prompt())
        provider.fail(Fault.wrong_shape())
        with pytest.raises(Overloaded, match="api='chat'"):
            await route(provider).complete(prompt())


def test_what_an_answer_depends_on_is_in_its_identity() -> None:
    """Recordings are kept by it."""
    assert identity(OpenAI(effort="low"), prompt()) == "openai/gpt-6.1-terra/effort=low,layout=1"
    assert identity(OpenAI("q", api="chat", schema="object"), prompt()) == "openai/q/api=chat,schema=object,layout=1"
    assert {tier: OpenAI().llm(prompt(tier=tier)) for tier in LLMS} == LLMS
    there = [OpenAI("q", base_url=url) for url in ("http://127.0.0.1:8001/v1", "http://[::1]:8001/v1", "https://q.example/v1/")]
    assert [identity(llm, prompt()) for llm in there] == [
        "openai/q/layout=1,url=127.0.0.1:8001",
        "openai/q/layout=1,url=[::1]:8001",
        "openai/q/layout=1,url=q.example:443",
    ]
    assert OpenAI().suits == "code"


@pytest.mark.parametrize(
    "wrong",
    [
        {"api": "completions"},
        {"schema": "loose"},
        {"effort": "extreme"},
        {"free": True},
        {"base_url": "http://example.com/v1"},
        {"base_url": "https://example.com/v1?key=abc"},
        {"base_url": "https://example.com:port/v1"},
        {"timeout_s": float("inf")},
    ],
)
def test_what_cannot_work_is_said_when_it_is_built(wrong: dict[str, Any]) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigError):
        OpenAI(**wrong)


async def test_a_thousand_calls_at_once_are_answered(provider: Provider) -> None:
    """They share connections, and those that wait for one are not failures."""
    asked = route(provider, timeout_s=240)
    completions = await asyncio.gather(*(asked.complete(prompt()) for _ in range(1000)))
    assert sum((completion.usage for completion in completions), Usage()) == provider.usage()
    assert len({completion.request_id for completion in completions}) == 1000
