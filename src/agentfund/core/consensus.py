"""From the gate agents' verdicts to one yes or no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentfund.errors import ConfigError
from agentfund.messages import Opinion, Stance
from agentfund.trading import Proposal, Verdict, View

if TYPE_CHECKING:
    from agentfund.core.agent import Agent


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate agents said together.

    Args:
        approved: whether the action may go on to the deterministic gate.
        decided_by: `consensus`, or the agent whose veto stood alone.
        reason: one sentence.
        vetoes: (agent, reason) of each that did not approve.
    """

    approved: bool
    decided_by: str
    reason: str
    vetoes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Consensus:
    """How many gate agents must approve. A gate that is unavailable or abstains counts as a no.

    Args:
        action: share that must approve an ordinary action, above 0 to 1.
        critical: share that must approve a critical one.
        critical_scale: a proposal with a larger `position_scale` is critical.
    """

    action: float = 2 / 3
    critical: float = 1.0
    critical_scale: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.action <= 1 and 0 < self.critical <= 1):
            raise ConfigError(f"consensus shares must be above 0 and at most 1: {self}")

    def is_critical(self, proposal: Proposal) -> bool:
        """Whether a proposal needs the larger share."""
        return proposal.position_scale > self.critical_scale

    def judge(
        self, gates: Sequence[Agent[Any]], opinions: Mapping[str, Opinion], proposal: Proposal, first: str = ""
    ) -> Judgement:
        """Return what the gates say to a proposal; no gates at all is a no.

        `first` is the instrument that a proposal or a view means when it names none.
        """
        vetoes: list[tuple[str, str]] = []
        standing = ""
        for gate in gates:
            why = _objection(opinions.get(gate.name), proposal, first)
            if why:
                vetoes.append((gate.name, why))
                standing = standing or (gate.name if gate.veto else "")
        approvals = len(gates) - len(vetoes)
        needed = self.critical if self.is_critical(proposal) else self.action
        if standing:
            return Judgement(False, standing, dict(vetoes)[standing], tuple(vetoes))
        # The small allowance keeps 2 of 3 from missing two thirds by a rounding error.
        if not gates or approvals / len(gates) < needed - 1e-9:
            who = "; ".join(f"{name}: {why}" for name, why in vetoes) or "there is no gate"
            return Judgement(False, "consensus", f"{approvals} of {len(gates)} gates approve ({who})", tuple(vetoes))
        return Judgement(True, "consensus", f"{approvals} of {len(gates)} gates approve", tuple(vetoes))


def _objection(opinion: Opinion | None, proposal: Proposal, first: str) -> str:
    """Return why an opinion is not a yes, empty when it is one."""
    if opinion is None:
        return "was not asked"
    if opinion.stance is not Stance.VALUE:
        return f"{opinion.stance}: {opinion.reason}"
    value = opinion.value
    if isinstance(value, Verdict):
        return "" if value.approved else value.reason or "no reason given"
    if isinstance(value, View):
        if (value.symbol or first) != (proposal.symbol or first):
            return f"looked at {value.symbol or first}, not at {proposal.symbol or first}"
        if value.direction is proposal.direction:
            return ""
        return f"would be {value.direction}, not {proposal.direction}" + (f": {value.reason}" if value.reason else "")
    return f"gave a {opinion.output}, not a verdict"
