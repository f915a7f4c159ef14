"""Three markets, three rule strategies: each alone in a fund with its log, and then mixed into one portfolio."""

from datetime import timedelta

from agentfund import Backtest, MemoryBus, Orchestrator, PaperBroker
from agentfund.backtest import Mix, Sleeve
from agentfund.feeds import SimulatedMarket
from agentfund.strategies import DonchianBreakout, RsiReversion, SmaCross

hour = timedelta(hours=1)
markets = {
    "stocks": (SmaCross(), SimulatedMarket("STK", bars=3000, seed=11, interval=hour / 2)),
    "forex": (RsiReversion(), SimulatedMarket("FX", bars=6000, seed=12, interval=hour, sessions="forex")),
    "crypto": (DonchianBreakout(), SimulatedMarket("COIN", bars=8000, seed=13, interval=hour, sessions="24h")),
}

for name, (strategy, market) in markets.items():
    report = Backtest(Orchestrator([strategy], bus=MemoryBus()), market, PaperBroker(cash=100_000)).run()
    print(f"{name}: {strategy!r}")
    print(f"  {len(report.round_trips)} trades, {report.total_return:+.2%} after costs of {report.costs:,.2f}")

sleeves = [Sleeve(name, strategy, market) for name, (strategy, market) in markets.items()]
for weights in ("equal", "inverse_volatility", "risk_parity"):
    mix = Mix(sleeves, weights=weights, rebalance="month").run()
    print(f"{weights}: {mix.metrics['total_return']:+.2%}, volatility {mix.metrics['volatility']:.2%} a year")

print("None of this says anything about a real market: the three are simulated.")
