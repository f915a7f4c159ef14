"""Everything that a provider of language models does wrong, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "status", "hang", "drip", "reset", "cut", "truncated", "shape", "html", "refusal", "empty", "max_tokens", "context",
    "filtered", "huge", "stream_error",
]  # fmt: skip

SPOILS: tuple[Kind, ...] = ("drip", "cut", "truncated", "max_tokens", "context", "filtered")
"""Faults that need an answer which they spoil; the others use none up."""

_ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip
_OPENAI = {
    400: ("invalid_request_error", None), 401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"), 404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"), 429: ("rate_limit_exceeded", "rate_limit_exceeded"),
    503: ("service_unavailable_error", None),
}  # fmt: skip
_WORDS = {
    400: "the request is not valid",
    401: "the API key is not valid",
    403: "the API key has no permission for this",
    404: "the model does not exist or you have no access to it",
    413: "the request is too large",
    429: "too many requests: slow down",
    500: "internal server error",
    503: "the service is not available",
    529: "overloaded",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a provider fails; made by the functions of this class.

    Args:
        kind: what happens.
        status: of the response.
        message: the provider's words.
        code: the provider's code for it, where it has one.
        type: the provider's type of error; the usual one of the status where it is empty.
        headers: added to the response.
        seconds: between two pieces of a drip.
        size: bytes of a huge answer, or pieces of a drip.
    """

    kind: Kind
    status: int = 200
    message: str = ""
    code: str = ""
    type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    size: int = 0

    @staticmethod
    def http(
        status: int,
        message: str = "",
        *,
        code: str = "",
        type: str = "",
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """Return an error status with the error JSON that the asked API gives with it."""
        named = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        return Fault(
            "status", status, message or _WORDS.get(status, f"status {status}"), code, type, {**named, **(headers or {})}
        )

    @staticmethod
    def rate_limited(retry_after: float | None = None) -> Fault:
        """Return a 429 that ends in `retry_after` seconds, or that does not say when."""
        return Fault.http(429, retry_after=retry_after)

    @staticmethod
    def spend_limit() -> Fault:
        """Return Anthropic's 429 for a month's limit: it looks like a rate limit and lasts until the next month."""
        message = "Your organization has reached its monthly spend limit."
        return Fault.http(429, message, code="enforced_spend_limit_reached", type="rate_limit_error")

    @staticmethod
    def usage_limits() -> Fault:
        """Return Anthropic's 400 for a limit that the owner of a workspace has set."""
        return Fault.http(400, "You have reached your specified API usage limits. You will regain access next month.")

    @staticmethod
    def low_credit() -> Fault:
        """Return Anthropic's 400 for an account without money."""
        return Fault.http(400, "Your credit balance is too low to access the API. Please go to Plans & Billing to buy credits.")

    @staticmethod
    def insufficient_quota() -> Fault:
        """Return OpenAI's 429 for an account without money."""
        message = "You exceeded your current quota, please check your plan and billing details."
        return Fault.http(429, message, code="insufficient_quota", type="insufficient_quota")

    @staticmethod
    def plan_limit(resets_at: float) -> Fault:
        """Return the 429 of a subscription that is used up until `resets_at` (seconds since 1970)."""
        headers = {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": f"{resets_at:.0f}",
            "anthropic-ratelimit-unified-representative-claim": "five_hour",
            "anthropic-ratelimit-unified-5h-status": "rejected",
            "anthropic-ratelimit-unified-5h-reset": f"{resets_at:.0f}",
            "anthropic-ratelimit-unified-overage-status": "rejected",
        }
        return Fault(
            "status", 429, "The usage limit has been reached", type="usage_limit_reached", headers=headers, seconds=resets_at
        )

    @staticmethod
    def hang() -> Fault:
        """Take the request and never answer."""
        return Fault("hang", 0)

    @staticmethod
    def drip(seconds: float = 0.05, pieces: int = 20) -> Fault:
        """Answer rightly, but in pieces with pauses of `seconds` between."""
        return Fault("drip", seconds=seconds, size=pieces)

    @staticmethod
    def reset() -> Fault:
        """Break the connection before the first byte of an answer."""
        return Fault("reset", 0)

    @staticmethod
    def cut() -> Fault:
        """Break the connection in the middle of the answer."""
        return Fault("cut")

    @staticmethod
    def truncated() -> Fault:
        """Send half of the answer as if it were all."""
        return Fault("truncated")

    @staticmethod
    def wrong_shape() -> Fault:
        """Answer with JSON that is valid and has nothing that was expected."""
        return Fault("shape")

    @staticmethod
    def html() -> Fault:
        """Answer 200 with a web page, as a proxy or a captive portal does."""
        return Fault("html")

    @staticmethod
    def refusal(message: str = "I cannot help with that.") -> Fault:
        """Decline to answer, in the way the asked API declines; it is billed."""
        return Fault("refusal", message=message)

    @staticmethod
    def empty() -> Fault:
        """Answer with no text; it is billed."""
        return Fault("empty")

    @staticmethod
    def max_tokens() -> Fault:
        """Stop half way through the answer, as if the allowed tokens were used up; it is billed."""
        return Fault("max_tokens")

    @staticmethod
    def context() -> Fault:
        """Stop half way because the context window is full; it is billed."""
        return Fault("context")

    @staticmethod
    def filtered() -> Fault:
        """Stop half way because a content filter stepped in; it is billed."""
        return Fault("filtered")

    @staticmethod
    def huge(size: int = 10_000_000) -> Fault:
        """Answer with a text of `size` bytes; it is billed."""
        return Fault("huge", size=size)

    @staticmethod
    def stream_error(message: str = "Overloaded", *, type: str = "") -> Fault:
        """Begin with status 200 and then report an error inside the answer."""
        return Fault("stream_error", message=message, type=type)

    def error_json(self, api: str, request_id: str) -> dict[str, Any]:
        """Return the body that goes with the status, in the asked API's form."""
        if api == "anthropic":
            told: dict[str, Any] = {
                "type": self.type or _ANTHROPIC_TYPES.get(self.status, "api_error"),
                "message": self.message,
            }
            if self.code:
                told["details"] = {"error_code": self.code}
            return {"type": "error", "error": told, "request_id": request_id}
        kind, code = _OPENAI.get(self.status, ("server_error" if self.status >= 500 else "invalid_request_error", None))
        told = {"message": self.message, "type": self.type or kind, "param": None, "code": self.code or code}
        if self.type == "usage_limit_reached":
            told |= {"plan_type": "plus", "resets_at": int(self.seconds), "code": None}
        return {"error": told}
