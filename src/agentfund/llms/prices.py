"""What tokens cost: the list prices of a maintained table, offline and exact, and one's own prices before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any

from agentfund.errors import BudgetExceeded, ConfigError, MissingExtra
from agentfund.market import decimal

if TYPE_CHECKING:
    from agentfund.prompt import Usage

_log = logging.getLogger("agentfund")

ADDED_TOKENS = 1024
"""Most tokens that a provider is taken to add to a prompt: the frame of a conversation, and words about the output schema."""

_EXACT = Context(prec=200)  # nothing is rounded: the 28 digits of the default context could
_ZERO = Decimal(0)
_HALF = Decimal("0.5")
_LISTED = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")  # the table's names, in the order of a Price
_NOT_COUNTED = ("requests_kcount", "input_text_mtok", "output_text_mtok", "output_reasoning_mtok")


@dataclass(frozen=True, slots=True, init=False)
class Price:
    """What a language model costs, in USD per million tokens.

    Args:
        input_usd: of what is read anew.
        output_usd: of what is written, thinking included.
        cached_usd: of what is read out of the provider's cache; as `input_usd` where it is not given.
        cache_write_usd: of what is put into it; as `input_usd` where it is not given.

    Raises:
        ConfigError: a price is not a number from zero up.
    """

    input_usd: Decimal
    output_usd: Decimal
    cached_usd: Decimal
    cache_write_usd: Decimal

    def __init__(
        self,
        input_usd: Decimal | float | str,
        output_usd: Decimal | float | str,
        cached_usd: Decimal | float | str | None = None,
        cache_write_usd: Decimal | float | str | None = None,
    ) -> None:
        given = {
            "input_usd": input_usd,
            "output_usd": output_usd,
            "cached_usd": input_usd if cached_usd is None else cached_usd,
            "cache_write_usd": input_usd if cache_write_usd is None else cache_write_usd,
        }
        for name, usd in given.items():
            object.__setattr__(self, name, _price(name, usd))

    def cost(self, usage: Usage) -> Decimal:
        """Return what a usage costs, exactly."""
        anew = max(usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens, 0)
        parts = (
            (anew, self.input_usd),
            (usage.cached_tokens, self.cached_usd),
            (usage.cache_write_tokens, self.cache_write_usd),
            (usage.output_tokens, self.output_usd),
        )
        total = _ZERO
        for tokens, usd in parts:
            total = _EXACT.fma(Decimal(tokens), usd, total)
        return _EXACT.scaleb(total, -6)

    def worst_case(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the most that so many tokens can cost, whether they are cached or not."""
        dearest = max(self.input_usd, self.cached_usd, self.cache_write_usd)
        total = _EXACT.fma(Decimal(input_tokens), dearest, _EXACT.multiply(Decimal(output_tokens), self.output_usd))
        return _EXACT.scaleb(total, -6)


_Tariff = tuple[tuple[int, Price], ...]
"""Prices by the size of the request: the last that fits, "more than so many input tokens", holds for the whole of it."""


class Prices:
    """What tokens cost at list price, without asking anybody: the table of the package `genai-prices`.

    It knows prices that changed on a day, and prices that rise for the whole request beyond so many input tokens. A cache
    write costs what the provider's usual time to live costs (5 minutes at Anthropic, 30 at OpenAI). A language model is
    looked up once for each UTC day.

    Args:
        table: one's own prices by the name of the language model; they win, and hold at all times and for all sizes.

    Raises:
        ConfigError: the table holds something else than names and prices.
    """

    def __init__(self, table: Mapping[str, Price] | None = None) -> None:
        self._own = dict(table or {})
        for name, price in self._own.items():
            if not isinstance(price, Price):
                raise ConfigError(
                    f'prices[{name!r}] is a {type(price).__name__}: write {{"{name}": Price(input_usd, output_usd)}}'
                )
        self._found: dict[tuple[str, str, date], _Tariff | None] = {}
        self._warned = False

    def __repr__(self) -> str:
        own = f", own prices of {', '.join(self._own)}" if self._own else ""
        return f"<Prices: the table of genai-prices{own}>"

    def cost(self, provider: str, llm: str, usage: Usage, *, when: datetime, batch: bool = False) -> Decimal | None:
        """Return what a call cost, in USD, exactly; None where no price is known.

        Args:
            provider: "anthropic" or "openai".
            llm: name of the language model.
            usage: tokens.
            when: time of the call.
            batch: whether it was part of a batch, which costs half.
        """
        try:
            tariff = self._tariff(provider, llm, when)
        except MissingExtra as error:  # the call is paid already: an error here would lose its usage
            if not self._warned:
                self._warned = True
                _log.warning("list prices are not known: %s", error)
            return None
        if tariff is None:
            return None
        price = next((price for beyond, price in reversed(tariff) if usage.input_tokens > beyond), tariff[0][1])
        cost = price.cost(usage)
        return _EXACT.multiply(cost, _HALF) if batch else cost

    def worst_case(self, provider: str, llm: str, prompt_bytes: int, max_output_tokens: int, *, when: datetime) -> Decimal:
        """Return the most that a call can cost, in USD.

        A token is at least one byte, so a prompt has no more tokens than bytes, and `ADDED_TOKENS` of the provider's. They
        are counted at the dearest of the prices of new, cached and stored input, and at the dearest price for a
        request of any size up to that.

        Args:
            provider: "anthropic" or "openai".
            llm: name of the language model.
            prompt_bytes: length of all that is sent, schema included, in UTF-8.
            max_output_tokens: most tokens that the answer can have, thinking included.
            when: time of the call.

        Raises:
            BudgetExceeded: no price is known.
            MissingExtra: the table is not installed, and there is no own price.
        """
        tariff = self._tariff(provider, llm, when)
        if tariff is None:
            raise BudgetExceeded(
                f"no price of the language model {llm!r} is known, so what a call can cost is not either: give it,"
                f' prices={{"{llm}": Price(input_usd=..., output_usd=...)}} in USD per million tokens'
            )
        most = prompt_bytes + ADDED_TOKENS
        return max(price.worst_case(most, max_output_tokens) for beyond, price in tariff if most > beyond)

    def _tariff(self, provider: str, llm: str, when: datetime) -> _Tariff | None:
        if llm in self._own:
            return ((-1, self._own[llm]),)
        key = (provider, llm, (when if when.tzinfo is None else when.astimezone(UTC)).date())
        if key not in self._found:
            self._found[key] = _listed(provider, llm, when)
        return self._found[key]


def _listed(provider: str, llm: str, when: datetime) -> _Tariff | None:
    """Look a language model up in the table; it takes a while."""
    try:
        from genai_prices import Usage as Tokens
        from genai_prices import calc_price
    except ImportError:
        raise MissingExtra("genai-prices", "prices") from None
    try:
        listed: Any = calc_price(Tokens(), llm, provider_id=provider, genai_request_timestamp=when).model_price
    except LookupError:
        return None
    if listed.input_mtok is None or listed.output_mtok is None or any(getattr(listed, part) for part in _NOT_COUNTED):
        return None  # it is billed by something that a usage does not tell
    rates = [getattr(listed, name) for name in _LISTED]
    starts = {tier.start for rate in rates for tier in getattr(rate, "tiers", ())}
    return tuple((beyond, Price(*(_rate(rate, beyond) for rate in rates))) for beyond in (-1, *sorted(starts)))


def _rate(listed: Any, beyond: int) -> Any:
    """Return the price of a request that reads more than so many tokens, None where the table has none."""
    if listed is None or isinstance(listed, Decimal):
        return listed
    return next((tier.price for tier in reversed(listed.tiers) if tier.start <= beyond), listed.base)


def _price(name: str, usd: Decimal | float | str) -> Decimal:
    try:
        price = decimal(usd)
    except ArithmeticError:
        price = Decimal("NaN")
    if not (price.is_finite() and price >= 0):
        raise ConfigError(f"{name} must be an amount of USD per million tokens from 0 up, not {usd!r}")
    return price
