"""What codex says of a question, whichever way it is asked, and what a failure that it tells of stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

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
from agentfund.llms.api import count
from agentfund.llms.failures import failure
from agentfund.prompt import Usage
from agentfund.secrets import scrub

FIX = "run `codex login`"
"""What to do where nobody is logged in."""

_SHOWN = 500
_SPOKEN = {"userMessage", "agentMessage", "reasoning", "agent_message", "error"}
_STATUS = re.compile(r"(?:unexpected status|last status:) (\d{3})")
_AGAIN = re.compile(r"try again at (?:(\w{3}) (\d{1,2})\w{2}, (\d{4}) )?(\d{1,2}):(\d{2}) ([AP])M", re.IGNORECASE)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_BROKEN = ("disconnected", "connection", "error sending request", "high demand", "overloaded", "capacity", "reconnecting")
_BEGUN = ("stream disconnected", "incomplete response", "context window")
_BY_CODE: Mapping[str, type[LLMError]] = {
    "usageLimitExceeded": UsageCapped,
    "sessionBudgetExceeded": UsageCapped,
    "rateLimitExceeded": RateLimited,
    "serverOverloaded": Overloaded,
    "internalServerError": Overloaded,
    "flexUnavailable": Overloaded,
    "policyCapacityUnavailable": Overloaded,
    "responseStreamDisconnected": Overloaded,
    "modelNotFound": BadCredentials,
    "unauthorized": BadCredentials,
    "inferenceHookDenied": BadCredentials,
    "contextWindowExceeded": BadRequest,
    "cyberPolicy": Refused,
    "misalignmentPolicyViolation": Refused,
}


@dataclass(slots=True)
class Told:
    """What codex has said of one question so far.

    Attributes:
        sent: whether the question may have left this machine.
        text: the answer.
        llm: the language model that answers where it is another than the one asked.
        usage: tokens, None until they are told.
        done: whether it has said that it is done; nothing is an answer before.
        noted: the last trouble that it told of, which need not be the end.
        wrong: what went wrong in its words, "" where nothing did.
        code: what went wrong by its code: a word, or a word and an HTTP status.
        tool: a tool that was used although there is none.
        resets_at: when the plan's limit resets.
        utilization: the part of that limit that is used up, 0 to 1.
    """

    sent: bool = False
    text: str = ""
    llm: str = ""
    noted: str = ""
    usage: Usage | None = None
    done: bool = False
    wrong: str = ""
    code: object = None
    tool: str = ""
    resets_at: datetime | None = None
    utilization: float | None = None

    @property
    def begun(self) -> bool:
        """Whether an answer had begun, or may have, so that it may be billed."""
        low = self.wrong.lower()
        return self.usage is not None or any(word in low for word in _BEGUN)

    def take_line(self, line: bytes) -> None:
        """Read a line of `codex exec`; what is not understood is passed over."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(event, dict):
            return
        kind, error = event.get("type"), event.get("error")
        if kind == "item.completed" and isinstance(event.get("item"), dict):
            self.take_item(event["item"])
        elif kind == "turn.completed":
            self.take_usage(event.get("usage"))
            self.done = True
        elif kind == "turn.failed":
            self.wrong = str((error.get("message") if isinstance(error, dict) else "") or "failed")
        elif kind == "error":
            self.noted = str(event.get("message") or "")

    def take_item(self, item: Mapping[str, Any]) -> None:
        """Read something that was said or done."""
        kind = str(item.get("type"))
        if kind in ("agentMessage", "agent_message") and item.get("phase") != "commentary":
            self.text = str(item.get("text") or "")
        elif kind not in _SPOKEN:
            self.tool = kind

    def take_usage(self, told: object) -> None:
        """Read the tokens, in either way's spelling."""
        if not isinstance(told, Mapping):
            return
        usage = Usage(
            *(
                count(told, camel) or count(told, snake)
                for camel, snake in (
                    ("inputTokens", "input_tokens"),
                    ("outputTokens", "output_tokens"),
                    ("cachedInputTokens", "cached_input_tokens"),
                    ("cacheWriteInputTokens", "cache_write_input_tokens"),
                )
            )
        )
        self.usage = usage if usage.input_tokens else None  # it also tells zeros where it does not know

    def take_limits(self, told: object) -> None:
        """Read how far the plan is used up."""
        windows = [told.get(name) for name in ("primary", "secondary")] if isinstance(told, Mapping) else []
        fullest = max(
            (one for one in windows if isinstance(one, Mapping)), key=lambda one: count(one, "usedPercent"), default=None
        )
        if fullest is not None:
            self.utilization = count(fullest, "usedPercent") / 100
            resets_at = count(fullest, "resetsAt")
            self.resets_at = datetime.fromtimestamp(resets_at, UTC) if 0 < resets_at < 2**35 else None

    def failure(self, now: datetime) -> LLMError | None:
        """Return what it comes to, None where it is an answer."""
        words = scrub(self.wrong).strip()[:_SHOWN]
        if self.wrong:
            error = self._coded(words, now) or by_words(words, now)
            if isinstance(error, InvalidOutput):
                error.text = self.text
            return error
        if self.tool:
            return LLMError(f"codex used a tool ({self.tool}) although it has none: its answer is not used")
        if not self.done:
            return LLMError("codex ended before it was done")
        if not self.text.strip():
            return Refused("codex gave no answer: the language model declined, or had nothing to say")
        return None

    def _coded(self, words: str, now: datetime) -> LLMError | None:
        """Return what the code stands for, None where it does not say enough."""
        code, status = self.code, 0
        if isinstance(code, Mapping) and code:
            code, details = next(iter(code.items()))
            status = count(details, "httpStatusCode")
        kind = _BY_CODE.get(code) if isinstance(code, str) else None
        if kind is UsageCapped:
            full = self.utilization is not None and self.utilization >= 1
            return UsageCapped(words, until=self.resets_at if full and self.resets_at else again_at(words, now))
        if kind is None and status:
            return _numbered(status, words, now)
        return kind(words) if kind is not None else None


def by_words(words: str, now: datetime) -> LLMError:
    """Return what a failure without a code stands for."""
    low = words.lower().replace("’", "'")
    if "hit your usage limit" in low or "quota exceeded" in low or "out of credits" in low:
        return UsageCapped(words, until=again_at(words, now))
    if found := _STATUS.search(words):
        return _numbered(int(found[1]), words, now)
    if "max_output_tokens" in low:
        return InvalidOutput("cut off at the language model's own limit, thinking included: answer in fewer words")
    if "content_filter" in low:
        return Refused(words)
    if "context window" in low:
        return BadRequest(words)
    if "idle timeout" in low or "timed out" in low:
        return LLMTimeout(words)
    if "model" in low and "not exist" in low:
        return BadCredentials(words)
    if "not logged in" in low or "not supported when using codex with a chatgpt account" in low or "model_not_found" in low:
        return BadCredentials(f"{words} (check the login: {FIX})")
    if any(word in low for word in _BROKEN):
        return Overloaded(words)
    return LLMError(words)


def _numbered(status: int, words: str, now: datetime) -> LLMError:
    error = failure(status, words, now=now)
    if isinstance(error, UsageCapped) and error.until is None:
        error.until = again_at(words, now)
    if isinstance(error, BadRequest) and status != 413:
        return LLMError(str(error))  # most of the request is codex's own: another route may do better
    return error


def again_at(words: str, now: datetime) -> datetime | None:
    """Return the moment of "try again at 6:38 PM", which is meant in local time; None where no moment is named."""
    found = _AGAIN.search(words)
    if found is None:
        return None
    month, day, year, hour, minute, half = found.groups()
    here = now.astimezone()
    try:
        moment = here.replace(hour=int(hour) % 12 + (12 if half in "pP" else 0), minute=int(minute), second=0, microsecond=0)
        if month:
            moment = moment.replace(year=int(year), month=_MONTHS.index(month.lower()) + 1, day=int(day))
        elif moment + timedelta(minutes=1) < here:
            moment += timedelta(days=1)
    except ValueError:
        return None
    moment += timedelta(minutes=1)  # the seconds were cut off
    # The offset from UTC may be another one by then.
    return moment.replace(tzinfo=None).astimezone().astimezone(UTC)
