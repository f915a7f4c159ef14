"""A provider of language models in virtual time, which knows what it has really billed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from agentfund.errors import BadCredentials, LLMError, LLMTimeout, Overloaded, RateLimited, Refused, UsageCapped
from agentfund.prompt import Completion, Prompt, Usage
from agentfund.testing.simulator.process import Killed, never

if TYPE_CHECKING:
    from agentfund.testing.simulator.faults import Fault
    from agentfund.testing.simulator.process import Process

Script = Callable[[Prompt], Any]

SLOWEST_S = 3.0
USAGE = Usage(input_tokens=800, output_tokens=60)


class Provider:
    """What was really asked and billed.

    Attributes:
        billed: amounts by the number of the process that has to pay.
        calls: how many questions arrived.
        asked: called with each question as it arrives.
    """

    def __init__(self, asked: Callable[[Process, Prompt], None]) -> None:
        self.billed: dict[int, Decimal] = {}
        self.calls = 0
        self.asked = asked

    def bill(self, process: Process, usd: Decimal) -> None:
        """Charge an answer."""
        self.billed[process.number] = self.billed.get(process.number, Decimal(0)) + usd


class SimulatedLLM:
    """A route to a language model that answers by a script, when a schedule lets it.

    Args:
        process: who asks.
        provider: what really happens.
        script: gives the value for a prompt, None to abstain; without one the prompt's rule twin answers, or nobody has an
            opinion.
        name: its name as a route.
        price_usd: what an answer costs, at most and in fact.
    """

    def __init__(
        self,
        process: Process,
        provider: Provider,
        script: Script | None = None,
        *,
        name: str = "simulated",
        price_usd: Decimal | str = "0.01",
    ) -> None:
        self.name = name
        self.llm = "simulated"
        self._process = process
        self._provider = provider
        self._script = script or _by_rule
        self._price = Decimal(price_usd)

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return the price of an answer."""
        return self._price

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer, or fail in one of the ways in which providers fail.

        Raises:
            LLMError: no usable answer.
        """
        process, truth = self._process, self._process.truth
        fault = process.begin("ask")
        self._provider.calls += 1
        self._provider.asked(process, prompt)
        number = self._provider.calls
        began = truth.seconds
        await asyncio.sleep(SLOWEST_S * truth.chance.random())
        if not process.alive:
            raise Killed
        if fault is not None and (error := self._refusal(fault)) is not None:
            raise error
        text = _text(self._script(prompt))
        self._provider.bill(process, self._price)
        process.end(fault)
        if fault is not None:
            text = await self._broken(fault, text)
        return self._completion(text, number, truth.seconds - began)

    def _completion(self, text: str, number: int, latency_s: float) -> Completion:
        return Completion(
            text, self.name, "simulated", USAGE, self._price, self._price, latency_s, request_id=f"{self.name}-{number}"
        )

    def _refusal(self, fault: Fault) -> LLMError | None:
        """Return the error of a provider that does no work and bills none."""
        match fault.kind:
            case "overloaded":
                return Overloaded("529: overloaded")
            case "rate_limited":
                return RateLimited("429", retry_after=fault.seconds)
            case "capped":
                return UsageCapped("the limit is used up", until=self._process.truth.wall + timedelta(seconds=fault.seconds))
            case "bad_key":
                return BadCredentials("401: no such key")
            case _:
                return None

    async def _broken(self, fault: Fault, text: str) -> str:
        """Return what arrives of an answer that was billed."""
        match fault.kind:
            case "hang":
                await never()
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "cut":
                raise LLMTimeout("the connection was cut")
            case "refuses":
                error = Refused("I would rather not")
                error.completion = self._completion("", self._provider.calls, 1.0)
                raise error
            case "garbage":
                return "As a language model \ud800 I cannot {"
            case "invalid":
                return '{"value": {"surprise": NaN}, "abstain": null}'
        return text


def _by_rule(prompt: Prompt) -> Any:
    return prompt.rule() if prompt.rule is not None else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseModel):
        return f'{{"value":{value.model_dump_json(by_alias=True)},"abstain":null}}'
    return '{"value":null,"abstain":"nothing to say"}'
