"""Claude by Anthropic's API: one request for each call, the schema held by the server, the stable part cached."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from agentfund.errors import BadRequest, ConfigError, InvalidOutput, LLMError, Overloaded, Refused
from agentfund.llms.api import ApiRoute, by_tier, count
from agentfund.llms.batches import AnthropicBatches, Batches, Fetch
from agentfund.llms.clients import connections, server
from agentfund.llms.exchange import Got
from agentfund.llms.layout import LAYOUT, strict_schema, system_text, user_text
from agentfund.prompt import Completion, Prompt, Task, Tier, Usage
from agentfund.secrets import Secret, scrub

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

    from agentfund.llms.prices import Price, Prices
    from agentfund.protocols import Clock

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Thinking = Literal["adaptive", "disabled"]

LLMS: Mapping[Tier, str] = {"strong": "claude-opus-5-5", "middle": "claude-sonnet-5-5", "small": "claude-haiku-5-5"}
"""The language model of each tier, where no other is given."""

_URL = "https://api.anthropic.com"
_SCHEMAS: dict[str, dict[str, Any]] = {}


class Anthropic(ApiRoute["AsyncAnthropic"]):
    """A route to Claude by Anthropic's API.

    It asks once for each call, with the output schema in the API's own schema mode; limits that the mode does not know
    stand in the schema's descriptions, and whoever ignores them is caught by `Prompt.parse`. Thinking counts as output: a
    strong language model may need more `max_output_tokens` than a prompt allows.

    A key in the environment goes to Anthropic's own server only; give `api_key` for another one. Other variables that the
    SDK knows (`ANTHROPIC_BASE_URL`, `ANTHROPIC_AUTH_TOKEN`, `ANTHROPIC_CUSTOM_HEADERS`, profiles on disk) are not read.

    Args:
        llm: the language model, or some tiers' language models; None for `LLMS`.
        api_key: the key; None takes `ANTHROPIC_API_KEY`. Without any the route builds, and fails with `BadCredentials`.
        base_url: another server that speaks the same protocol, without `/v1`.
        effort: how hard it thinks; None for the language model's own default.
        thinking: whether it thinks before it answers: "adaptive", as it sees fit, or "disabled", which some language models
            refuse; None for the language model's own default.
        name: its name in ledgers.
        max_output_tokens: most tokens of an answer, thinking included, instead of the prompt's.
        prices: one's own prices by the name of the language model.
        cache: whether the stable part of a prompt is put into the provider's cache for 5 minutes. What is written to it costs
            a quarter more, what is read from it a tenth or less: it pays where the same agent is asked again within
            that time.
        timeout_s: seconds that a call may take, all in all.
        clock: where the time comes from.

    Raises:
        ConfigError: an argument makes no sense.
    """

    suits: Task = "reasoning"

    def __init__(
        self,
        llm: str | Mapping[Tier, str] | None = None,
        *,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        effort: Effort | None = None,
        thinking: Thinking | None = None,
        name: str = "anthropic",
        max_output_tokens: int | None = None,
        prices: Prices | Mapping[str, Price] | None = None,
        cache: bool = True,
        timeout_s: float = 120.0,
        clock: Clock | None = None,
    ) -> None:
        for what, given, known in (("effort", effort, Effort), ("thinking", thinking, Thinking)):
            if given is not None and given not in get_args(known):
                raise ConfigError(f"{what} must be one of {', '.join(get_args(known))}, not {given!r}")
        url, _ = server(base_url)
        told = {"effort": effort, "thinking": thinking, "max_output_tokens": max_output_tokens, "layout": LAYOUT}
        super().__init__(
            name,
            "anthropic",
            by_tier(llm, LLMS),
            module="anthropic",
            make=lambda key: _client(key, url or _URL, timeout_s),
            variable="ANTHROPIC_API_KEY",
            api_key=api_key,
            base_url=url,
            free=False,
            prices=prices,
            settings=",".join(f"{key}={value}" for key, value in told.items() if value is not None),
            max_output_tokens=max_output_tokens,
            timeout_s=timeout_s,
            clock=clock,
        )
        self._effort = effort
        self._thinking = thinking
        self._cache = cache

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask once; return the answer's text as it came, with usage and price.

        Raises:
            LLMError: no usable answer; which one says who must act.
        """
        request = self._wire(prompt)
        got = await self._ask(prompt, lambda client: client.messages.with_streaming_response.create(**request))
        return self._answer(prompt, got)

    def _wire(self, prompt: Prompt) -> dict[str, Any]:
        system: dict[str, Any] = {"type": "text", "text": system_text(prompt)}
        if self._cache:
            system["cache_control"] = {"type": "ephemeral"}
        output: dict[str, Any] = {"format": {"type": "json_schema", "schema": _schema(prompt)}}
        if self._effort is not None:
            output["effort"] = self._effort
        thinks = {} if self._thinking is None else {"thinking": {"type": self._thinking}}
        return {
            **thinks,
            "model": self.llm(prompt),
            "max_tokens": self._most_tokens(prompt),
            "system": [system],
            "messages": [{"role": "user", "content": user_text(prompt)}],
            "output_config": output,
        }

    def _batches(self, fetch: Fetch) -> Batches:
        return AnthropicBatches(fetch, self._clock)

    def _answer(self, prompt: Prompt, got: Got) -> Completion:
        data = got.data
        blocks = data.get("content")
        usage = _usage(data.get("usage"))
        texts = [block.get("text") for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
        text = "".join(part for part in texts if isinstance(part, str))
        completion = self._completion(prompt, text, data.get("model"), usage, got)
        stop = data.get("stop_reason")
        error: LLMError
        if not isinstance(blocks, list):
            error = Overloaded("the answer has not the form of Anthropic's Messages API: is base_url right?")
        elif stop == "refusal":
            error = Refused(_reason(data.get("stop_details")))
        elif stop == "max_tokens":
            most = self._most_tokens(prompt)
            error = InvalidOutput(f"cut off after {most} tokens, thinking included: answer in fewer words", text=text)
        elif stop == "model_context_window_exceeded":
            error = BadRequest("the prompt and its answer do not fit into the language model's context window")
        else:
            return completion
        error.completion = completion
        raise error


def _client(key: str, url: str, timeout_s: float) -> AsyncAnthropic:
    import anthropic

    http = connections(url, timeout_s)
    client = anthropic.AsyncAnthropic(
        api_key=key,
        base_url=url,
        max_retries=0,
        timeout=http.timeout,
        open_telemetry=False,
        http_client=http,
    )
    client._custom_headers = {}  # ANTHROPIC_CUSTOM_HEADERS could name another key
    return client


def _schema(prompt: Prompt) -> dict[str, Any]:
    """Return the output schema in Anthropic's dialect; it takes a third of a millisecond, so it is made once a type."""
    found = _SCHEMAS.get(prompt.schema_text)
    if found is None:
        from anthropic import transform_schema

        try:
            found = transform_schema(copy.deepcopy(strict_schema(prompt)))
        except ValueError as error:
            raise BadRequest(f"the schema of {prompt.output.__name__} cannot be told to Anthropic: {error}") from None
        _SCHEMAS[prompt.schema_text] = found
    return found


def _reason(details: object) -> str:
    told = [details.get(key) for key in ("category", "explanation")] if isinstance(details, Mapping) else []
    return scrub(": ".join(str(part) for part in told if part) or "the language model declined to answer")[:500]


def _usage(told: object) -> Usage | None:
    if not isinstance(told, Mapping) or not isinstance(told.get("input_tokens"), int):
        return None
    cached, written = count(told, "cache_read_input_tokens"), count(told, "cache_creation_input_tokens")
    return Usage(count(told, "input_tokens") + cached + written, count(told, "output_tokens"), cached, written)
