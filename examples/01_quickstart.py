"""A desk of six agents over a simulated market: no key, no network, a report at the end."""

from pathlib import Path

from agentfund import Backtest, Orchestrator, PaperBroker, SqliteBus
from agentfund.feeds import SimulatedMarket
from agentfund.specialists import DoubleChecker, FactChecker, JournalWriter, RegimeClassifier, RiskGate, Strategist

out = Path("out/quickstart")
out.mkdir(parents=True, exist_ok=True)

fund = Orchestrator(
    [
        RegimeClassifier(),  # without a language model each specialist answers by its rule twin
        Strategist(),
        RiskGate(),
        FactChecker(),
        DoubleChecker(),
        JournalWriter(),
    ],
    bus=SqliteBus(out / "fund.db"),
)
report = Backtest(fund, SimulatedMarket("SIM", bars=3000, seed=7), PaperBroker(cash=100_000)).run()
report.save(out)
print(report)
print(f"\nLook at {out / 'report.html'}; run this again and it reads the log instead of asking anybody.")
