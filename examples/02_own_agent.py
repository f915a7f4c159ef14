"""Agents of one's own: a function, a gate, and a role card with a language model.

The language model here is scripted, so that the example runs offline; put any route in its place.
"""

from agentfund import (
    Abstain,
    Agent,
    Backtest,
    Direction,
    MemoryBus,
    Orchestrator,
    PaperBroker,
    Prompt,
    Proposal,
    Record,
    Router,
    Snapshot,
    Verdict,
    agent,
)
from agentfund.feeds import SimulatedMarket
from agentfund.llms import ScriptedLLM
from agentfund.specialists import FactChecker, Regime, RegimeClassifier


@agent(reads=(Regime,))  # a function: its return annotation is the output type
def momentum(context: Snapshot) -> Proposal | Abstain:
    rise = context.bars.close[-1] / context.bars.close[-20] - 1
    calm = not context.portfolio.positions and context.latest(Regime).trend.direction is Direction.LONG
    return Proposal(direction=Direction.LONG, stop_pct=2, target_pct=4) if calm and rise > 0.01 else Abstain("not now")


class Crowding(Record):
    """How crowded the trade is, 0 to 1."""

    score: float
    reason: str


class CrowdReader(Agent[Crowding]):  # with a language model: a role card is all it takes
    instructions = "Say how crowded a long position is, from 0 (empty) to 1 (everybody is in), by price and volume."
    reads = (Proposal,)


class CrowdGate(Agent[Verdict]):  # a gate: it gives a Verdict, and its no is a veto
    reads = (Crowding,)

    def rule(self, context: Snapshot) -> Verdict:
        crowding = context.latest(Crowding)
        return Verdict(approved=crowding.score < 0.8, reason=f"crowding {crowding.score:.2f}, {crowding.reason}")


def crowd(prompt: Prompt) -> Crowding:
    """Answer in the place of a language model: it is shown numbers, and gives a typed value."""
    shown = prompt.inputs["market"]["SIM"]
    return Crowding(score=min(1.0, shown["volume"] / (2 * shown["volume_mean_20"])), reason="by volume")


llm = Router([ScriptedLLM(crowd, price_usd="0.002")], budget_usd_per_day=1)
fund = Orchestrator(
    [RegimeClassifier(), momentum, CrowdReader(llm), CrowdGate(), FactChecker()],
    bus=MemoryBus(),
)
report = Backtest(fund, SimulatedMarket("SIM", bars=3000, seed=7), PaperBroker(cash=100_000)).run()
print(report)
