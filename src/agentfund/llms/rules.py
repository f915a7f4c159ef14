"""The rule twin as a route: plain code answers where language models cannot."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import BaseModel

from agentfund.errors import LLMUnavailable
from agentfund.prompt import Completion

if TYPE_CHECKING:
    from agentfund.prompt import Prompt


class Rules:
    """An LLM that is none: it answers by the asking agent's own rule, at once and for nothing.

    As the last route of a router it lets a fund go on when all language models are down. The answers are marked as
    degraded then, and no new position is opened on them.
    """

    name = "rules"
    rehearses = True  # plain code may answer in a rehearsal too

    async def complete(self, prompt: Prompt) -> Completion:
        """Return what the rule gives; None and an object with a `reason` are abstentions.

        Raises:
            LLMUnavailable: the agent has no rule, the rule failed, or it gave something of another type.
        """
        if prompt.rule is None:
            raise LLMUnavailable(f"{prompt.agent} has no rule twin: define rule(self, context) in its class")
        try:
            given = prompt.rule()
        except Exception as error:
            raise LLMUnavailable(f"the rule twin of {prompt.agent} failed: {type(error).__name__}: {error}") from error
        return Completion(_answer(prompt, given), self.name, "rule twin", notional_usd=Decimal(0))

    def worst_case_usd(self, prompt: Prompt) -> Decimal:
        """Return zero: plain code costs nothing."""
        return Decimal(0)


def _answer(prompt: Prompt, given: object) -> str:
    if isinstance(given, prompt.output):
        return f'{{"value":{given.model_dump_json(by_alias=True)},"abstain":null}}'
    if given is None:
        return '{"value":null,"abstain":"nothing to say"}'
    reason = getattr(given, "reason", None)
    if isinstance(reason, str) and not isinstance(given, BaseModel):
        return json.dumps({"value": None, "abstain": reason})
    raise LLMUnavailable(
        f"the rule twin of {prompt.agent} gave a {type(given).__name__}: it must give a {prompt.output.__name__},"
        " Abstain(reason) or None"
    )
