"""A hybrid: plain rules propose, a language model judges, and the report says what its vetoes saved or cost.

Everything runs offline here: a small server of `agentfund.testing` stands in for a local one such as Ollama or vLLM.
"""

import json

from agentfund import Backtest, MemoryBus, Orchestrator, PaperBroker, Router
from agentfund.feeds import SimulatedMarket
from agentfund.llms import OpenAI
from agentfund.specialists import RegimeClassifier, RiskGate
from agentfund.strategies import SmaCross
from agentfund.testing import Provider

market = SimulatedMarket("SIM", bars=900, seed=3)

# The rules look at every bar; the classifier, by its rule twin, at every sixteenth. The model is asked about proposals only.
regime = RegimeClassifier()
regime.every = 16

judged = {True: "the stop is within what may be lost", False: "the move is too old"}
answers = [
    json.dumps({"value": {"approved": yes, "reason": judged[yes]}, "abstain": None}) for yes in [True, True, False] * 200
]
with Provider(answers) as server:
    model = Router([OpenAI("qwen3", base_url=f"{server.url}/v1", api="chat", name="local")])
    fund = Orchestrator([regime, SmaCross(stop_pct=1.0, target_pct=2.0), RiskGate(model)], bus=MemoryBus())
    report = Backtest(fund, market, PaperBroker(cash=100_000)).run()

print(report)
print(f"asked {report.llm_calls} times in {report.cycles} bars; {report.vetoes} vetoes, {len(report.round_trips)} trades")
