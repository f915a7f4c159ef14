"""Yesterday's decisions: any past moment of a fund, rebuilt from its log alone."""

import asyncio
from pathlib import Path

from agentfund import Backtest, Decision, Orchestrator, PaperBroker, SharedContext, SqliteBus, journal
from agentfund.feeds import SimulatedMarket
from agentfund.messages import Decided, Message
from agentfund.specialists import Regime, desk

log = Path("out/replay/fund.db")
log.parent.mkdir(parents=True, exist_ok=True)
Backtest(Orchestrator(desk(), bus=SqliteBus(log)), SimulatedMarket("SIM", bars=2500, seed=7), PaperBroker(cash=100_000)).run()


async def read(path: Path) -> list[Message]:
    """Read the log as another process would: without touching it."""
    bus = SqliteBus(path, read_only=True)
    try:
        return [message async for message in bus.read()]
    finally:
        await bus.close()


messages = asyncio.run(read(log))
decisions: list[Decision] = [event.decision for m in messages if isinstance(event := m.event, Decided)]
chosen = decisions[len(decisions) // 2]

context = SharedContext({"Regime": Regime})
context.apply(m for m in messages if m.cycle <= chosen.cycle)
state = context.state
print(f"{chosen.time:%Y-%m-%d %H:%M} UTC: {chosen.outcome} by {chosen.decided_by}, {chosen.reason}")
print(f"equity {state.equity:,.2f}, drawdown {state.drawdown:.2%}, held {dict(state.portfolio.positions) or 'nothing'}")
print(f"the regime then: {context.latest(Regime).trend}")
for opinion in state.current.values():
    print(f"  {opinion.agent} ({opinion.answered_by}): {opinion.stance} {opinion.reason}")

print("\n" + journal(m for m in messages if m.cycle == chosen.cycle))
