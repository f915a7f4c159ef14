"""From no key to a local language model, to subscriptions and APIs: one router, what it costs, and a run repeated for nothing.

Everything runs offline here: a small server of `agentfund.testing` stands in for a local one such as Ollama or vLLM. To use
your own, give its address as `base_url`.
"""

import asyncio
import json

from agentfund import Backtest, Ledger, MemoryBus, Orchestrator, PaperBroker, Router
from agentfund.feeds import SimulatedMarket
from agentfund.llms import Anthropic, ClaudeCLI, CodexCLI, OpenAI, RecordedLLM, Rules
from agentfund.protocols import LLM
from agentfund.specialists import desk
from agentfund.testing import Fault, Provider

market = SimulatedMarket("SIM", bars=30, seed=7)


def run(llm: LLM | None) -> Ledger:
    """Run the desk over the market; return what was asked and what it cost."""
    bus = MemoryBus()
    Backtest(Orchestrator(desk(llm), bus=bus), market, PaperBroker()).run()

    async def rows() -> Ledger:
        return Ledger.of([message async for message in bus.read()])

    return asyncio.run(rows())


# 1. No key, no account: each agent answers by its rule.
print("rules:", run(None))

# 2. A language model on this machine: no key, no bill.
abstains = json.dumps({"value": None, "abstain": "the numbers do not decide"})
with Provider(abstains) as server:
    local = OpenAI("qwen3", base_url=f"{server.url}/v1", api="chat", name="local")
    print("local:", run(Router([local])))

    # 3. Subscriptions first, then APIs, then the local one; where nobody answers, the rules. Nothing beyond 2 USD a day.
    for route in (ClaudeCLI(), CodexCLI(), Anthropic(), OpenAI()):
        print(f"  {route.name}: {asyncio.run(route.check()) or 'can be used here'}")

    # What is not usable here is left out, so that this example asks nobody but the local server.
    router = Router([local, Rules()], budget_usd_per_day=2)

    # 4. Recorded once, the run is repeated without a call: with the server down, and for nothing.
    print(run(RecordedLLM("cassette.db", router)).as_text("route"))
    asked = len(server.requests)
    server.fail(Fault.http(503))
    again = run(RecordedLLM("cassette.db", router, "replay"))
    print(f"replayed: {len(again)} answers, {len(server.requests) - asked} requests, {again.billed_usd} USD")
