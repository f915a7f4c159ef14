"""What a `claude` process says, read as it comes, and what a failure that it tells of stands for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from agentfund.errors import BadCredentials, BadRequest, InvalidOutput, LLMError, LLMTimeout, Overloaded, Refused, UsageCapped
from agentfund.llms.api import count
from agentfund.llms.failures import failure
from agentfund.prompt import Usage
from agentfund.secrets import scrub

FIX = "run `claude` once and log in"
"""What to do where nobody is logged in."""

_BROKEN = ("connection", "stream ended", "malformed response", "server", "fetch failed", "socket", "econn", "network")
_BROKEN_OFF = ("connection dropped", "was lost")
_NOT_THE_PLAN = "(not your usage limit)"  # it would be taken for one
_TENTH_OF_A_NANO = Decimal("1e-10")
_SHOWN = 500


@dataclass(slots=True)
class Told:
    """What a process has said so far.

    Attributes:
        result: its last word, None until it is said.
        llm: the language model that answers.
        request_id: the provider's id for the call.
        key_source: where the API key comes from, "none" for a subscription.
        stop: why the answer ended.
        resets_at: when the plan's limit resets.
        utilization: the part of that limit that is used up, 0 to 1.
        overage: whether the call is billed on top of the plan.
        began: what was counted when the answer began, None before.
    """

    result: dict[str, Any] | None = None
    llm: str = ""
    request_id: str = ""
    key_source: str = "none"
    stop: str | None = None
    resets_at: datetime | None = None
    utilization: float | None = None
    overage: bool = False
    began: Usage | None = None
    _said: list[str] = field(default_factory=list)
    _given: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The answer as it came: what was put into the tool that takes the answer, else what was said."""
        return "".join(self._given) or "".join(self._said)

    def take(self, line: bytes) -> None:
        """Read a line; what is not understood is passed over."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if kind == "result":
            self.result = event
        elif kind == "stream_event":
            self._stream(_part(event, "event"))
        elif kind == "assistant":
            self.request_id = event.get("request_id") or self.request_id
        elif kind == "system" and event.get("subtype") == "init":
            self.key_source = str(event.get("apiKeySource") or "none")
        elif kind == "rate_limit_event":
            self._limits(_part(event, "rate_limit_info"))

    def _stream(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "message_start":
            message = _part(event, "message")
            self.llm = str(message.get("model") or "")
            read, written = (
                count(message, "usage", "cache_read_input_tokens"),
                count(message, "usage", "cache_creation_input_tokens"),
            )
            self.began = Usage(count(message, "usage", "input_tokens") + read + written, 0, read, written)
            self._said.clear()
            self._given.clear()
        elif kind == "content_block_delta":
            delta = _part(event, "delta")
            self._given.append(str(delta.get("partial_json") or ""))
            self._said.append(str(delta.get("text") or ""))
        elif kind == "message_delta":
            self.stop = _part(event, "delta").get("stop_reason")

    def _limits(self, info: Mapping[str, Any]) -> None:
        self.overage = bool(info.get("isUsingOverage"))
        resets_at, used = info.get("resetsAt"), info.get("utilization")
        if isinstance(resets_at, int | float):
            with contextlib.suppress(ValueError, OverflowError, OSError):
                self.resets_at = datetime.fromtimestamp(resets_at, UTC)
        if isinstance(used, int | float):
            self.utilization = float(used)

    @property
    def counted(self) -> bool:
        """Whether its last word says what was used; `usage` beside it is zero or double after some failures."""
        return bool(_part(self.result or {}, "modelUsage"))

    @property
    def begun(self) -> bool:
        """Whether an answer had begun, or may have, so that it may be billed."""
        words = str((self.result or {}).get("result")).lower()
        return self.counted or self.began is not None or any(word in words for word in _BROKEN_OFF)

    @property
    def used(self) -> tuple[Usage, Decimal | None]:
        """The tokens, and their list price in USD where it is known."""
        usage, listed = Usage(), True
        counts = _part(self.result or {}, "modelUsage").values()
        for one in (one for one in counts if isinstance(one, Mapping)):
            read, written = count(one, "cacheReadInputTokens"), count(one, "cacheCreationInputTokens")
            usage += Usage(count(one, "inputTokens") + read + written, count(one, "outputTokens"), read, written)
            listed = listed and one.get("costBasis") == "list"
        cost = (self.result or {}).get("total_cost_usd")
        if not listed or not isinstance(cost, int | float) or not cost >= 0:
            return usage, None
        # It was added up in binary fractions; what is rounded off is far less than a token costs.
        return usage, Decimal(repr(cost)).quantize(_TENTH_OF_A_NANO).normalize() + Decimal(0)

    def failure(self, max_output_tokens: int, now: datetime) -> LLMError | None:
        """Return what its last word stands for, None where that is an answer.

        Args:
            max_output_tokens: most tokens that the answer could have.
            now: the wall time.
        """
        result = self.result or {}
        words = str(result.get("result") or "; ".join(map(str, result.get("errors") or ())))
        words = scrub(words).strip()[:_SHOWN]
        stop = self.stop or result.get("stop_reason")
        if not result.get("is_error") and result.get("subtype") == "success":
            if result.get("structured_output") is not None and self.text:
                return None
            return InvalidOutput("the answer is not in the form that was asked for", text=self.text or words)
        if stop == "refusal":
            return Refused(words or "the language model declined to answer")
        if stop == "max_tokens" or "output token maximum" in words:
            cut = f"cut off after {max_output_tokens} tokens, thinking included: answer in fewer words"
            return InvalidOutput(cut, text=self.text)
        if stop == "model_context_window_exceeded":
            return BadRequest("the prompt and its answer do not fit into the language model's context window")
        if result.get("subtype") == "error_max_structured_output_retries":
            return InvalidOutput(words, text=self.text)
        status = result.get("api_error_status")
        return self._numbered(status, words, now) if isinstance(status, int) else _unnumbered(words, result)

    def _numbered(self, status: int, words: str, now: datetime) -> LLMError:
        """Return what a failure with an HTTP status stands for."""
        result = self.result or {}
        if result.get("api_error") == "usage_limit_reached":
            return UsageCapped(words, until=self.resets_at)
        words = words.replace(_NOT_THE_PLAN, "").strip()
        error = failure(status, words, code=str(result.get("api_error_type") or ""), now=now)
        if isinstance(error, UsageCapped) and error.until is None:
            error.until = self.resets_at
        if isinstance(error, BadRequest) and status != 413 and "too long" not in words:
            return LLMError(str(error))  # most of the request is the command line's own: another route may do better
        return error


def _unnumbered(words: str, result: Mapping[str, Any]) -> LLMError:
    """Return what a failure without an HTTP status stands for."""
    low = words.lower()
    if "not logged in" in low or "/login" in low:
        return BadCredentials(f"{words}: {FIX}")
    if "timed out" in low:
        return LLMTimeout(words)
    if "too long" in low:
        return BadRequest(words)
    if any(word in low for word in _BROKEN):
        return Overloaded(words)
    return LLMError(f"{result.get('subtype')}: {words}")


def _part(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = event.get(name)
    return found if isinstance(found, Mapping) else {}
