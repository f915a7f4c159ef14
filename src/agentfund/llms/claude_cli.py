"""Claude through the user's own `claude` command line: a subscription as a route."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, get_args

from agentfund.clock import SystemClock
from agentfund.errors import BadCredentials, BudgetExceeded, ConfigError, LLMError, LLMTimeout, MissingExtra
from agentfund.llms.api import address, by_tier
from agentfund.llms.claude_told import FIX, Told
from agentfund.llms.environment import Environment
from agentfund.llms.layout import LAYOUT, schema_text, strict_schema, system_text, user_text
from agentfund.llms.pool import Idle, PerLoop
from agentfund.llms.prices import Price, Prices
from agentfund.llms.processes import Child, output
from agentfund.prompt import Completion, Prompt, Task, Tier, Usage, canonical
from agentfund.secrets import scrub

if TYPE_CHECKING:
    import os

    from agentfund.protocols import Clock

LLMS: Mapping[Tier, str] = {"strong": "claude-opus-5-5", "middle": "claude-sonnet-5-5", "small": "claude-haiku-5-5"}
"""The language model of each tier, where no other is given."""

Effort = Literal["low", "medium", "high", "xhigh", "max"]

_ZERO = Decimal(0)
_ADDED_BYTES = 4_096  # what the command line puts around a question: its own words and the tool that takes the answer
_SHOWN = 500
_URL = "ANTHROPIC_BASE_URL"
_KEYWORDS = {
    *("$ref", "$defs", "type", "enum", "const", "description", "properties", "required", "additionalProperties", "items"),
    *("anyOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
    *("minItems", "maxItems", "uniqueItems", "pattern", "format"),
}
_CALL = (
    *("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--include-partial-messages"),
    *("--system-prompt-file", "{folder}/system.txt", "--tools", "", "--setting-sources", "", "--strict-mcp-config"),
    *("--no-session-persistence", "--disable-slash-commands", "--permission-prompts", "none", "--max-turns", "3"),
)
_SWITCHES = {
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    # A prompt is text: it must not be able to name a local file.
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    # One question is one request: only the router asks again.
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "MAX_STRUCTURED_OUTPUT_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_MODEL_ACCESS_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
}


class ClaudeCLI:
    """Asks Claude through the unmodified `claude` command line that the user has installed and logged in to.

    It is for one's own use of one's own subscription; for anything else use the API. Each question gets a process of its
    own, in an empty folder, without tools, settings, session or memory. Prompts cannot name files or commands. No key of
    the environment is passed on, because it would be billed; no credential is read or kept here.

    The command line tells the language model today's date, and that cannot be switched off: see `adds`.

    Where this process is killed, a program that waits for a question ends at once, and one that waits for an answer when
    it has come, or after `timeout_s`.

    Args:
        llm: the language model for all tiers, or for some of them.
        name: its name as a route.
        effort: how hard it thinks; None for the command line's default.
        flat_rate: whether calls cost nothing beyond the subscription. None: they do not, unless `env` holds an API key.
        timeout_s: seconds that a call may take.
        warm: how many programs are started ahead for each kind of question (same language model, instructions, schema and
            token limit) that was asked twice within `idle_s`. Each takes about 160 MB. 0: none.
        idle_s: seconds after which a program that was started ahead is ended.
        program: path of `claude`; None to look for it.
        env: variables that it gets on purpose, beyond the few that are inherited; keys are kept as secrets. A token of
            `claude setup-token` is given here as `CLAUDE_CODE_OAUTH_TOKEN`.
        prices: one's own prices by language model; they win over the command line's own list.
        clock: where the time comes from.

    Attributes:
        utilization: the part of the plan's limit that is used up, 0 to 1, as it was last told; None before.

    Raises:
        ConfigError: a number is not positive, a tier or an effort is unknown, or an address or a name is none.
    """

    suits: Task = "reasoning"
    adds = "today's date"

    def __init__(
        self,
        llm: str | Mapping[Tier, str] | None = None,
        *,
        name: str = "claude_cli",
        effort: Effort | None = None,
        flat_rate: bool | None = None,
        timeout_s: float = 120.0,
        warm: int = 1,
        idle_s: float = 60.0,
        program: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        prices: Prices | Mapping[str, Price] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not (timeout_s > 0 and idle_s > 0 and warm >= 0):
            raise ConfigError(f"timeout_s and idle_s must be above 0, warm from 0 up, not {timeout_s}, {idle_s}, {warm}")
        if effort is not None and effort not in get_args(Effort):
            raise ConfigError(f"effort must be one of {', '.join(get_args(Effort))}, not {effort!r}")
        self.name = name
        self.utilization: float | None = None
        self._llms = by_tier(llm, LLMS)
        self._effort = effort
        self._environment = Environment(env, "CLAUDE_CONFIG_DIR")
        url = self._environment.get(_URL)
        self.settings = f"effort={effort or 'default'},layout={LAYOUT}{f',{address(url, _URL)}' if url else ''}"
        self._flat_rate = not self._environment.has_api_key if flat_rate is None else flat_rate
        self._timeout_s = timeout_s
        self._warm = warm
        self._program = program
        self._own_prices = prices is not None
        self.prices = prices if isinstance(prices, Prices) else Prices(prices)
        self._clock = clock or SystemClock()
        self._idle: PerLoop[Idle] = PerLoop(lambda: Idle(idle_s, warm))

    def __repr__(self) -> str:
        return f"<ClaudeCLI {self.name!r}: {', '.join(dict.fromkeys(self._llms.values()))}>"

    def llm(self, prompt: Prompt) -> str:
        """Return the name of the language model for the prompt's tier."""
        return self._llms[prompt.tier]

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return the most that a prompt can be billed, in USD: zero at a flat rate.

        Raises:
            BudgetExceeded: no price is known.
        """
        return _ZERO if self._flat_rate else self._worst_case(prompt)

    def _worst_case(self, prompt: Prompt) -> Decimal:
        size = sum(len(text.encode()) for text in (system_text(prompt), user_text(prompt), schema_text(prompt)))
        return self.prices.worst_case(
            "anthropic", self.llm(prompt), size + _ADDED_BYTES, prompt.max_output_tokens, when=self._clock.now()
        )

    async def check(self) -> str:
        """Return why it cannot be used, "" where it can. It asks `claude` how it is logged in, which costs nothing."""
        try:
            told, status = await self._auth()
        except LLMError as error:
            return str(error)
        if not told.get("loggedIn"):
            return f"claude is not logged in: {FIX}"
        if status:
            return f"`claude auth status` ended with {status}"
        return _unexpected_bill(str(told.get("apiKeySource") or "none")) if self._flat_rate else ""

    async def _auth(self) -> tuple[dict[str, Any], int]:
        status, text, errors = await output([self._found(), "auth", "status"], self._environment.variables(_SWITCHES))
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise LLMError(f"`claude auth status` said nothing that can be read: {errors or scrub(text)[:_SHOWN]}")
        return told, status

    async def close(self) -> None:
        """End the programs that were started ahead in the running event loop; otherwise they end with it."""
        await self._idle.close()

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask once.

        Raises:
            LLMError: no usable answer; `BadCredentials` where it is not installed or not logged in.
        """
        message = {"role": "user", "content": user_text(prompt)}
        question = json.dumps({"type": "user", "client_composed": True, "message": message})
        told = Told()
        error: LLMError | None
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                error = await self._ask(prompt, question, told)
        except TimeoutError:
            error = LLMTimeout(f"claude gave no answer within {self._timeout_s:g} s")
        completion = self._completion(prompt, told, self._clock.monotonic() - began)
        if told.utilization is not None:
            self.utilization = told.utilization
        if error is not None:
            error.completion = completion if told.begun else None
            raise error
        return completion

    async def _ask(self, prompt: Prompt, question: str, told: Told) -> LLMError | None:
        """Ask a program that waits, or a new one; return what went wrong."""
        schema = canonical(_dialect(strict_schema(prompt)))
        key = (self.llm(prompt), system_text(prompt), schema, prompt.max_output_tokens)
        idle = await self._idle.here()
        child = idle.take(key) or await self._start(*key)
        try:
            child.write(question + "\n")
            if self._warm and idle.wants(key):
                with contextlib.suppress(LLMError):  # this question does not need it
                    await idle.start(key, self._start(*key))
            while told.result is None and (line := await child.line()) is not None:
                told.take(line)
            if told.result is None:
                status = await child.ended()
                return LLMError(f"claude ended with status {status} and no result: {child.last_words or 'it said nothing'}")
        finally:
            await child.close()
        if self._flat_rate and (bill := _unexpected_bill(told.key_source)):
            return BadCredentials(bill)
        return told.failure(prompt.max_output_tokens, self._clock.now())

    async def _start(self, llm: str, system: str, schema: str, max_output_tokens: int) -> Child:
        effort = ("--effort", self._effort) if self._effort else ()
        return await Child.start(
            [self._found(), *_CALL, "--model", llm, "--json-schema", schema, *effort],
            self._environment.variables(
                {
                    **_SWITCHES,
                    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(max_output_tokens),
                    "API_TIMEOUT_MS": str(int(self._timeout_s * 1000)),
                }
            ),
            files={"system.txt": system},
        )

    def _found(self) -> str:
        found = self._environment.find("claude", self._program)
        if not found:
            where = f"at {self._program}" if self._program is not None else "on the PATH"
            raise BadCredentials(f"claude is not installed: there is none {where}; npm install -g @anthropic-ai/claude-code")
        if found.lower().endswith((".cmd", ".bat")):
            raise BadCredentials(f"{found} is a batch file, which cannot take a prompt safely: give program= the claude.exe")
        return found

    def _completion(self, prompt: Prompt, told: Told, latency_s: float) -> Completion:
        llm = told.llm or self.llm(prompt)
        billed: Decimal | None
        if told.counted:
            usage, listed = told.used
            notional = None if self._own_prices else listed
            if notional is None:
                notional = self.prices.cost("anthropic", llm, usage, when=self._clock.now())
            billed = notional
        else:  # it was cut off: an answer that began may be billed as if it had ended
            usage, notional, billed = told.began or Usage(), None, self._worst_known(prompt)
        if self._flat_rate and not told.overage and not _unexpected_bill(told.key_source):
            billed = _ZERO
        return Completion(told.text, self.name, llm, usage, billed or _ZERO, notional, latency_s, told.request_id)

    def _worst_known(self, prompt: Prompt) -> Decimal:
        try:
            return self._worst_case(prompt)
        except (BudgetExceeded, MissingExtra):  # without a budget prices are not needed, so they may be missing
            return _ZERO


def _dialect(part: Any) -> Any:
    """Return a schema in words that the command line knows; what is lost is looked at by `Prompt.parse`."""
    if isinstance(part, list):
        return [_dialect(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept = {key: value for key, value in part.items() if key in _KEYWORDS}
    for key in ("properties", "$defs"):
        if key in kept:
            kept[key] = {name: _dialect(value) for name, value in kept[key].items()}
    for key in ("items", "anyOf", "additionalProperties"):
        if key in kept:
            kept[key] = _dialect(kept[key])
    if "prefixItems" in part:
        kept["items"] = {"anyOf": _dialect(part["prefixItems"])}
    return kept


def _unexpected_bill(key_source: str) -> str:
    if key_source == "none":
        return ""
    return (
        f"claude is logged in with an API key ({key_source}), so calls are billed: log in with the subscription, or say"
        " flat_rate=False"
    )
