"""What the routes by API have in common: keys, tiers, prices, and one request for each call."""

from __future__ import annotations

import copy
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, get_args
from urllib.parse import urlsplit

from agentfund.clock import SystemClock
from agentfund.errors import BadCredentials, BudgetExceeded, ConfigError, LLMError, MissingExtra
from agentfund.llms.batches import Batches, ask_many
from agentfund.llms.clients import AnyClient, Clients
from agentfund.llms.exchange import Failed, Got, Response, Send, fetch
from agentfund.llms.layout import system_text, user_text
from agentfund.llms.prices import Price, Prices
from agentfund.prompt import Completion, Prompt, Tier, Usage
from agentfund.secrets import Secret

if TYPE_CHECKING:
    from agentfund.protocols import Clock

_ZERO = Decimal(0)
_LONGEST_NAME = 100
_PORTS = {"http": 80, "https": 443}


class ApiRoute(ABC, Generic[AnyClient]):
    """What the routes by API have in common; each adds the wire form.

    Args:
        name: its name in ledgers.
        provider: "anthropic" or "openai", as price tables call it.
        llms: language models by tier.
        module: name of the SDK.
        make: makes a client of a key.
        variable: the environment variable that holds the key.
        api_key: the key; None takes it from the environment, where the provider's own server is asked.
        base_url: another server than the provider's own.
        free: whether calls cost nothing; such a server needs no key.
        prices: one's own prices.
        settings: what an answer depends on beside the prompt and the language model; the server is added.
        max_output_tokens: instead of the prompt's.
        timeout_s: seconds that a call may take.
        clock: where the time comes from.

    Raises:
        ConfigError: the address, the time or the key is none.
    """

    def __init__(
        self,
        name: str,
        provider: str,
        llms: Mapping[Tier, str],
        *,
        module: str,
        make: Callable[[str], AnyClient],
        variable: str,
        api_key: str | Secret | None,
        base_url: str | None,
        free: bool,
        prices: Prices | Mapping[str, Price] | None,
        settings: str,
        max_output_tokens: int | None,
        timeout_s: float,
        clock: Clock | None,
    ) -> None:
        if not 0 < timeout_s < float("inf"):
            raise ConfigError(f"timeout_s must be a positive number of seconds, not {timeout_s}")
        if max_output_tokens is not None and max_output_tokens < 1:
            raise ConfigError(f"max_output_tokens must be at least 1, not {max_output_tokens}")
        self.name = name
        self.adds = ""
        self.settings = settings if base_url is None else f"{settings},{address(base_url)}"
        self._provider = provider
        self._llms = llms
        self._module = module
        self._variable = variable
        self._own = base_url is None
        self.free = free
        self.prices = prices if isinstance(prices, Prices) else Prices(prices)
        self._max_output_tokens = max_output_tokens
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._key = Secret(api_key) if isinstance(api_key, str) else api_key
        self._clients = Clients(module, lambda: make(self._found_key().reveal()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {', '.join(dict.fromkeys(self._llms.values()))}>"

    def llm(self, prompt: Prompt) -> str:
        """Return the language model that a prompt goes to."""
        return self._llms[prompt.tier]

    async def check(self) -> str:
        """Return why it cannot be used here, with the fix; empty where it can. Nothing is sent."""
        return self._trouble()

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return the most that a prompt can be billed: every byte of it a token, and an answer as long as it may be.

        Raises:
            BudgetExceeded: no price is known.
            MissingExtra: no price table is installed, and no own price given.
        """
        if self.free:
            return _ZERO
        texts = (system_text(prompt, with_schema=True), user_text(prompt))
        sent = sum(len(text.encode()) for text in texts)
        now = self._clock.now()
        return self.prices.worst_case(self._provider, self.llm(prompt), sent, self._most_tokens(prompt), when=now)

    async def complete_many(
        self, prompts: Sequence[Prompt], *, poll_s: float = 30.0, deadline_s: float = 86_400.0
    ) -> list[Completion | LLMError]:
        """Ask many questions as a batch, which costs half and may take hours; return an answer or an error for each, in order.

        It looks at the provider's batch every `poll_s` seconds. After `deadline_s`, and when it is cancelled, the batch is
        cancelled too, as far as the provider can be reached; what was answered until then is billed.

        Args:
            prompts: the questions.
            poll_s: seconds between two looks.
            deadline_s: most seconds that it waits for all.
        """
        found: dict[int, Completion | LLMError] = {}
        requests: dict[int, dict[str, Any]] = {}
        trouble = self._trouble()
        for number, prompt in enumerate(prompts):
            try:
                if trouble:
                    raise BadCredentials(trouble)
                requests[number] = self._wire(prompt)
            except LLMError as error:
                found[number] = error
        began = self._clock.monotonic()
        wire = self._batches(self._fetch_one)
        answers = await ask_many(wire, requests, poll_s=poll_s, deadline_s=deadline_s, clock=self._clock)
        waited_s = self._clock.monotonic() - began
        for number, got in answers.items():
            if isinstance(got, Failed):  # one failure may be that of many questions, and each has its own price
                failed = Failed(copy.copy(got.error), got.billed)
                found[number] = self._error(prompts[number], failed, waited_s, batch=True)
                continue
            try:
                found[number] = self._answer(prompts[number], got)
            except LLMError as error:
                found[number] = error
        return [found[number] for number in range(len(prompts))]

    async def close(self) -> None:
        """Let go of the running loop's connections; they are closed by themselves when the loop ends."""
        await self._clients.close()

    def _most_tokens(self, prompt: Prompt) -> int:
        return self._max_output_tokens or prompt.max_output_tokens

    async def _ask(self, prompt: Prompt, send: Callable[[AnyClient], AbstractAsyncContextManager[Response]]) -> Got:
        """Send one request and return what came.

        Raises:
            LLMError: whatever went wrong; what may have been billed is attached at its worst case.
        """
        if trouble := self._trouble():
            raise BadCredentials(trouble)
        began = self._clock.monotonic()
        got = await self._fetch_one(send)
        if isinstance(got, Failed):
            raise self._error(prompt, got, self._clock.monotonic() - began)
        return got

    async def _fetch_one(self, send: Send, **how: Any) -> Got | Failed:
        return await fetch(self._clients, send, timeout_s=self._timeout_s, clock=self._clock, **how)

    @abstractmethod
    def _wire(self, prompt: Prompt) -> dict[str, Any]:
        """Return the request for a prompt."""

    @abstractmethod
    def _answer(self, prompt: Prompt, got: Got) -> Completion:
        """Read a response to a prompt."""

    @abstractmethod
    def _batches(self, fetch: Callable[..., Any]) -> Batches:
        """Return the provider's way to take batches."""

    def _error(self, prompt: Prompt, failed: Failed, latency_s: float, *, batch: bool = False) -> LLMError:
        if failed.billed:
            llm, usd = self.llm(prompt), self._worst_known(prompt)
            usd = usd / 2 if batch else usd
            failed.error.completion = Completion("", self.name, llm, billed_usd=usd, latency_s=latency_s)
        return failed.error

    def _completion(self, prompt: Prompt, text: str, answered: object, usage: Usage | None, got: Got) -> Completion:
        """Return the answer with its price; without a usage it is booked at the most that it can have cost."""
        asked = self.llm(prompt)
        llm = answered if isinstance(answered, str) and answered else asked
        billed: Decimal | None = _ZERO
        notional: Decimal | None = _ZERO
        if not self.free:
            notional = None
            if usage is not None:
                now = self._clock.now()
                for known in dict.fromkeys((asked, llm)):  # first the name that one's own prices and the worst case go by
                    if notional is None:
                        notional = self.prices.cost(self._provider, known, usage, when=now, batch=got.batch)
            billed = self._worst_known(prompt) if usage is None else notional
        return Completion(text, self.name, llm, usage or Usage(), billed or _ZERO, notional, got.latency_s, got.request_id)

    def _worst_known(self, prompt: Prompt) -> Decimal:
        try:
            return self.worst_case_usd(prompt)
        except (BudgetExceeded, MissingExtra):  # without a budget prices are not needed, so they may be missing
            return _ZERO

    def _found_key(self) -> Secret:
        if not self._key:
            if self.free and not self._own:
                self._key = Secret("unused")
            elif self._own:
                self._key = Secret(os.environ.get(self._variable, ""))
        return self._key or Secret("")

    def _trouble(self) -> str:
        if self._module not in sys.modules and find_spec(self._module) is None:
            return f"{self._module} is not installed: pip install {self._module}"
        key = self._found_key().reveal()
        if not key:
            if self._own:
                return f"{self._variable} is not set: set it, or give api_key"
            return f"there is no key for base_url: give api_key; {self._variable} goes to the provider's own server only"
        if not (key.isascii() and key.isprintable() and " " not in key):
            return "the key holds characters that no key has: copy it once more"
        return ""


def by_tier(llm: str | Mapping[Tier, str] | None, usual: Mapping[Tier, str]) -> dict[Tier, str]:
    """Return a language model for each tier: one name for all, or the usual ones with some replaced.

    Raises:
        ConfigError: there is no such tier, or the name is empty or looks like a key.
    """
    tiers: tuple[Tier, ...] = get_args(Tier)
    given = dict.fromkeys(tiers, llm) if isinstance(llm, str) else dict(llm or {})
    for tier, name in given.items():
        if tier not in tiers:
            told = "what was given" if _like_a_key(tier) else repr(tier)
            raise ConfigError(f"llm: {told} is no tier; the tiers are {', '.join(tiers)}")
        if not isinstance(name, str) or not name:
            told = "an empty name" if isinstance(name, str) else f"a {type(name).__name__}"
            raise ConfigError(f"llm: {tier} needs the name of a language model, not {told}")
        if _like_a_key(name):
            raise ConfigError(
                f"llm: what is given for {tier} looks like a key or a sentence and not like the name of a language model:"
                " give a key as api_key"
            )
    return {**usual, **given}


def _like_a_key(name: object) -> bool:
    """Names stand in reprs and tables, so a key that was put in the place of one must be neither taken nor quoted."""
    text = str(name)
    return text.lower().startswith("sk-") or len(text) > _LONGEST_NAME or any(letter.isspace() for letter in text)


def address(url: str, what: str = "base_url") -> str:
    """Return a server's host and port as a setting that answers depend on, such as `url=127.0.0.1:8001`.

    Args:
        url: its address; neither a password nor a path of it is returned.
        what: how the user calls it.

    Raises:
        ConfigError: it is no address.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        host, port = "", None
    if not host or port is None:
        raise ConfigError(f"{what} must be an address such as http://127.0.0.1:8001")
    return f"url={f'[{host}]' if ':' in host else host}:{port}"


def count(told: object, *names: str) -> int:
    """Return the number of tokens under a path of names, zero where there is none."""
    for name in names:
        told = told.get(name) if isinstance(told, Mapping) else None
    return told if isinstance(told, int) and not isinstance(told, bool) and told > 0 else 0
