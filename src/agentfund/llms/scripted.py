"""A language model that says what the script says: for tests, examples and drills."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import BaseModel

from agentfund.clock import SystemClock
from agentfund.errors import ConfigError, LLMUnavailable
from agentfund.market import decimal
from agentfund.prompt import Answer, Completion, Prompt, Usage

if TYPE_CHECKING:
    from agentfund.protocols import Clock

Line = BaseModel | str | BaseException | Completion | None
Script = Iterable[Line] | Callable[[Prompt], Line]


class ScriptedLLM:
    """Gives prepared answers in order and keeps every prompt that it saw.

    A record is a proper answer with that value, None an abstention, a string the raw text, whatever it is; an exception
    is raised, and a `Completion` is returned as it is.

    Args:
        answers: an iterable, a function of the prompt, or one of the two for each agent by name.
        name: its name as a route.
        latency_s: seconds that an answer takes, on the clock.
        price_usd: what an answer is billed; also the most that a call can cost.
        usage: tokens of an answer.
        clock: where the time comes from.

    Raises:
        ConfigError: the answers are a bare string or record; put them into a list.
    """

    def __init__(
        self,
        answers: Script | Mapping[str, Script],
        *,
        name: str = "scripted",
        latency_s: float = 0.0,
        price_usd: Decimal | float | str = 0,
        usage: Usage = Usage(),
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.prompts: list[Prompt] = []
        self._latency_s = latency_s
        self._price = decimal(price_usd)
        self._usage = usage
        self._clock = clock or SystemClock()
        self._agents = {agent: _lines(script) for agent, script in answers.items()} if isinstance(answers, Mapping) else None
        self._lines = _lines(answers) if not isinstance(answers, Mapping) else None

    async def complete(self, prompt: Prompt) -> Completion:
        """Give the next answer.

        Raises:
            LLMUnavailable: the script has no answer left, or none for this agent.
        """
        self.prompts.append(prompt)
        line = self._next(prompt)
        if self._latency_s:
            await self._clock.sleep(self._latency_s)
        if isinstance(line, BaseException):
            raise line.with_traceback(None)  # a script may raise the same object again and again
        if isinstance(line, Completion):
            return line
        return Completion(_text(line), self.name, self.name, self._usage, self._price, self._price, self._latency_s)

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return the price of an answer."""
        return self._price

    def _next(self, prompt: Prompt) -> Line:
        lines = self._lines
        if self._agents is not None:
            lines = self._agents.get(prompt.agent)
            if lines is None:
                known = ", ".join(sorted(self._agents)) or "nobody"
                raise LLMUnavailable(f"script {self.name!r} has no answers for {prompt.agent}, only for {known}")
        if callable(lines):
            return lines(prompt)
        try:
            return next(lines or iter(()))
        except StopIteration:
            asked = f"question {len(self.prompts)}, by {prompt.agent}"
            raise LLMUnavailable(f"script {self.name!r} has no answer left for {asked}: give it more") from None


def _lines(script: Script) -> Iterator[Line] | Callable[[Prompt], Line]:
    if isinstance(script, str | BaseModel) or not (callable(script) or isinstance(script, Iterable)):
        raise ConfigError(f"a script is a list of answers or a function of the prompt, not a {type(script).__name__}")
    return script if callable(script) else iter(script)


def _text(line: BaseModel | str | None) -> str:
    if isinstance(line, str):
        return line
    if isinstance(line, Answer):
        return line.model_dump_json(by_alias=True)
    if line is None:
        return json.dumps({"value": None, "abstain": "the script says nothing"})
    return f'{{"value":{line.model_dump_json(by_alias=True)},"abstain":null}}'
