"""The provider speaks what the real SDKs understand, counts by its rule, and fails exactly as it is told."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from agentfund.prompt import Usage
from agentfund.testing.provider import Fault, Provider, Request, Served

ANSWER = '{"value":null,"abstain":"no edge"}'
ASK: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "You trade.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "close 100"}]}],
    },
    "/v1/responses": {"model": "m", "instructions": "You trade.", "input": "close 100"},
    "/v1/chat/completions": {
        "model": "m",
        "messages": [{"role": "system", "content": "You trade."}, {"role": "user", "content": "close 100"}],
    },
}
PATHS = tuple(ASK)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(ANSWER) as running:
        yield running


def post(provider: Provider, path: str = "/v1/messages", **more: Any) -> httpx2.Response:
    with httpx2.Client(timeout=5.0) as client:
        return client.post(provider.url + path, json={**ASK[path], **more})


def said(path: str, body: dict[str, Any]) -> str:
    """The text of an answer in one piece."""
    if path == "/v1/messages":
        return str(body["content"][0]["text"])
    if path == "/v1/responses":
        return str(body["output"][0]["content"][0]["text"])
    return str(body["choices"][0]["message"]["content"])


@pytest.mark.parametrize("path", PATHS)
def test_every_api_says_the_same_answer(provider: Provider, path: str) -> None:
    """One answer, three wire forms, and the question is read out of each."""
    assert said(path, post(provider, path).json()) == ANSWER
    request = provider.requests[0].request
    assert (request.system, request.user, request.model) == ("You trade.", "close 100", "m")


def test_the_sdks_read_a_message() -> None:
    """Anthropic's own client, whole and streamed: the same text, and the usage that was counted."""
    with Provider(ANSWER, caching=True, thinking="let me see") as provider:
        client = anthropic.Anthropic(api_key="any", base_url=provider.url, max_retries=0)
        whole = client.messages.create(**ASK["/v1/messages"])
        with client.messages.stream(**ASK["/v1/messages"]) as stream:
            streamed = stream.get_final_message()
        client.close()
        for message, served in zip((whole, streamed), provider.requests, strict=True):
            assert [block.text for block in message.content if block.type == "text"] == [ANSWER]
            assert message.stop_reason == "end_turn"
            told = message.usage
            read, written = told.cache_read_input_tokens or 0, told.cache_creation_input_tokens or 0
            assert Usage(told.input_tokens + read + written, told.output_tokens, read, written) == served.usage
        assert provider.requests[0].usage.cache_write_tokens == provider.requests[1].usage.cached_tokens == 3


def test_the_sdks_read_a_response() -> None:
    """OpenAI's own client, Responses, whole and streamed."""
    with Provider(ANSWER, cached_tokens=5, cache_write_tokens=2) as provider:
        client = openai.OpenAI(api_key="any", base_url=f"{provider.url}/v1", max_retries=0)
        whole = client.responses.create(**ASK["/v1/responses"])
        with client.responses.stream(**ASK["/v1/responses"]) as stream:
            streamed = stream.get_final_response()
        client.close()
        for response, served in zip((whole, streamed), provider.requests, strict=True):
            assert response.output_text == ANSWER
            assert response.usage is not None
            details = response.usage.input_tokens_details
            counted = (response.usage.input_tokens, response.usage.output_tokens)
            assert Usage(*counted, details.cached_tokens, details.cache_write_tokens) == served.usage


def test_the_sdks_read_a_chat_completion() -> None:
    """OpenAI's own client, Chat Completions, whole and streamed."""
    with Provider(ANSWER) as provider:
        client = openai.OpenAI(api_key="any", base_url=f"{provider.url}/v1", max_retries=0)
        whole = client.chat.completions.create(**ASK["/v1/chat/completions"])
        with client.chat.completions.stream(**ASK["/v1/chat/completions"]) as stream:
            streamed = stream.get_final_completion()
        client.close()
        for chat, served in zip((whole, streamed), provider.requests, strict=True):
            assert chat.choices[0].message.content == ANSWER
            assert chat.usage is not None
            assert Usage(chat.usage.prompt_tokens, chat.usage.completion_tokens) == served.usage


def test_tokens_are_counted_by_the_rule(provider: Provider) -> None:
    """One token for four bytes of the body and of the answer, rounded up."""
    response = post(provider)
    sent = len(response.request.content)
    assert provider.requests[0].usage == Usage(-(-sent // 4), -(-len(ANSWER) // 4))
    assert provider.usage() == provider.requests[0].usage


def test_the_schema_tool_gets_the_answer_and_its_result_ends_the_turn(provider: Provider) -> None:
    """That is how the `claude` command line asks for JSON: first a call of the tool, then a word that it is done."""
    tools = [{"name": "StructuredOutput", "input_schema": {"type": "object"}}]
    first = post(provider, tools=tools).json()
    assert (first["stop_reason"], first["content"][0]["input"]) == ("tool_use", json.loads(ANSWER))
    result = {"type": "tool_result", "tool_use_id": first["content"][0]["id"], "content": "ok"}
    second = post(provider, tools=tools, messages=[{"role": "user", "content": [result]}]).json()
    assert (second["stop_reason"], second["content"]) == ("end_turn", [{"type": "text", "text": "Done."}])
    wrong = {**result, "is_error": True}
    third = post(provider, tools=tools, messages=[{"role": "user", "content": [wrong]}]).json()
    assert third["stop_reason"] == "tool_use"


def test_answers_come_from_a_list_or_a_function() -> None:
    """A list is used up; a function sees the question; an error of either is the server's, told in words."""
    with Provider([ANSWER, Fault.http(529)]) as provider:
        provider.fail(Fault.http(503), 1)  # uses no answer up
        assert [post(provider).status_code for _ in range(4)] == [503, 200, 529, 500]

    def answer(request: Request) -> str:
        return f"{request.number}: {request.user.upper()} {1 // (2 - request.number)}"

    with Provider(answer) as provider:
        assert said("/v1/messages", post(provider).json()) == "1: CLOSE 100 1"
        assert "ZeroDivisionError" in post(provider).text


def test_faults_queue_up_and_end() -> None:
    """So many times each, in order; without a number until `recover`."""
    with Provider(ANSWER) as provider:
        provider.fail(Fault.http(500), 1)
        provider.fail(Fault.http(529), 2)
        provider.fail(Fault.http(503))
        assert [post(provider).status_code for _ in range(5)] == [500, 529, 529, 503, 503]
        provider.recover()
        assert post(provider).status_code == 200
        assert [served.status for served in provider.requests] == [500, 529, 529, 503, 503, 200]


STATUSES = [
    (Fault.http(400), "BadRequestError", "BadRequestError"),
    (Fault.http(401), "AuthenticationError", "AuthenticationError"),
    (Fault.http(403), "PermissionDeniedError", "PermissionDeniedError"),
    (Fault.http(404), "NotFoundError", "NotFoundError"),
    (Fault.http(413), "ContentTooLargeError", "APIStatusError"),
    (Fault.rate_limited(7), "RateLimitError", "RateLimitError"),
    (Fault.spend_limit(), "EnforcedSpendLimitReachedError", "RateLimitError"),
    (Fault.insufficient_quota(), "RateLimitError", "RateLimitError"),
    (Fault.http(500), "InternalServerError", "InternalServerError"),
    (Fault.http(503), "ServiceUnavailableError", "InternalServerError"),
    (Fault.http(529), "OverloadedError", "InternalServerError"),
]


@pytest.mark.parametrize(("fault", "by_anthropic", "by_openai"), STATUSES)
def test_error_statuses_are_the_errors_that_the_sdks_know(fault: Fault, by_anthropic: str, by_openai: str) -> None:
    """The error JSON has each provider's form, so each SDK finds its own exception."""
    with Provider(fault) as provider:
        messages = anthropic.Anthropic(api_key="any", base_url=provider.url, max_retries=0)
        with pytest.raises(anthropic.APIStatusError) as first:
            messages.messages.create(**ASK["/v1/messages"])
        responses = openai.OpenAI(api_key="any", base_url=f"{provider.url}/v1", max_retries=0)
        with pytest.raises(openai.APIStatusError) as second:
            responses.responses.create(**ASK["/v1/responses"])
        messages.close()
        responses.close()
    assert (type(first.value).__name__, type(second.value).__name__) == (by_anthropic, by_openai)
    assert fault.message in str(first.value)
    assert fault.message in str(second.value)
    assert first.value.request_id == "req_00000001"


def test_limits_say_when_they_end(provider: Provider) -> None:
    """A rate limit by `retry-after`, a plan by its own headers."""
    provider.fail(Fault.rate_limited(7), 1)
    provider.fail(Fault.plan_limit(1_800_000_000), 1)
    assert post(provider).headers["retry-after"] == "7"
    assert post(provider).headers["anthropic-ratelimit-unified-reset"] == "1800000000"


def test_a_hanging_request_ends_with_its_client(provider: Provider) -> None:
    """The provider notices that the client has gone, and stops at once itself."""
    provider.fail(Fault.hang(), 1)
    with httpx2.Client(timeout=0.1) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(f"{provider.url}/v1/messages", json=ASK["/v1/messages"])
    assert until(lambda: provider.requests[0].dropped and provider.connections == 0)


def test_leaving_does_not_wait_for_those_that_hang() -> None:
    """A client that neither reads nor goes does not keep the server."""
    with Provider(Fault.huge()) as provider, socket.create_connection(address(provider)) as client:
        client.sendall(b"POST /v1/messages HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
        assert until(lambda: len(provider.requests) == 1)
        began = time.monotonic()
        provider.__exit__()
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_drip_arrives_whole_but_slowly(provider: Provider, path: str, stream: bool) -> None:
    """The bytes are right; only the pauses are wrong."""
    whole = post(provider, path, stream=stream).content
    provider.fail(Fault.drip(0.01, pieces=5))
    began = time.monotonic()
    assert post(provider, path, stream=stream).content.replace(b"00000002", b"00000001") == whole
    assert time.monotonic() - began >= 0.04


def test_connections_break_before_and_within_the_answer(provider: Provider) -> None:
    """A reset is a reset, and half an answer is less than was promised."""
    provider.fail(Fault.reset(), 1)
    provider.fail(Fault.cut(), 1)
    for _ in range(2):
        with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
            post(provider)
    assert [served.status for served in provider.requests] == [0, 200]


def test_bodies_that_are_none(provider: Provider) -> None:
    """Half of a JSON, another JSON, and a web page, all with status 200."""
    for fault in (Fault.truncated(), Fault.wrong_shape(), Fault.html()):
        provider.fail(fault, 1)
    with pytest.raises(ValueError):
        post(provider).json()
    assert "content" not in post(provider).json()
    assert post(provider).text.startswith("<!doctype html>")


STOPS = [
    (Fault.refusal("no"), "refusal", "completed", "stop"),
    (Fault.max_tokens(), "max_tokens", "incomplete", "length"),
    (Fault.context(), "model_context_window_exceeded", "failed", "length"),
    (Fault.filtered(), "refusal", "incomplete", "content_filter"),
    (Fault.empty(), "end_turn", "completed", "stop"),
]


@pytest.mark.parametrize(("fault", "message", "response", "chat"), STOPS)
def test_answers_that_end_badly_say_so_and_are_billed(fault: Fault, message: str, response: str, chat: str) -> None:
    """Each API has its own word for why an answer ended."""
    with Provider(ANSWER) as provider:
        provider.fail(fault)
        assert post(provider, "/v1/messages").json()["stop_reason"] == message
        assert post(provider, "/v1/responses").json()["status"] == response
        assert post(provider, "/v1/chat/completions").json()["choices"][0]["finish_reason"] == chat
        assert all(served.usage.input_tokens > 0 for served in provider.requests)


def test_ten_megabytes_are_ten_megabytes(provider: Provider) -> None:
    """An answer can be as long as nobody expects."""
    provider.fail(Fault.huge())
    assert len(said("/v1/responses", post(provider, "/v1/responses").json())) == 10_000_000


@pytest.mark.parametrize("path", PATHS)
def test_an_error_can_come_inside_of_a_stream(provider: Provider, path: str) -> None:
    """Status 200 was sent already, so the error is an event, and nothing follows it."""
    provider.fail(Fault.stream_error("Overloaded"))
    events = post(provider, path, stream=True).text.strip().split("\n\n")
    assert "Overloaded" in events[-1]
    assert len(events) > 1


def test_a_wrong_key_and_an_unknown_language_model_are_refused() -> None:
    """Where the test names them."""
    with Provider(ANSWER, key="right", models=["m"]) as provider, httpx2.Client() as client:
        for key, model, status in (("wrong", "m", 401), ("right", "n", 404), ("right", "m", 200)):
            headers = {"authorization": f"Bearer {key}"}
            body = {**ASK["/v1/responses"], "model": model}
            assert client.post(f"{provider.url}/v1/responses", json=body, headers=headers).status_code == status
        listed = client.get(f"{provider.url}/v1/models").json()
        assert [one["id"] for one in listed["data"]] == ["m"]


def test_other_doors_are_answered_too(provider: Provider) -> None:
    """What command lines knock at: tokens are counted, sockets refused, and the rest is not there."""
    with httpx2.Client() as client:
        assert client.post(f"{provider.url}/v1/messages/count_tokens", json=ASK["/v1/messages"]).json()["input_tokens"] > 0
        assert client.get(f"{provider.url}/v1/responses", headers={"upgrade": "websocket"}).status_code == 426
        assert client.head(f"{provider.url}/").status_code == 404
    assert provider.requests == []


def test_a_record_does_not_show_the_key(provider: Provider) -> None:
    """A failing test prints what was served."""
    with httpx2.Client(headers={"authorization": "Bearer sk-secret-0123456789"}) as client:
        client.post(f"{provider.url}/v1/messages", json=ASK["/v1/messages"])
    served: Served = provider.requests[0]
    assert served.request.headers["authorization"] == "Bearer sk-secret-0123456789"
    assert "sk-secret" not in repr(served)


def test_latency_is_before_the_answer() -> None:
    """Every answer waits."""
    with Provider(ANSWER, latency_s=0.05) as provider:
        began = time.monotonic()
        post(provider)
        assert time.monotonic() - began >= 0.05


def address(provider: Provider) -> tuple[str, int]:
    host, port = provider.url.removeprefix("http://").split(":")
    return host, int(port)


def until(true: Any, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(true())
