"""Language models by OpenAI's API, and by every server that speaks it: local ones too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from agentfund.errors import ConfigError, InvalidOutput, LLMError, Overloaded, Refused
from agentfund.llms.api import ApiRoute, by_tier, count
from agentfund.llms.batches import Batches, Fetch, OpenAIBatches
from agentfund.llms.clients import connections, server
from agentfund.llms.exchange import Got
from agentfund.llms.failures import told_failure
from agentfund.llms.layout import LAYOUT, strict_schema, system_text, user_text
from agentfund.prompt import Completion, Prompt, Task, Tier, Usage
from agentfund.secrets import Secret, scrub

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from agentfund.llms.prices import Price, Prices
    from agentfund.protocols import Clock

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Form = Literal["responses", "chat"]
SchemaMode = Literal["strict", "object", "none"]

LLMS: Mapping[Tier, str] = {"strong": "gpt-6.1-sol", "middle": "gpt-6.1-terra", "small": "gpt-6-luna"}
"""The language model of each tier, where no other is given."""

_URL = "https://api.openai.com/v1"
_CHECK_S = 3.0


class OpenAI(ApiRoute["AsyncOpenAI"]):
    """A route by OpenAI's API, or to any server that speaks it.

    A local server needs no key: `OpenAI("qwen3", base_url="http://127.0.0.1:11434/v1", api="chat")`. A server on this machine
    or the local network (loopback and private addresses, names without a dot or ending in `.local`, `.lan`, `.internal`) is
    taken to cost nothing, unless `prices` are given or `free=False`: say so where it is a gateway to something that is
    billed. Any other server is billed at OpenAI's list price of the same name, or at `prices`; where neither knows the
    name, no budget takes it.

    A key in the environment goes to OpenAI's own server only; give `api_key` for another one. Other variables that the SDK
    knows (`OPENAI_BASE_URL`, `OPENAI_ORG_ID`, `OPENAI_PROJECT_ID`, `OPENAI_CUSTOM_HEADERS`) are not read. Nothing is stored
    at the provider for later calls.

    Args:
        llm: the language model, or some tiers' language models; None for `LLMS`.
        api_key: the key; None takes `OPENAI_API_KEY`. Without any the route builds, and fails with `BadCredentials`.
        base_url: another server, with `/v1` where it wants it.
        api: "responses", or "chat" for the older Chat Completions, which nearly every other server speaks.
        schema: "strict" has the server hold the answer to the schema; "object" asks for any JSON object and "none" for text,
            both with the schema in the instructions, for servers that cannot do more.
        effort: how hard it thinks; None for the language model's own default.
        name: its name in ledgers.
        max_output_tokens: most tokens of an answer, thinking included, instead of the prompt's.
        free: whether calls cost nothing; None decides by `base_url` and `prices`.
        prices: one's own prices by the name of the language model.
        timeout_s: seconds that a call may take, all in all.
        clock: where the time comes from.

    Raises:
        ConfigError: an argument makes no sense.
    """

    suits: Task | Literal[""]

    def __init__(
        self,
        llm: str | Mapping[Tier, str] | None = None,
        *,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        api: Form = "responses",
        schema: SchemaMode = "strict",
        effort: Effort | None = None,
        name: str = "openai",
        max_output_tokens: int | None = None,
        free: bool | None = None,
        prices: Prices | Mapping[str, Price] | None = None,
        timeout_s: float = 120.0,
        clock: Clock | None = None,
    ) -> None:
        for what, given, known in (("api", api, Form), ("schema", schema, SchemaMode), ("effort", effort, Effort)):
            if given is not None and given not in get_args(known):
                raise ConfigError(f"{what} must be one of {', '.join(get_args(known))}, not {given!r}")
        url, near = server(base_url)
        if free and url is None:
            raise ConfigError("free=True is for a server of one's own: give its base_url")
        told = {
            "effort": effort,
            "max_output_tokens": max_output_tokens,
            "api": None if api == "responses" else api,
            "schema": None if schema == "strict" else schema,
            "layout": LAYOUT,
        }
        super().__init__(
            name,
            "openai",
            by_tier(llm, LLMS),
            module="openai",
            make=lambda key: _client(key, url or _URL, timeout_s),
            variable="OPENAI_API_KEY",
            api_key=api_key,
            base_url=url,
            free=near and prices is None if free is None else free,
            prices=prices,
            settings=",".join(f"{key}={value}" for key, value in told.items() if value is not None),
            max_output_tokens=max_output_tokens,
            timeout_s=timeout_s,
            clock=clock,
        )
        self.suits = "code" if url is None else ""  # what another server's language models are good at, it does not say
        self._url = url or _URL
        self._api = api
        self._schema = schema
        self._effort = effort

    async def check(self) -> str:
        """Return why it cannot be used here, with the fix; empty where it can. Only a server of one's own is asked."""
        trouble = await super().check()
        if trouble or not self.free:
            return trouble
        try:
            client = await self._clients.get()
            async with asyncio.timeout(_CHECK_S):
                await client.get("/models", cast_to=object)
        except Exception as failed:
            # Whatever a server answers, it is there.
            return "" if hasattr(failed, "status_code") else f"no server answers at {self._url}: start it, or correct base_url"
        return ""

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask once; return the answer's text as it came, with usage and price.

        Raises:
            LLMError: no usable answer; which one says who must act.
        """
        request = self._wire(prompt)
        if self._api == "chat":
            got = await self._ask(prompt, lambda client: client.chat.completions.with_streaming_response.create(**request))
        else:
            got = await self._ask(prompt, lambda client: client.responses.with_streaming_response.create(**request))
        return self._answer(prompt, got)

    def _wire(self, prompt: Prompt) -> dict[str, Any]:
        return self._chat_request(prompt) if self._api == "chat" else self._request(prompt)

    def _answer(self, prompt: Prompt, got: Got) -> Completion:
        return self._chat_answer(prompt, got) if self._api == "chat" else self._response_answer(prompt, got)

    def _batches(self, fetch: Fetch) -> Batches:
        return OpenAIBatches(fetch, self._clock, "/v1/chat/completions" if self._api == "chat" else "/v1/responses")

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.llm(prompt),
            "instructions": system_text(prompt, with_schema=self._schema != "strict"),
            "input": user_text(prompt),
            "max_output_tokens": self._most_tokens(prompt),
            "store": False,
        }
        if self._own:
            request["prompt_cache_key"] = prompt.agent[:64]
        if self._schema == "strict":
            schema = {"type": "json_schema", "name": "answer", "schema": strict_schema(prompt), "strict": True}
            request["text"] = {"format": schema}
        elif self._schema == "object":
            request["text"] = {"format": {"type": "json_object"}}
        if self._effort is not None:
            request["reasoning"] = {"effort": self._effort}
        return request

    def _chat_request(self, prompt: Prompt) -> dict[str, Any]:
        system = system_text(prompt, with_schema=self._schema != "strict")
        # OpenAI refuses the old name of the limit, and many other servers do not know the new one.
        limit = "max_completion_tokens" if self._own else "max_tokens"
        request: dict[str, Any] = {
            "model": self.llm(prompt),
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user_text(prompt)}],
            limit: self._most_tokens(prompt),
        }
        if self._own:
            request |= {"prompt_cache_key": prompt.agent[:64], "store": False}
        if self._schema == "strict":
            schema = {"name": "answer", "schema": strict_schema(prompt), "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self._schema == "object":
            request["response_format"] = {"type": "json_object"}
        if self._effort is not None:
            request["reasoning_effort"] = self._effort
        return request

    def _response_answer(self, prompt: Prompt, got: Got) -> Completion:
        data, output = got.data, got.data.get("output")
        usage = _usage(data.get("usage"), "input", "output")
        items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        parts = [part for item in items if item.get("type") == "message" for part in item.get("content") or ()]
        text = "".join(_texts(parts, "output_text", "text"))
        refusal = "".join(_texts(parts, "refusal", "refusal"))
        completion = self._completion(prompt, text, data.get("model"), usage, got)
        status = data.get("status")
        details = data.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, Mapping) else None
        error: LLMError
        if status == "failed":
            error = told_failure(200, data.get("error"), now=self._clock.now(), instead="the provider failed")
        elif refusal:
            error = Refused(_told(refusal))
        elif not isinstance(output, list):
            error = Overloaded("the answer has not the form of OpenAI's Responses API: is base_url right? else api='chat'")
        elif status == "incomplete":
            error = self._cut(prompt, reason, text)
        elif status in (None, "completed"):
            return completion
        else:
            error = LLMError(f"the answer came with the status {_told(str(status))}")
        error.completion = completion
        raise error

    def _chat_answer(self, prompt: Prompt, got: Got) -> Completion:
        choices = got.data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        usage = _usage(got.data.get("usage"), "prompt", "completion")
        content = message.get("content") if isinstance(message, dict) else None
        text = content if isinstance(content, str) else ""
        completion = self._completion(prompt, text, got.data.get("model"), usage, got)
        error: LLMError
        if not isinstance(choice, dict) or not isinstance(message, dict):
            error = Overloaded("the answer has not the form of OpenAI's Chat Completions API: is base_url right?")
        elif message.get("refusal"):
            error = Refused(_told(str(message["refusal"])))
        elif choice.get("finish_reason") == "length":
            error = self._cut(prompt, "max_output_tokens", text)
        elif choice.get("finish_reason") == "content_filter":
            error = self._cut(prompt, "content_filter", text)
        else:
            return completion
        error.completion = completion
        raise error

    def _cut(self, prompt: Prompt, reason: object, text: str) -> LLMError:
        if reason == "content_filter":
            return Refused("a content filter cut the answer off")
        most = self._most_tokens(prompt)
        return InvalidOutput(f"cut off after {most} tokens, thinking included: answer in fewer words", text=text)


def _client(key: str, url: str, timeout_s: float) -> AsyncOpenAI:
    import openai

    http = connections(url, timeout_s)
    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=url,
        max_retries=0,
        timeout=http.timeout,
        http_client=http,
    )
    # From the environment: they could name another key, or another purse.
    client._custom_headers = {}
    client.organization = client.project = client.admin_api_key = None
    return client


def _texts(parts: list[Any], kind: str, key: str) -> list[str]:
    found = [part.get(key) for part in parts if isinstance(part, dict) and part.get("type") == kind]
    return [text for text in found if isinstance(text, str)]


def _told(text: str) -> str:
    return scrub(text)[:500]


def _usage(told: object, read: str, written: str) -> Usage | None:
    if not isinstance(told, Mapping) or not isinstance(told.get(f"{read}_tokens"), int):
        return None
    total, details = count(told, f"{read}_tokens"), f"{read}_tokens_details"
    cached = min(count(told, details, "cached_tokens"), total)
    stored = min(count(told, details, "cache_write_tokens"), total - cached)
    return Usage(total, count(told, f"{written}_tokens"), cached, stored)
