"""An agent that lives in another process, in its place in the pipeline."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from agentfund.core.agent import Abstain, Agent, Given
from agentfund.core.ledger import record
from agentfund.errors import ConfigError, LLMUnavailable
from agentfund.messages import Call, Stance, stable_id
from agentfund.rpc import gate_pb2 as pb
from agentfund.rpc.link import MAX_BYTES, RISK, Link, NoAnswer, Tls
from agentfund.rpc.questions import dump_question, load_answer
from agentfund.secrets import scrub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfund.core.context import Snapshot
    from agentfund.market import Market
    from agentfund.messages import Opinion
    from agentfund.trading import Portfolio

Output = TypeVar("Output", bound=BaseModel)
_JUDGE = f"/{RISK}/Judge"
_RULES = "rules"


class RemoteAgent(Agent[Output]):
    """An agent that a `GateServer` hosts: `RemoteAgent(RiskGate(), "127.0.0.1:50051")` stands where `RiskGate()` stood.

    What it reads, whether it has a veto and what it gives is declared here, by an agent of the same name; it is never run
    here. No answer in time is an unavailable opinion, which approves nothing. The fund's safety wrapper judges the answer.

    Args:
        declared: says what it reads and gives. Its class needs no rule and no language model.
        address: `host:port` of the server, or `unix:/path` of a socket on this machine.
        timeout: how long an answer may take.
        tls: certificates. Without them the server has to be on this machine.
        insecure: allows plaintext to elsewhere.
        bars: most bars of an instrument that it is shown.
        same_code: whether the server must host the very code that is declared here.
        max_bytes: largest question and largest answer.

    Raises:
        ConfigError: the address is none, it would need TLS, a certificate cannot be read, or the agent reads text from outside.
    """

    def __init__(
        self,
        declared: Agent[Output],
        address: str,
        *,
        timeout: timedelta = timedelta(seconds=30),
        tls: Tls | None = None,
        insecure: bool = False,
        bars: int = 500,
        same_code: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if type(declared).untrusted is not Agent.untrusted:
            raise ConfigError(f"{declared.name} reads text from outside: it cannot be asked from afar")
        if bars < 1:
            raise ConfigError(f"bars={bars}: {declared.name} needs to see at least one bar")
        for trait in ("instructions", "reads", "when", "veto", "needs_gate", "sees_portfolio", "task", "tier"):
            setattr(self, trait, getattr(declared, trait))
        super().__init__(name=declared.name)
        self.every = declared.every
        self.output = declared.output
        self._declared = declared
        self._bars = bars
        self._code = declared.digest if same_code else ""
        self._link = Link(address, timeout, tls=tls, insecure=insecure, max_bytes=max_bytes)

    def __repr__(self) -> str:
        return f"<RemoteAgent {self.name!r} at {self._link.address}>"

    @property
    def digest(self) -> str:
        """A hash of what is declared; where the agent lives may change."""
        return stable_id("remote", self._declared.digest)[:16]

    def due(self, market: Market, cycle: int, portfolio: Portfolio) -> bool:
        """Return whether it is asked at this bar, by the word of the agent that is declared."""
        return self._declared.due(market, cycle, portfolio)

    async def run(self, context: Snapshot) -> Given[Output]:
        """Ask the server.

        Raises:
            LLMUnavailable: it did not answer, or the agent could not.
        """
        request = dump_question(
            self.name, self.output.__name__, context, self._bars, code=self._code, nonce=os.urandom(16)
        ).SerializeToString()
        try:
            opinion, calls = self._opinion(await self._link.ask(_JUDGE, request), request)
        except NoAnswer as error:
            raise LLMUnavailable(scrub(str(error))) from None
        for call in _rows(opinion, calls):
            record(call)
        if opinion.stance is Stance.UNAVAILABLE:
            raise LLMUnavailable(opinion.reason)
        if opinion.stance is Stance.ABSTAINS:
            return Abstain(opinion.reason)
        value: Output = opinion.value
        return value

    def close(self) -> None:
        """Let go of the connection; what is asked afterwards is unavailable."""
        self._link.close()

    def _opinion(self, raw: bytes, request: bytes) -> tuple[Opinion, Sequence[Call]]:
        try:
            reply = pb.JudgeReply.FromString(raw)
            opinion, calls = load_answer(reply, self.output)
        except Exception as error:
            raise NoAnswer(f"{self._link.address} gave no {self.output.__name__}: {error}") from None
        if reply.request_sha256 != hashlib.sha256(request).digest():
            raise NoAnswer(f"{self._link.address} gave an answer that is none to this question")
        other = (opinion.agent, opinion.output) != (self.name, self.output.__name__)
        if other and opinion.stance is not Stance.UNAVAILABLE:
            raise NoAnswer(f"{self._link.address} answered for {opinion.agent}, {opinion.output}")
        return opinion, calls


def _rows(opinion: Opinion, calls: Sequence[Call]) -> list[Call]:
    """Return the ledger rows from which the fund's wrapper reads who answered, and whether only a rule could."""
    if not opinion.degraded:
        return [call for call in calls if call.route != _RULES]
    return [*calls, Call(opinion.agent, _RULES, _RULES, "ok")] if not _by_rules(calls) else list(calls)


def _by_rules(calls: Sequence[Call]) -> bool:
    return next((call.route for call in reversed(calls) if call.outcome == "ok"), "") == _RULES
