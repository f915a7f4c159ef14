"""What would have been: a recorded run with one gate changed. Only that gate is asked; the log answers for the others."""

import asyncio

from agentfund import Backtest, Limits, MemoryBus, Orchestrator, PaperBroker, Snapshot, Verdict
from agentfund.feeds import SimulatedMarket
from agentfund.replays import Recorded, counterfactual, exact
from agentfund.specialists import RiskGate, desk

market = SimulatedMarket("SIM", bars=2500, seed=5)
bus = MemoryBus()  # or the log of a run of last year: SqliteBus("fund.db", read_only=True)
Backtest(Orchestrator(desk(), bus=bus), market, PaperBroker(cash=100_000)).run()


class Cautious(RiskGate):
    """The risk gate, which approves no entry while volatility is anything but low."""

    asked = 0

    def rule(self, context: Snapshot) -> Verdict:
        Cautious.asked += 1
        judged = super().rule(context)
        calm = "volatility low" in judged.reason or judged.reason.startswith("closing")
        return judged if calm else Verdict(approved=False, reason="the market is not calm")


async def main() -> None:
    run = await Recorded.read(bus)
    print(await exact(run, desk(), market), "\n")

    agents = [Cautious(name="risk_gate") if agent.name == "risk_gate" else agent for agent in desk()]
    print(await counterfactual(run, agents, market), "\n")
    print(f"the new gate was asked {Cautious.asked} times, and nobody else at all\n")

    tighter = await counterfactual(run, desk(), market, limits=Limits(max_order_pct=50), window=(1000, 2000))
    print(f"with smaller orders, in cycles {tighter.first} to {tighter.last}: {tighter.diff.counts}")
    print(f"{tighter.diff.recorded.profit:+,.2f} would have been {tighter.diff.replayed.profit:+,.2f}")
    if tighter.diff.first:
        print(f"because of {tighter.diff.first.cause}")


asyncio.run(main())
